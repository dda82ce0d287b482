"""What the recipe does with a path, a base and data before the first batch."""

import json
import os
import shutil

import pytest
import torch
from checkpoints import edited, in_half_precision, put, without
from networks import base_weights
from runs import checkpoint, only_run

from xtts_extend import inspect_checkpoint
from xtts_extend.checkpoint.store import lock_run
from xtts_extend.errors import CheckpointError
from xtts_extend.run.ranks import Ranks
from xtts_extend.setup.flags import Flags
from xtts_extend.setup.start import Mode, open_checkpoint


@pytest.fixture
def run(tuned_run):
    return tuned_run


def test_changed_values_need_allow_changes(run, fails, recipe, tmp_path, caplog):
    copy = shutil.copytree(run, tmp_path / "run")
    code, message = fails(["--checkpoint", copy, "--learning-rate", "0.5", "--max-steps", "3"])
    assert code == 2
    assert "lr: 0.001 → 0.5" in message
    recipe(["--checkpoint", copy, "--learning-rate", "0.5", "--max-steps", "3", "--allow-changes"])
    assert "Accepted with --allow-changes: lr: 0.001 → 0.5" in caplog.text
    groups = checkpoint(copy, 3)["optimizer"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in groups] == [0.05, 0]


def test_optimizer_settings_cannot_change(run, fails):
    code, message = fails(["--checkpoint", run, "--warmup-steps", "10", "--allow-changes"])
    assert code == 2
    assert "cannot change within a run" in message
    assert "lr_scheduler: None → LinearLR" in message


def test_changed_manifest_is_refused(run, corpus, fails, tmp_path):
    shorter = corpus.train.with_name("shorter.csv")
    shorter.write_text("".join(corpus.train.read_text(encoding="utf-8").splitlines(True)[:-1]), encoding="utf-8")
    code, message = fails(["--checkpoint", run, "--train-manifest", str(shorter)])
    assert (code, "training samples: digest" in message) == (2, True)


def test_changed_vocabulary_is_refused(run, corpus, fails):
    code, message = fails(["--checkpoint", run, "--vocab", str(corpus.base / "vocab.json"), "--language", "en"])
    assert code == 2
    assert "trained with a different vocabulary" in message


def test_finished_run(run, recipe, tmp_path, caplog):
    copy = shutil.copytree(run, tmp_path / "run")
    before = (copy / "metrics.jsonl").read_bytes()
    recipe(["--checkpoint", copy])
    assert "The run is finished: step 2" in caplog.text
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_start_fresh_uses_only_weights(run, corpus, recipe, tmp_path, caplog):
    recipe(corpus.flags(checkpoint=run, start_fresh=True, output_dir=tmp_path, max_steps=1, learning_rate=0))
    assert "Using only its weights (--start-fresh)" in caplog.text
    fresh, old = checkpoint(only_run(tmp_path), 1), checkpoint(run, 2)
    assert fresh["step"] == 1
    assert {int(moments["step"]) for moments in fresh["optimizer"][0]["state"].values()} == {1}
    for key, tensor in old["model"].items():
        assert torch.equal(fresh["model"][key], tensor), key
    # The base's rows stay frozen in the new run.
    assert fresh["xtts_extend"]["base_rows"] == old["xtts_extend"]["base_rows"]


def test_checkpoint_without_optimizer_is_a_base_model(run, corpus, recipe, tmp_path, caplog):
    file = tmp_path / "checkpoint_17000.pth"
    torch.save({"model": checkpoint(run, 2)["model"], "step": 17000, "epoch": 3}, file)
    shutil.copy(run / "vocab.json", tmp_path / "vocab.json")
    recipe(corpus.flags(checkpoint=file, output_dir=tmp_path / "runs", max_steps=1))
    printed = caplog.text
    assert "is a base model" in printed
    assert "named like a training checkpoint" in printed
    assert checkpoint(only_run(tmp_path / "runs"), 1)["step"] == 1


def test_new_run_resumes_in_a_new_folder(run, recipe, tmp_path):
    before = sorted(file.name for file in run.iterdir())
    recipe(["--checkpoint", run, "--new-run", "--output-dir", str(tmp_path / "እዚህ here"), "--max-steps", "3"])
    new = only_run(tmp_path / "እዚህ here")
    assert (new / "checkpoint_3.pth").is_file()
    assert sorted(file.name for file in run.iterdir()) == before


