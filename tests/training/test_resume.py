"""A resumed run equals the uninterrupted one, unlike with stock's `restore_path`."""

import re
import shutil
import signal
import time

import processes
import pytest
import torch
from checkpoints import as_stock_lays_it_out, at_step, edited
from networks import base_weights
from processes import Script
from runs import (
    RECIPE,
    STEPS,
    UNINTERRUPTED,
    as_flag,
    base_rows,
    checkpoint,
    model_and_config,
    only_run,
    require_equal,
    require_same_run,
    stock_run,
)
from samples import make_sample
from trainer import Trainer, TrainerArgs

from xtts_extend.data.manifest import read_manifests
from xtts_extend.errors import CheckpointError
from xtts_extend.run.metrics import read_metrics
from xtts_extend.training.trainer import ResumableTrainer


def test_contents_of_a_run_folder(uninterrupted, corpus):
    names = {file.name for file in uninterrupted.iterdir()}
    assert {"checkpoint_4.pth", "checkpoint_8.pth", "checkpoint_12.pth", "vocab.json", "config.json"} <= names
    steps, evaluations = read_metrics(uninterrupted)
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["epoch"] for line in steps] == [0] * 6 + [1] * 6
    assert [line["step"] for line in evaluations] == [0, 4, 6, 8, 12]
    assert {line["language"] for line in evaluations} == {"am"}
    recordings = [row.split("|")[0] for row in corpus.train.read_text(encoding="utf-8").splitlines()[1:]]
    for epoch in (steps[:6], steps[6:]):
        assert sorted(name for line in epoch for name in line["samples"]) == sorted(recordings)
    assert steps[0]["samples"] != steps[6]["samples"]
    for line in steps:
        assert line["loss"] == pytest.approx(line["loss_text_ce"] + line["loss_mel_ce"], rel=1e-6)
    # The warm-up starts at a thousandth and ends after six steps.
    assert steps[0]["learning_rate"] == pytest.approx(1e-6)
    assert [line["learning_rate"] for line in steps[6:]] == pytest.approx([1e-3] * 6)


@pytest.mark.parametrize(
    ("stop", "workers"),
    [
        pytest.param(4, 0, id="after an evaluation"),
        pytest.param(3, 2, id="within an epoch, resumed with workers", marks=pytest.mark.slow),
        pytest.param(6, 0, id="at an epoch's end", marks=pytest.mark.slow),
        pytest.param(11, 0, id="before the last step", marks=pytest.mark.slow),
    ],
)
def test_resumed_is_uninterrupted(uninterrupted, corpus, recipe, tmp_path, stop, workers):
    recipe(corpus.flags(output_dir=tmp_path, max_steps=stop, **UNINTERRUPTED))
    run = only_run(tmp_path)
    recipe(["--checkpoint", run, "--max-steps", 1000, "--num-workers", workers])
    assert only_run(tmp_path) == run
    require_same_run(run, uninterrupted, STEPS)


@pytest.mark.slow
def test_resumed_within_an_accumulation(corpus, recipe, tmp_path):
    flags = {"grad_accum_steps": 4, "val_manifest": None}
    recipe(corpus.flags(output_dir=tmp_path / "a", **flags))
    # Step 3 is inside an accumulation, so the run stops at step 4. Epochs have 4 + 2 batches.
    recipe(corpus.flags(output_dir=tmp_path / "b", max_steps=3, **flags))
    run = only_run(tmp_path / "b")
    assert (run / "checkpoint_4.pth").is_file()
    recipe(["--checkpoint", run / "checkpoint_4.pth", "--max-steps", 1000])
    require_same_run(run, only_run(tmp_path / "a"), STEPS)


