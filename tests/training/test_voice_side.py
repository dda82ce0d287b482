"""Runs with a frozen voice side, the default with new tokens, and with a trained one, as in older runs."""

from __future__ import annotations

import shutil

import pytest
from checkpoints import edited, without
from networks import base_weights
from runs import checkpoint, require_same_run
from torch import equal

from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.model.voice import VOICE_PARTS
from xtts_extend.rescue.doctor import examine
from xtts_extend.rescue.opened_checkpoint import moments_by_name, open_checkpoint_with_base
from xtts_extend.run.record import RunRecord

VOICE = tuple(f"gpt.{part}" for part in VOICE_PARTS)


@pytest.fixture(scope="session")
def trained(run_once):
    """A run of two steps that trains the voice side; read-only."""
    return run_once("voice trained", voice="trained", max_steps=2)


def changed_tensors(run, corpus):
    """Return the names of tensors that differ from the base model's after two steps, token rows excluded."""
    weights, base = xtts_weights(checkpoint(run, 2)["model"]), base_weights(corpus.base)
    same_shape = {name for name, tensor in base.items() if weights[name].shape == tensor.shape}
    return {name for name in same_shape if not equal(weights[name], base[name])}


def test_only_the_voice_side_is_frozen(two_steps, trained, corpus):
    changed_if_frozen, changed_if_trained = changed_tensors(two_steps, corpus), changed_tensors(trained, corpus)
    voice_side = {name for name in base_weights(corpus.base) if name.startswith(VOICE)}
    assert changed_if_frozen & voice_side == set()
    assert changed_if_frozen == changed_if_trained - voice_side
    # Biases may get no gradient: the perceiver's softmax cancels what is added to all keys.
    assert {name for name in voice_side if name.endswith("weight")} <= changed_if_trained
    assert checkpoint(two_steps, 2)["model"].keys() == checkpoint(trained, 2)["model"].keys()


def test_a_checkpoint_has_no_moments_of_the_frozen_voice_side(two_steps, trained, corpus):
    moments = [moments_by_name(open_checkpoint_with_base(run, corpus.base, None)) for run in (two_steps, trained)]
    voice_side = {name for name in moments[1] if name.startswith(VOICE_PARTS)}
    assert moments[0].keys() == moments[1].keys() - voice_side
    assert len(voice_side) == len([name for name in base_weights(corpus.base) if name.startswith(VOICE)])
    sizes = [(run / "checkpoint_2.pth").stat().st_size for run in (two_steps, trained)]
    saved = sum(tensor.nbytes for name in voice_side for tensor in moments[1][name].values() if tensor.ndim)
    assert sizes[1] - sizes[0] >= saved > 0
    # `doctor` does not report the moments as missing.
    for run in (two_steps, trained):
        found = examine(run, corpus.base)
        assert found.measurements["moments"]["other_misfits"] == []
        assert (found.measurements["transformer"]["conditioning_encoder"] == 0) is (run == two_steps)


#: Edits that make a checkpoint of a release without --voice.
OLDER = without("config", "voice"), without("xtts_extend", "trained_on")


@pytest.mark.slow
def test_an_older_checkpoint_resumes_as_it_was_trained(trained, recipe, run_once, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    edited(run / "checkpoint_2.pth", run, *OLDER)
    recipe(["--checkpoint", run, "--max-steps", 4])
    require_same_run(run, run_once("voice trained for longer", voice="trained", max_steps=4), 4)
    assert checkpoint(run, 4)["config"]["voice"] == "trained"
    assert len(checkpoint(run, 4)["xtts_extend"]["trained_on"]["texts"]) == 12


@pytest.mark.parametrize(
    ("edits", "given", "message"),
    [
        pytest.param(None, "trained", "voice: frozen → trained", id="frozen"),
        pytest.param(OLDER, "frozen", "voice: trained → frozen", id="older"),
    ],
)
def test_the_choice_cannot_change_within_a_run(two_steps, trained, fails, tmp_path, edits, given, message):
    file = edited(trained / "checkpoint_2.pth", tmp_path / "older", *edits) if edits else two_steps
    code, printed = fails(["--checkpoint", file, "--voice", given, "--max-steps", 3, "--allow-changes"])
    assert (code, "cannot change within a run" in printed, message in printed) == (2, True, True)


def test_a_checkpoint_records_what_it_was_trained_on(two_steps, corpus):
    found = RunRecord.of(checkpoint(two_steps, 2)).trained_on
    rows = [line.split("|") for line in corpus.train.read_text(encoding="utf-8").splitlines()[1:]]
    assert found.utterances == {"am": 12}
    assert list(found.texts) == [row[1] for row in rows]
    # The language tag is the first new token.
    assert {ids[0] for ids in found.texts.values()} == {400}
    assert 0.001 < found.hours["am"] < 0.1