def test_known_language_is_fine_tuned_without_frozen_rows(corpus, recipe, tmp_path, caplog):
    flags = corpus.flags(
        vocab=None, language="en", train_manifest=corpus.english, val_manifest=None, output_dir=tmp_path, max_steps=1
    )
    recipe(flags)
    assert "0 of" in caplog.text
    saved = checkpoint(only_run(tmp_path), 1)
    base = base_weights(corpus.base)
    assert saved["model"]["xtts.gpt.text_embedding.weight"].shape == base["gpt.text_embedding.weight"].shape
    assert not torch.equal(saved["model"]["xtts.gpt.text_embedding.weight"], base["gpt.text_embedding.weight"])
    assert not saved["xtts_extend"]["base_rows"]["frozen"]


def test_no_freeze_base_rows_trains_all_rows(corpus, recipe, tmp_path):
    recipe(corpus.flags(output_dir=tmp_path, max_steps=1, no_freeze_base_rows=True))
    state = checkpoint(only_run(tmp_path), 1)["model"]
    base = base_weights(corpus.base)["gpt.text_head.weight"]
    assert not torch.equal(state["xtts.gpt.text_head.weight"][: len(base)], base)


def edit_config(edit):
    """Return a function that edits a base's config.json."""

    def damage(base):
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        edit(config)
        rewrite(base / "config.json", json.dumps(config))

    return damage


def rewrite(file, text):
    """Replace a file. Writing to it would change the shared file that it is a hard link to."""
    file.unlink()
    file.write_text(text, encoding="utf-8")


def zero_mel_stats(base):
    (base / "mel_stats.pth").unlink()
    torch.save(torch.zeros(80), base / "mel_stats.pth")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *(
            pytest.param(lambda base, name=name: (base / name).unlink(), name, id=name)
            for name in ("dvae.pth", "mel_stats.pth", "config.json", "model.pth")
        ),
        pytest.param(edit_config(put(3, "model_args", "gpt_layers")), "gpt_layers = 3", id="layers"),
        pytest.param(edit_config(put(7, "model_args", "gpt_n_heads")), "does not divide", id="heads"),
        pytest.param(edit_config(without("model_args")), "no 'model_args'", id="no architecture"),
        pytest.param(lambda base: rewrite(base / "config.json", "{"), "is not a JSON file", id="not json"),
        pytest.param(zero_mel_stats, "80 finite, nonzero numbers", id="mel stats"),
    ],
)
def test_damaged_base_is_refused(corpus, fails, tmp_path, damage, message):
    base = shutil.copytree(corpus.base, tmp_path / "base", copy_function=os.link)
    damage(base)
    code, printed = fails(corpus.flags(base_dir=base, output_dir=tmp_path / "runs"))
    assert code == 2
    assert message in printed
    assert not list((tmp_path / "runs").glob("*/")) or not (tmp_path / "runs").exists()


@pytest.mark.parametrize("missing", ["step", "epoch"])
def test_optimizer_without_a_position_cannot_be_resumed(tmp_path, caplog, missing):
    weights = {f"gpt.{name}": torch.zeros(3, 2) for name in ("text_embedding.weight", "gpt.h.0.ln_1.weight")}
    moments = {0: {"step": torch.tensor(5.0), "exp_avg": torch.zeros(3, 2)}}
    content = {"model": weights, "optimizer": {"state": moments, "param_groups": [{"params": [0]}]}}
    torch.save({**content, "step": 5, "epoch": 1, missing: None}, tmp_path / "checkpoint_5.pth")
    caplog.set_level("INFO", "trainer")
    file = tmp_path / "checkpoint_5.pth"
    with pytest.raises(CheckpointError, match=rf"has optimizer state but no {missing}, .* with --start-fresh"):
        open_checkpoint(Flags(checkpoint=str(file)), Ranks())
    with pytest.raises(CheckpointError, match=rf"checkpoint_5\.pth contains no {missing}"):
        open_checkpoint(Flags(checkpoint=str(tmp_path)), Ranks())
    start = open_checkpoint(Flags(checkpoint=str(file), start_fresh=True), Ranks())
    assert (start.mode, start.info.kind) == (Mode.START, "base")
    assert "named like a training checkpoint" not in caplog.text


