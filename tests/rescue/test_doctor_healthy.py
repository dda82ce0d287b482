"""What the doctor finds healthy, what it measures there, and what it refuses to judge."""

import json

import pytest
import torch
from runs import base_rows, edited, only_run

from xtts_extend.errors import CheckpointError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.rescue.doctor import examine

PREFIX = "xtts.gpt."
EMBEDDING, HEAD, BIAS = (PREFIX + name for name in TOKEN_TENSORS)


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


def test_what_is_measured_is_so(short_run, corpus):
    found = examine(short_run, corpus.base).measurements
    assert found["old_rows"]["changed"] == 0
    assert found["old_rows"]["cosine_min"] == pytest.approx(1, abs=1e-6)
    assert found["new_rows"]["dead"] == 0
    content = torch.load(short_run / "checkpoint_4.pth", weights_only=True)
    base = torch.load(corpus.base / "model.pth", weights_only=True)["model"]
    key = "gpt.gpt.h.1.mlp.c_fc.weight"
    assert not torch.equal(content["model"]["xtts." + key], base[key])
    norms = [table.norm(dim=1).median() for table in (content["model"][HEAD][-150:], base["gpt.text_head.weight"])]
    assert found["new_rows"]["norm_head"] == pytest.approx(float(norms[0] / norms[1]))
    # a token that occurs has moved
    line = json.loads((short_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["step"] == 1
    assert 0 < found["new_rows"]["never_moved"] < 150


#: At its end a schedule's rate is 0.
SCHEDULE = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 6}
KINDS = {
    "one step": {"max_steps": 1},
    "schedule at its end": {"max_steps": 6},
}
RARE_KINDS = {
    "no text loss": {"text_loss_weight": 0, "max_steps": 12, "no_freeze_base_rows": True, "learning_rate": 1e-5},
    "all rows": {"no_freeze_base_rows": True, "max_steps": 3, "learning_rate": 1e-5},
    "no update yet": {"grad_accum_steps": 6, "max_steps": 6, "learning_rate": 0, "weight_decay": 0},
    "init by noise": {"init": "normal", "max_steps": 2},
    "bf16": {"amp": "bf16", "max_steps": 2},
}


@pytest.mark.parametrize(
    "name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in RARE_KINDS)], ids=lambda name: name
)
def test_healthy_runs_of_other_kinds(name, corpus, recipe, tmp_path):
    flags = (KINDS | RARE_KINDS)[name]
    arguments = corpus.flags(output_dir=tmp_path, val_manifest=None, **flags)
    if name.startswith("schedule"):
        arguments += ["--coqpit.lr_scheduler=LinearLR", f"--coqpit.lr_scheduler_params={json.dumps(SCHEDULE)}"]
    recipe(arguments)
    found = examine(only_run(tmp_path), corpus.base)
    assert (found.verdict, found.also) == ("healthy", {})
    assert any("schedule is at its end" in note for note in found.notes) == name.startswith("schedule")
    assert any("trained all rows" in note for note in found.notes) == ("no_freeze_base_rows" in flags)


def test_weights_without_a_run(short_run, corpus, tmp_path):
    assert examine(corpus.base, corpus.base).verdict == "healthy"

    def strip(content):
        for key in ("optimizer", "scheduler", "xtts_extend"):
            del content[key]

    found = examine(edited(short_run / "checkpoint_4.pth", tmp_path, strip), corpus.base)
    assert found.verdict == "healthy"
    assert found.measurements["moments"] is None
    assert found.measurements["old_rows"]["changed"] == 0


def test_a_run_that_began_with_other_rows(corpus, recipe, tmp_path):
    """From the weights of a run that trained all rows: they are not the base's, and did not move since."""
    flags = {"val_manifest": None, "max_steps": 2}
    recipe(corpus.flags(output_dir=tmp_path / "a", no_freeze_base_rows=True, **flags))
    recipe(corpus.flags(output_dir=tmp_path / "b", checkpoint=only_run(tmp_path / "a"), start_fresh=True, **flags))
    found = examine(only_run(tmp_path / "b"), corpus.base)
    assert found.measurements["old_rows"]["changed"] == base_rows(corpus)
    assert found.verdict == "healthy"


def test_another_base_is_an_error(short_run, tmp_path):
    from xtts_extend.demo.mini_base import make_mini_base

    other = make_mini_base(tmp_path / "other", layers=1, channels=64, heads=2)
    with pytest.raises(CheckpointError, match=r"2 layers × 64 and .* 1 layers × 64: it did not come from this base"):
        examine(short_run, other)


def test_a_damaged_base_is_an_error(short_run, corpus, tmp_path):
    (tmp_path / "model.pth").write_bytes((corpus.base / "model.pth").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="model.pth cannot be opened") as caught:
        examine(short_run, tmp_path)
    assert type(caught.value) is CheckpointError
