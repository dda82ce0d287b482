"""Runs with the voice side frozen, which is the default with new tokens, and with it trained, as older runs did."""

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
    """Two steps of a run that trains the voice side; not to be written to."""
    return run_once("voice trained", voice="trained", max_steps=2)


def moved(run, corpus):
    """The tensors that are not the base's any more after two steps; token rows and statistics are left out."""
    weights, base = xtts_weights(checkpoint(run, 2)["model"]), base_weights(corpus.base)
    alike = {name for name, tensor in base.items() if weights[name].shape == tensor.shape}
    return {name for name in alike if not equal(weights[name], base[name])}


def test_voices_stay_and_the_rest_trains(two_steps, trained, corpus):
    kept, changed = moved(two_steps, corpus), moved(trained, corpus)
    voiced = {name for name in base_weights(corpus.base) if name.startswith(VOICE)}
    assert kept & voiced == set()
    assert kept == changed - voiced
    # a bias may get no gradient: the perceiver's softmax does not see what is added to all keys alike
    assert {name for name in voiced if name.endswith("weight")} <= changed
    assert checkpoint(two_steps, 2)["model"].keys() == checkpoint(trained, 2)["model"].keys()


def test_a_checkpoint_holds_no_moments_of_it(two_steps, trained, corpus):
    named = [moments_by_name(open_checkpoint_with_base(run, corpus.base, None)) for run in (two_steps, trained)]
    voiced = {name for name in named[1] if name.startswith(VOICE_PARTS)}
    assert named[0].keys() == named[1].keys() - voiced
    assert len(voiced) == len([name for name in base_weights(corpus.base) if name.startswith(VOICE)])
    sizes = [(run / "checkpoint_2.pth").stat().st_size for run in (two_steps, trained)]
    saved = sum(tensor.nbytes for name in voiced for tensor in named[1][name].values() if tensor.ndim)
    assert sizes[1] - sizes[0] >= saved > 0
    # nothing is missed
    for run in (two_steps, trained):
        found = examine(run, corpus.base)
        assert found.measurements["moments"]["other_misfits"] == []
        assert (found.measurements["transformer"]["conditioning_encoder"] == 0) is (run == two_steps)


#: As a release left it that knew no choice.
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
def test_it_cannot_change_within_a_run(two_steps, trained, fails, tmp_path, edits, given, message):
    file = edited(trained / "checkpoint_2.pth", tmp_path / "older", *edits) if edits else two_steps
    code, printed = fails(["--checkpoint", file, "--voice", given, "--max-steps", 3, "--allow-changes"])
    assert (code, "cannot change within a run" in printed, message in printed) == (2, True, True)


def test_a_checkpoint_records_what_it_was_trained_on(two_steps, corpus):
    found = RunRecord.of(checkpoint(two_steps, 2)).trained_on
    rows = [line.split("|") for line in corpus.train.read_text(encoding="utf-8").splitlines()[1:]]
    assert found.utterances == {"am": 12}
    assert list(found.texts) == [row[1] for row in rows]
    # the tag, the first of the new tokens
    assert {ids[0] for ids in found.texts.values()} == {400}
    assert 0.001 < found.hours["am"] < 0.1
