"""The default of --voice for new, restarted and resumed runs."""

from __future__ import annotations

import json
import shutil

import pytest
from checkpoints import edited, stripped_of, without
from runs import configured

from xtts_extend.setup.start import Mode

#: Flags of a run in a language that the base knows, without new tokens.
KNOWN = {"vocab": None, "language": "en"}


@pytest.mark.parametrize(
    ("flags", "override", "expected"),
    [
        pytest.param({}, [], "frozen", id="new tokens"),
        pytest.param({"no_freeze_base_rows": True}, [], "frozen", id="new tokens, all rows trained"),
        pytest.param(KNOWN, [], "trained", id="a known language"),
        pytest.param({**KNOWN, "adapter": "lora"}, [], "frozen", id="an adapter"),
        pytest.param({"voice": "trained"}, [], "trained", id="a flag"),
        pytest.param({**KNOWN, "voice": "frozen"}, [], "frozen", id="a flag, a known language"),
        pytest.param({}, ["--coqpit.voice=trained"], "trained", id="an override"),
        pytest.param({}, ["--coqpit.voice", "trained"], "trained", id="an override in two words"),
        pytest.param({"voice": "frozen"}, ["--coqpit.voice=trained"], "trained", id="an override beats a flag"),
    ],
)
def test_voice_of_a_start_from_the_base(corpus, flags, override, expected):
    assert configured([*corpus.flags(**flags), *override])[1].voice == expected


@pytest.mark.parametrize(
    ("edits", "flags", "expected"),
    [
        pytest.param([], {}, "frozen", id="of ours"),
        pytest.param([], {"voice": "trained"}, "trained", id="a flag"),
        pytest.param([without("config", "voice")], {}, "frozen", id="older"),
        pytest.param([stripped_of("xtts_extend")], {}, "frozen", id="of the stock Trainer"),
        pytest.param([stripped_of("optimizer")], {}, "trained", id="weights whose tokens are all known"),
    ],
)
def test_voice_of_a_start_from_checkpoint_weights(corpus, tuned_run, tmp_path, edits, flags, expected):
    """Tokens that the base lacks are new, even if the checkpoint was trained on them."""
    file = edited(tuned_run / "checkpoint_2.pth", tmp_path / "run", *edits)
    start, config = configured(corpus.flags(checkpoint=file, start_fresh=True, **flags))
    assert start.mode is (Mode.START if expected == "trained" and not flags else Mode.START_FRESH)
    assert config.voice == expected


@pytest.mark.parametrize(
    ("recorded", "flags", "expected"),
    [
        pytest.param("trained", [], "trained", id="recorded"),
        pytest.param("trained", ["--voice=frozen"], "frozen", id="a flag"),
        pytest.param(None, [], "frozen", id="not recorded"),
    ],
)
def test_voice_of_a_restarted_run(tuned_run, tmp_path, recorded, flags, expected):
    run = shutil.copytree(tuned_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.pth"))
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert settings.pop("voice") == "frozen"
    if recorded:
        settings["voice"] = recorded
    (run / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    start, config = configured([f"--checkpoint={run}", *flags])
    assert (start.mode, config.voice) == (Mode.START_AGAIN, expected)


def test_voice_of_a_resumed_run(tuned_run, tmp_path):
    """Runs of releases that did not record it trained the voice side."""
    assert configured([f"--checkpoint={tuned_run}"])[1].voice == "frozen"
    older = edited(tuned_run / "checkpoint_2.pth", tmp_path / "older", without("config", "voice"))
    assert configured([f"--checkpoint={older}"])[1].voice == "trained"


def test_data_sets_are_not_paths(corpus, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    specs = ["hf:google/fleurs/am_et@train:am", "https://x.org/a.tar.gz:am"]
    flags = corpus.flags(train_manifest=None, val_manifest=None)
    given = [part for spec in [*specs, "a.zip@dev"] for part in ("--train-manifest", spec)]
    assert configured([*flags, *given])[1].train_manifests == [*specs, str(tmp_path / "a.zip@dev")]
