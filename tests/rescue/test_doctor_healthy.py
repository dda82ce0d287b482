"""Checkpoints that the doctor finds healthy, their measurements, and bases that it refuses."""

import json
import shutil

import pytest
import torch
from checkpoints import HEAD, cut, edited, stripped_of
from networks import base_weights
from runs import base_rows, checkpoint, only_run

from xtts_extend.errors import CheckpointError
from xtts_extend.rescue.doctor import examine


def test_a_healthy_checkpoint(healthy, corpus):
    found = examine(healthy, corpus.base)
    assert (found.verdict, found.also) == ("healthy", {})
    measured = found.measurements
    assert measured["old_rows"]["count"] == base_rows(corpus)
    assert measured["new_rows"]["count"] == 150
    assert measured["new_rows"]["noise"] == 0
    assert measured["moments"]["misfits"] == []
    assert measured["moments"]["updates"] == (4 if "xtts-" in str(healthy) else 5)
    assert {"layer 0", "layer 1", "mel_head"} <= measured["transformer"].keys()
    assert 0 < measured["transformer"]["layer 0"] < 1
    assert examine(healthy, corpus.base / "model.pth", corpus.vocab).verdict == "healthy"


def test_measurements_match_the_weights(short_run, corpus):
    found = examine(short_run, corpus.base).measurements
    assert found["old_rows"]["changed"] == 0
    assert found["old_rows"]["cosine_min"] == pytest.approx(1, abs=1e-6)
    assert found["new_rows"]["dead"] == 0
    content, base = checkpoint(short_run, 4), base_weights(corpus.base)
    key = "gpt.gpt.h.1.mlp.c_fc.weight"
    assert not torch.equal(content["model"]["xtts." + key], base[key])
    norms = [table.norm(dim=1).median() for table in (content["model"][HEAD][-150:], base["gpt.text_head.weight"])]
    assert found["new_rows"]["norm_head"] == pytest.approx(float(norms[0] / norms[1]))
    # Tokens that occur have moved, and the others have not.
    line = json.loads((short_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["step"] == 1
    assert 0 < found["new_rows"]["never_moved"] < 150


def healthy_run(corpus, recipe, folder, *overrides, **flags):
    """Train, require a healthy verdict, and return the doctor's notes."""
    recipe([*corpus.flags(output_dir=folder, val_manifest=None, **flags), *overrides])
    found = examine(only_run(folder), corpus.base)
    assert (found.verdict, found.also) == ("healthy", {})
    return "\n".join(found.notes)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({"max_steps": 1}, id="one step"),
        pytest.param(
            {"grad_accum_steps": 6, "max_steps": 6, "learning_rate": 0, "weight_decay": 0},
            id="no update yet",
            marks=pytest.mark.slow,
        ),
        pytest.param({"init": "normal", "max_steps": 2}, id="init by noise", marks=pytest.mark.slow),
        pytest.param({"amp": "bf16", "max_steps": 2}, id="bf16", marks=pytest.mark.slow),
    ],
)
def test_healthy_runs_of_other_kinds(flags, corpus, recipe, tmp_path):
    notes = healthy_run(corpus, recipe, tmp_path, **flags)
    assert "schedule has ended" not in notes
    assert "trained all rows" not in notes


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [{"text_loss_weight": 0, "max_steps": 12}, {"max_steps": 3}], ids=["no text loss", "all rows"]
)
def test_a_healthy_run_that_trained_all_rows_is_noted(flags, corpus, recipe, tmp_path):
    notes = healthy_run(corpus, recipe, tmp_path, no_freeze_base_rows=True, learning_rate=1e-5, **flags)
    assert "trained all rows" in notes
    assert "schedule has ended" not in notes


@pytest.mark.slow
def test_a_schedule_that_has_ended_is_noted(corpus, recipe, tmp_path):
    # The schedule ends at a rate of 0.
    schedule = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 6}
    overrides = ["--coqpit.lr_scheduler=LinearLR", f"--coqpit.lr_scheduler_params={json.dumps(schedule)}"]
    notes = healthy_run(corpus, recipe, tmp_path, *overrides, max_steps=6)
    assert "schedule has ended" in notes
    assert "trained all rows" not in notes


def test_weights_without_training_state(short_run, corpus, tmp_path):
    assert examine(corpus.base, corpus.base).verdict == "healthy"
    weights = edited(short_run / "checkpoint_4.pth", tmp_path, stripped_of("optimizer", "scheduler", "xtts_extend"))
    found = examine(weights, corpus.base)
    assert found.verdict == "healthy"
    assert found.measurements["moments"] is None
    assert found.measurements["old_rows"]["changed"] == 0


@pytest.mark.slow
def test_a_run_that_started_from_other_rows(corpus, recipe, tmp_path):
    """It started from a run that trained all rows: they are not the base's, and have not moved since."""
    flags = {"val_manifest": None, "max_steps": 2}
    recipe(corpus.flags(output_dir=tmp_path / "a", no_freeze_base_rows=True, **flags))
    recipe(corpus.flags(output_dir=tmp_path / "b", checkpoint=only_run(tmp_path / "a"), start_fresh=True, **flags))
    found = examine(only_run(tmp_path / "b"), corpus.base)
    assert found.measurements["old_rows"]["changed"] == base_rows(corpus)
    assert found.verdict == "healthy"


def test_another_base_is_an_error(short_run, corpus, tmp_path):
    def remove_a_layer(content):
        for name in [name for name in content["model"] if name.startswith("gpt.gpt.h.1.")]:
            del content["model"][name]

    other = edited(corpus.base / "model.pth", tmp_path, remove_a_layer)
    message = r"2 layers × 64 channels, but .* 1 layers × 64 channels, so the checkpoint was not trained from this base"
    with pytest.raises(CheckpointError, match=message):
        examine(short_run, other)


def test_a_damaged_base_is_an_error(short_run, corpus, tmp_path):
    cut(shutil.copyfile(corpus.base / "model.pth", tmp_path / "model.pth"), 5000)
    with pytest.raises(CheckpointError, match="model.pth cannot be opened") as caught:
        examine(short_run, tmp_path)
    assert type(caught.value) is CheckpointError