@pytest.mark.slow
def test_run_in_half_precision_resumes(run, recipe, tmp_path, caplog):
    """Weights and moments are converted to float32, and the optimizer keeps its step count."""
    file = edited(run / "checkpoint_2.pth", tmp_path / "half", in_half_precision)
    recipe(["--checkpoint", str(file), "--max-steps", "3", "--learning-rate", "0", "--allow-changes"])
    before, after = (torch.load(path, weights_only=True) for path in (file, file.parent / "checkpoint_3.pth"))
    for key, tensor in before["model"].items():
        assert torch.equal(after["model"][key], tensor.to(after["model"][key].dtype)), key
    assert {tensor.dtype for tensor in after["model"].values() if tensor.is_floating_point()} == {torch.float32}
    moments = after["optimizer"][0]["state"][0]
    assert (int(moments["step"]), moments["exp_avg"].dtype) == (3, torch.float32)
    assert "in half precision (torch.bfloat16), so training continues in float32" in caplog.text
    assert "The frozen rows no longer match the base model's" in caplog.text


def test_vocabulary_smaller_than_the_weights(corpus, run, fails, tmp_path):
    stripped = tmp_path / "model.pth"
    torch.save({"model": checkpoint(run, 2)["model"]}, stripped)
    code, message = fails(
        corpus.flags(checkpoint=stripped, vocab=corpus.base / "vocab.json", language="en", output_dir=tmp_path)
    )
    assert code == 2
    assert "so this vocabulary does not extend the base's" in message


def test_empty_manifest(corpus, fails, tmp_path):
    empty = tmp_path / "train.csv"
    empty.write_text("", encoding="utf-8")
    code, message = fails(corpus.flags(train_manifest=empty, output_dir=tmp_path))
    assert code == 2
    assert "empty" in message


def test_too_many_unusable_samples_stop_the_run(corpus, fails, recipe, tmp_path, caplog):
    bad = corpus.train.with_name("bad.csv")
    bad.write_text(corpus.train.read_text(encoding="utf-8") + "wavs/none.wav|ሰላም|x\n", encoding="utf-8")
    code, message = fails(corpus.flags(train_manifest=bad, output_dir=tmp_path))
    assert code == 2
    assert "1 of 13 training samples are unusable (7.7%; --max-bad-share allows 1.0%)" in message
    recipe(corpus.flags(train_manifest=bad, output_dir=tmp_path, max_bad_share=0.1, max_steps=1))
    assert "none.wav" in caplog.text


def test_refused_resume_writes_nothing(run, corpus, fails, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    code, printed = fails(["--checkpoint", copy, "--batch-size", "3"])
    assert (code, "batch_size: 2 → 3" in printed) == (2, True)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


def test_locked_run_folder_is_refused(run, fails, tmp_path, monkeypatch):
    monkeypatch.setattr("xtts_extend.checkpoint.store._LOCK_TIMEOUT_S", 0.1)
    copy = shutil.copytree(run, tmp_path / "run")
    lock = lock_run(copy)
    code, printed = fails(["--checkpoint", copy, "--epochs", "9"])
    assert (code, "Another process is training in" in printed) == (2, True)
    lock.release()


def test_less_data_ends_the_epoch_and_a_new_validation_set_resets_the_best(run, corpus, recipe, tmp_path, caplog):
    caplog.set_level("INFO")
    copy = shutil.copytree(run, tmp_path / "run")
    lines = corpus.train.read_text(encoding="utf-8").splitlines(True)
    small = corpus.train.with_name("small.csv")
    small.write_text("".join(lines[:3]), encoding="utf-8")
    steps = inspect_checkpoint(copy).step
    flags = ["--train-manifest", small, "--val-manifest", small, "--allow-changes", "--max-steps", steps + 1]
    recipe(["--checkpoint", copy, "--epochs", 9, *flags])
    assert "now has fewer batches and is already complete" in caplog.text
    assert "The validation set has changed, so the best loss is reset" in caplog.text
    assert inspect_checkpoint(copy).step == steps + 1