@pytest.mark.slow
def test_resume_of_a_resume_and_from_the_best_model(uninterrupted, corpus, recipe, tmp_path):
    recipe(corpus.flags(output_dir=tmp_path, max_steps=2, **UNINTERRUPTED))
    run = only_run(tmp_path)
    recipe(["--checkpoint", run, "--max-steps", "9"])
    assert (run / "best_model_8.pth").is_file()
    recipe(["--checkpoint", run / "best_model_8.pth", "--max-steps", 1000])
    require_same_run(run, uninterrupted, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_real_signal(uninterrupted, corpus, tmp_path, number, code):
    """A process is stopped in the middle of the second epoch, and another one resumes."""
    flags = corpus.flags(output_dir=tmp_path, **UNINTERRUPTED)
    output = tmp_path / "log"
    process = Script(RECIPE, *flags, "--coqpit.print_step=1", output=output)
    while "step 7/12" not in process.text:
        assert not process.ended, process.text
        time.sleep(0.02)
    process.send(number)
    assert process.wait() == code, process.text
    run = only_run(tmp_path)
    stopped = int(re.search(r"Stopped at step (\d+)", process.text).group(1))
    assert 7 <= stopped < STEPS
    assert (run / f"checkpoint_{stopped}.pth").is_file()

    resumed = processes.run(RECIPE, "--checkpoint", run, output=tmp_path / "log again").text
    assert f"Continuing after step {stopped} (epoch 1, batch {stopped - 6}) with learning rate 0.001." in resumed
    first = re.search(r"step (\d+)/12", resumed).group(1)
    assert int(first) == stopped + 1
    require_same_run(run, uninterrupted, STEPS)


@pytest.mark.slow
def test_a_kill_resumes_from_the_last_checkpoint(uninterrupted, corpus, tmp_path, recipe):
    flags = corpus.flags(output_dir=tmp_path, **UNINTERRUPTED)
    process = Script(RECIPE, *flags, output=tmp_path / "log")
    while not list(tmp_path.glob("*/checkpoint_4.pth")):
        assert not process.ended, process.text
        time.sleep(0.02)
    process.send(signal.SIGKILL)
    process.wait()
    recipe(["--checkpoint", str(only_run(tmp_path))])
    require_same_run(only_run(tmp_path), uninterrupted, STEPS)


def test_stock_restarts_at_step_0_and_ours_resumes(uninterrupted, corpus, trainer_of, tmp_path):
    """Both trainers get the same checkpoint as `restore_path`."""
    file = uninterrupted / "checkpoint_8.pth"
    saved = checkpoint(uninterrupted, 8)

    model, config = model_and_config(uninterrupted)
    # Our files do not contain the parts that never train, so stock falls back to a partial load.
    stock = Trainer(
        TrainerArgs(restore_path=str(file)), config, output_path=tmp_path / "stock", model=model,
        train_samples=[sample.to_coqui() for sample in read_manifests([str(corpus.train)], "am")], eval_samples=[],
        parse_command_line_args=False,
    )  # fmt: skip
    assert stock.total_steps_done == 0
    assert stock.epochs_done == 0
    assert len(stock.optimizer[0].state) == 0
    assert stock.scheduler[0].last_epoch == 0

    ours = trainer_of(["--checkpoint", file, "--new-run", "--output-dir", tmp_path / "ours"])
    assert (ours.total_steps_done, ours.epochs_done, ours.position.batch) == (8, 1, 2)
    require_equal(ours.optimizer[0].state_dict(), saved["optimizer"][0])
    require_equal(ours.scheduler[0].state_dict(), saved["scheduler"][0])
    require_equal(dict(ours.model.checkpoint_state()), dict(saved["model"]))
    assert ours.position.best_value == saved["xtts_extend"]["state"]["best_value"]
    assert ours.output_path != uninterrupted


@pytest.mark.slow
def test_a_stock_run_resumes(corpus, recipe, tmp_path, monkeypatch, caplog):
    """Weights, optimizer, scheduler, step and epoch of the stock Trainer's `checkpoint_N.pth` are restored."""
    file = stock_run(corpus, tmp_path / "stock", monkeypatch)
    saved = torch.load(file, weights_only=True)
    assert (saved["step"], saved["epoch"]) == (4, 1)

    caplog.set_level("INFO", "trainer")
    # The user passes the accumulation, which stock does not record.
    settings = {"val_manifest": None, "epochs": None, "grad_accum_steps": 1, "amp": "none"}
    recipe(corpus.stock_flags(file, max_steps=6, output_dir=tmp_path / "ours", **settings))
    assert "Continuing after step 5 (epoch 1, batch 0) with learning rate 0.00025." in caplog.text
    assert "does not record the position within the epoch" in caplog.text
    final = checkpoint(only_run(tmp_path / "ours"), 6)
    assert (final["step"], final["epoch"]) == (6, 1)
    assert not final["xtts_extend"]["base_rows"]["frozen"]
    # Adam's step counter continues: one step after the fifth.
    assert {int(moments["step"]) for moments in final["optimizer"][0]["state"].values()} == {6}


@pytest.mark.slow
def test_a_stock_run_with_the_bases_rows_is_frozen_and_keeps_its_new_moments(
    corpus, two_steps, recipe, tmp_path, caplog
):
    """The checkpoint is one of ours in the stock layout: all rows in one tensor, with moments."""
    file = edited(two_steps / "checkpoint_2.pth", tmp_path / "stock", as_stock_lays_it_out, at_step(1))
    rows = base_rows(corpus)
    states = torch.load(file, weights_only=True)["optimizer"][0]["state"].values()
    unsplit = [state for state in states if state["exp_avg"].ndim and len(state["exp_avg"]) == rows + 150]
    assert len(unsplit) == 3
    caplog.set_level("INFO", "trainer")
    recipe(["--checkpoint", file, "--max-steps", 3, "--output-dir", tmp_path / "ours"])
    assert f"Tokens 0–{rows - 1} come from the base (pretrained, frozen)" in caplog.text
    final = checkpoint(only_run(tmp_path / "ours"), 3)
    base = base_weights(corpus.base)
    assert torch.equal(final["model"]["xtts.gpt.text_head.weight"][:rows], base["gpt.text_head.weight"])
    assert {int(moments["step"]) for moments in final["optimizer"][0]["state"].values()} == {3}


def test_a_base_model_cannot_be_resumed(corpus, uninterrupted, tmp_path):
    model, config = model_and_config(uninterrupted)
    with pytest.raises(CheckpointError, match="is a base model"):
        ResumableTrainer(
            TrainerArgs(restore_path=str(corpus.base / "model.pth")),
            config,
            tmp_path,
            model=model,
            train_samples=[make_sample()],
        )


def test_as_flag():
    assert as_flag("no_freeze_base_rows", True) == ["--no-freeze-base-rows"]


def test_resuming_an_older_checkpoint_sets_later_ones_aside(uninterrupted, recipe, tmp_path):
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    recipe(["--checkpoint", run / "checkpoint_4.pth", "--max-steps", 5, "--save-step", 1, "--keep-checkpoints", 1])
    assert {file.name for file in run.glob("checkpoint_*")} == {"checkpoint_5.pth"}
    assert {file.name for file in (run / "set-aside").iterdir()} >= {"checkpoint_8.pth", "checkpoint_12.pth"}
    assert (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1].startswith('{"step": 5')


@pytest.mark.slow
def test_a_schedule_by_epoch_steps_once_per_epoch(corpus, recipe, tmp_path):
    flags = ["--coqpit.lr_scheduler=ExponentialLR", '--coqpit.lr_scheduler_params={"gamma": 0.5}']
    flags += ["--coqpit.scheduler_after_epoch=true"]
    recipe(corpus.flags(output_dir=tmp_path, epochs=1, val_manifest=None) + flags)
    run = only_run(tmp_path)
    recipe(["--checkpoint", run, "--epochs", "2"])
    rates = [line["learning_rate"] for line in read_metrics(run)[0]]
    assert rates == [1e-3] * 6 + [5e-4] * 6


@pytest.mark.slow
def test_with_test_sentences_two_weighted_languages_and_bf16(corpus, recipe, tmp_path):
    flags = corpus.flags(
        language_weights="am=2,en=1",
        amp="bf16",
        test_sentence=f"am:{corpus.voice}:ሰላም ለዓለም።",
        eval_step=4,
        num_workers=2,
    )
    flags += ["--train-manifest", f"{corpus.english}:en", "--val-manifest", f"{corpus.english}:en"]
    recipe([*flags, "--output-dir", tmp_path / "uninterrupted"])
    uninterrupted = only_run(tmp_path / "uninterrupted")
    steps, evaluations = read_metrics(uninterrupted)
    last = len(steps)
    assert {name.split("/")[1][:2] for line in steps for name in line["samples"]} == {"am", "en"}
    assert {line["language"] for line in evaluations} == {"am", "en"}
    recipe([*flags, "--output-dir", tmp_path / "resumed", "--max-steps", 5])
    run = only_run(tmp_path / "resumed")
    recipe(["--checkpoint", run, "--coqpit.max_steps=null", "--num-workers", "0"])
    require_same_run(run, uninterrupted, last)
    assert checkpoint(run, last)["config"]["mixed_precision"] is True
