"""Failures while a run trains, saves or resumes are reported and never cost a checkpoint."""

import itertools
import math
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints import edited, flip_a_bit, put, without
from processes import Script
from runs import STEPS, UNINTERRUPTED, checkpoint, only_run, require_same_run

from xtts_extend.errors import CheckpointError, DataError, DiskFullError
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.metrics import read_metrics
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.training.restore import check_resume, restore

MOMENTS = ("optimizer", 0, "state", 5)


@pytest.fixture(scope="module")
def state(uninterrupted, trainer_of, tmp_path_factory):
    """The state of the recipe's trainer after it has restored `checkpoint_8.pth`."""
    output = tmp_path_factory.mktemp("resumed")
    return trainer_of(["--checkpoint", uninterrupted / "checkpoint_8.pth", "--new-run", "--output-dir", output]).state


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(without(*MOMENTS, "exp_avg"), "moments for .* are missing exp_avg", id="moment"),
        pytest.param(without(*MOMENTS), "has no moments for", id="moments of a parameter"),
        pytest.param(put([], "scheduler"), r"different numbers of schedulers \(0 and 1\)", id="scheduler"),
        pytest.param(without("scheduler", 0, "last_epoch"), "1 missing: last_epoch", id="scheduler key"),
        pytest.param(without("xtts_extend", "state", "batch"), "1 missing: batch", id="position"),
        pytest.param(put(3, "xtts_extend", "state", "mood"), "1 unexpected: mood", id="left-over position"),
        pytest.param(put(torch.zeros(3, 3, 3), *MOMENTS, "exp_avg"), r"exp_avg of .*, got \(3, 3, 3\)", id="shape"),
        pytest.param(
            without("model", "xtts.gpt.final_norm.bias"), r"missing: xtts\.gpt\.final_norm\.bias", id="weight"
        ),
    ],
)
def test_missing_and_unknown_entries_are_named(uninterrupted, state, tmp_path, damage, message):
    file = edited(uninterrupted / "checkpoint_8.pth", tmp_path, damage)
    with pytest.raises(CheckpointError, match=message) as caught:
        restore(state, check_resume(TrainingCheckpoint.open(file), state.config, state.train_samples, Ranks()))
    assert caught.value.exit_code == 2


def test_a_missing_entry_ends_the_recipe(uninterrupted, fails, tmp_path):
    file = edited(uninterrupted / "checkpoint_8.pth", tmp_path, without(*MOMENTS, "exp_avg"))
    code, error = fails(["--checkpoint", file])
    assert code == 2
    assert re.search("moments for .* are missing exp_avg", error)


@pytest.mark.slow
def test_non_finite_losses_stop_the_run(uninterrupted, fails, tmp_path):
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in run.glob("checkpoint_*")}
    changes = ["--epochs", 9, "--learning-rate", 1e30, "--save-step", 1000, "--allow-changes"]
    code, error = fails(["--checkpoint", run, *changes])
    assert code == 1
    assert re.search(r"3 updates in a row were skipped .* the loss at step 1[56] \(samples: wavs/am_", error)
    assert {file.name: file.read_bytes() for file in run.glob("checkpoint_*")} == before


@pytest.fixture
def inject_nan(monkeypatch):
    """A function that makes the loss NaN at some steps, and returns a list of the weights that each batch saw."""
    clean = ExtendedGPTTrainer.train_step
    seen = []

    def start(*steps, first=1):
        def train_step(self, batch, criterion):
            outputs, losses = clean(self, batch, criterion)
            if len(seen) + first in steps:
                losses = {name: value * math.nan for name, value in losses.items()}
            seen.append(self.xtts.gpt.mel_head.weight.detach().clone())
            return outputs, losses

        seen.clear()
        monkeypatch.setattr(ExtendedGPTTrainer, "train_step", train_step)
        return seen

    return start


def test_nan_losses_skip_the_update_and_their_count_is_resumed(corpus, recipe, fails, inject_nan, tmp_path):
    seen = inject_nan(4, 5)
    recipe(corpus.flags(output_dir=tmp_path, val_manifest=None, epochs=1, save_step=4))
    run = only_run(tmp_path)
    steps, _ = read_metrics(run)
    assert [line["loss"] is None for line in steps] == [False, False, False, True, True, False]
    assert [torch.equal(*both) for both in itertools.pairwise(seen)] == [False, False, False, True, True]
    counts = [checkpoint(run, step)["xtts_extend"]["state"]["failed_updates"] for step in (4, 6)]
    assert counts == [1, 0]

    inject_nan(5, 6, first=5)
    code, error = fails(["--checkpoint", run / "checkpoint_4.pth"])
    assert code == 1
    assert "3 updates in a row were skipped" in error


def test_non_finite_weights_are_never_saved(corpus, fails, tmp_path, monkeypatch):
    clean = torch.optim.AdamW.step

    def overflow(self, *arguments, **named):
        clean(self, *arguments, **named)
        if next(iter(self.state.values()))["step"] == 4:
            self.param_groups[0]["params"][0].data.fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    code, error = fails(corpus.flags(output_dir=tmp_path, val_manifest=None, save_step=2))
    assert code == 1
    assert "At step 4, " in error
    assert [file.name for file in only_run(tmp_path).glob("*.pth")] == ["checkpoint_2.pth"]


@pytest.mark.slow
def test_a_failed_write_stops_the_run_at_the_next_step(corpus, fails, tmp_path, monkeypatch):
    save = torch.save

    def save_to_full_disk(content, file):
        if content.get("step") == 4:
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", save_to_full_disk)
    code, error = fails(corpus.flags(output_dir=tmp_path, val_manifest=None, save_step=2, epochs=3))
    assert code == 1
    assert "checkpoint_4.pth could not be written: the disk is full" in error
    run = only_run(tmp_path)
    assert {file.name for file in run.glob("*.pth")} == {"checkpoint_2.pth"}
    assert list(run.glob(".*.tmp")) == []


def test_a_run_without_disk_space_does_not_start(corpus, fails, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("xtts_extend.checkpoint.store.shutil.disk_usage", lambda path: usage._replace(free=100_000_000))
    code, error = fails(corpus.flags(output_dir=tmp_path))
    assert code == 1
    assert re.search(r"0.1 GB of disk space is free .* may need 0.6 GB more: 3 checkpoints of 0.1 GB", error)


def test_a_run_killed_before_its_first_checkpoint_starts_again(two_steps, recipe, tmp_path, caplog):
    """The kill leaves settings, vocabulary, some metrics and a partial file."""
    caplog.set_level("INFO")
    run = tmp_path / "killed run"
    run.mkdir()
    for name in ("config.json", "vocab.json", "metrics.jsonl"):
        shutil.copyfile(two_steps / name, run / name)
    (run / ".checkpoint_2.pth.123.tmp").write_bytes(b"half")
    recipe(["--checkpoint", run])
    assert "has no checkpoint. Restarting its run" in caplog.text
    require_same_run(run, two_steps, 2)
    assert list(run.glob(".*.tmp")) == []


@pytest.mark.slow
def test_the_time_limit_saves_a_checkpoint(uninterrupted, corpus, recipe, tmp_path, monkeypatch):
    clock = iter(range(0, 100000, 10))
    monkeypatch.setattr("xtts_extend.training.signals.time", SimpleNamespace(time=lambda: next(clock)))
    monkeypatch.setattr("xtts_extend.training.signals.psutil.Process.create_time", lambda self: 0.0)
    recipe(corpus.flags(output_dir=tmp_path, max_minutes=1.3, **UNINTERRUPTED))
    run = only_run(tmp_path)
    # The limit is checked every 10 s. After five steps: 50 s + twice the longest gap + 1 s to write < 78 s.
    assert max(int(file.stem.split("_")[1]) for file in run.glob("checkpoint_*")) == 6
    monkeypatch.undo()
    recipe(["--checkpoint", run, "--coqpit.max_minutes=null"])
    require_same_run(run, uninterrupted, STEPS)


def test_a_damaged_newest_checkpoint_is_skipped(uninterrupted, recipe, fails, tmp_path, caplog):
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    for name in ("checkpoint_12.pth", "best_model_12.pth"):
        flip_a_bit(run / name)
    code, error = fails(["--checkpoint", run / "checkpoint_12.pth"])
    assert code == 2
    assert re.search(
        r"checkpoint_12\.pth is damaged: checksum mismatch in 1 of .* in the same folder is .*checkpoint_8\.pth", error
    )
    recipe(["--checkpoint", run])
    assert caplog.text.count("Skipped a checkpoint") >= 2
    require_same_run(run, uninterrupted, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_immediately_and_keeps_files_intact(uninterrupted, corpus, recipe, tmp_path, number):
    flags = corpus.flags(output_dir=tmp_path, **UNINTERRUPTED)
    script = Path(__file__).with_name("signalled.py")
    stopped = Script(script, int(number), "twice:6", *flags, output=tmp_path / "log")
    assert stopped.wait() == -number, stopped.text
    run = only_run(tmp_path)
    assert {file.name for file in run.glob("checkpoint_*")} == {"checkpoint_4.pth"}
    recipe(["--checkpoint", run])
    require_same_run(run, uninterrupted, STEPS)


def test_an_error_in_a_loader_worker_is_one_line(corpus, fails, monkeypatch, tmp_path):
    def file_is_missing(path, *args):
        raise DataError(f"{Path(path).name}: no such file; check the path")

    monkeypatch.setattr("xtts_extend.data.dataset.load_slice", file_is_missing)
    code, error = fails(corpus.flags(output_dir=tmp_path, num_workers=1, val_manifest=None))
    assert code == 2
    assert re.fullmatch(r"error: \S+\.wav: no such file; check the path", error.strip().splitlines()[-1])
    assert "Traceback" not in error


@pytest.mark.slow
def test_batches_of_one_have_losses(corpus, recipe, tmp_path):
    """In coqui's units, the prompt covers a whole short recording, which would leave a batch of one without targets."""
    recipe(corpus.flags(output_dir=tmp_path, batch_size=1, max_steps=3, val_manifest=f"{corpus.english}:en"))
    steps, evaluations = read_metrics(only_run(tmp_path))
    assert all(5 < line["loss_mel_ce"] < 8 for line in (*steps, *evaluations))
    assert len(steps) == 3


@pytest.mark.slow
def test_the_error_of_the_first_write_is_shown(short_run, fails, tmp_path, monkeypatch):
    """The first write after the first batch fails, and no other error hides its message."""

    def disk_is_full(config, run, step):
        raise DiskFullError("The disk is full: the curves cannot be written.")

    monkeypatch.setattr("xtts_extend.training.output.make_dashboard", disk_is_full)
    copy = shutil.copytree(short_run, tmp_path / "run")
    code, message = fails(["--checkpoint", copy, "--max-steps", 5])
    assert code == 1
    assert message.rstrip().endswith("error: The disk is full: the curves cannot be written.")
    assert (copy / "checkpoint_4.pth").is_file()
