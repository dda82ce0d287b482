"""make-dataset on the command line: what it prints, what it refuses, and which model is the default."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from made_archives import AUDIO, write_parquet
from tones import find_tones, make_sentences, write_recording

from xtts_extend.cli import main
from xtts_extend.commands import make_dataset as make_dataset_command
from xtts_extend.corpus import recording_clips
from xtts_extend.corpus.aligners import DEFAULT_ALIGNER, DEFAULT_ALIGNER_LICENSE
from xtts_extend.data.manifest import read_manifest


@pytest.fixture(autouse=True)
def hear_tones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find tones instead of speech."""
    monkeypatch.setattr(recording_clips, "find_speech", find_tones)


def test_the_command_prints_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recording(tmp_path / "my talks" / "talk.flac", make_sentences(3))
    arguments = ["make-dataset", str(tmp_path / "my talks"), "--language", "en", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--aligner", "tones:align", "--asr", "tones:recognise", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["recordings"], printed["train"], printed["val"], printed["set_aside"]) == (1, 3, 0, {})
    assert printed["hours"] == pytest.approx(0.003, abs=0.001)


def test_a_data_set_with_transcripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sentences = make_sentences(1)
    write_recording(tmp_path / "a.wav", sentences)
    cells = pa.array([{"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}], AUDIO)
    write_parquet(tmp_path / "set" / "train.parquet", {"audio": cells, "text": sentences, "client_id": ["anna"]})
    arguments = ["make-dataset", "set@train", "--language", "en", "--output", "out", "--aligner", "tones:align"]
    assert main([*arguments, "--asr", "tones:recognise", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"] == 1
    (sample,) = read_manifest("out/train.csv", "en")
    assert (sample.text, sample.speaker_name) == (sentences[0], "anna")
    with pytest.raises(SystemExit):
        main([*arguments, "--text", "a.txt"])
    assert "--text is for recordings, but a data set has its own transcripts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["talks", "--min-score", "1.5"], "--min-score is 1.5"),
        (["talks", "--min-score", "nan"], "--min-score is nan"),
        (["talks", "--aligner", "tones:nothing"], "tones:nothing"),
        (["talks", "--asr", "no_such_module:hear"], "no_such_module"),
        (["talks", "--language", "Amharic"], "Language code 'Amharic'"),
        (["talks", "--text", "missing.txt"], "missing.txt"),
        (["hf:fleurs"], "is not the name of a data set on the hub"),
    ],
)
def test_what_the_user_can_fix_has_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recording(tmp_path / "talks" / "talk.flac", make_sentences(1))
    defaults = ["--language", "en", "--output", "out", "--aligner", "tones:align"]
    with pytest.raises(SystemExit) as stopped:
        main(["make-dataset", *defaults, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_default_aligner_is_the_one_that_is_documented() -> None:
    assert make_dataset_command._DEFAULT_ALIGNER == DEFAULT_ALIGNER
    page = (Path(__file__).parents[2] / "docs" / "long-recordings.md").read_text(encoding="utf-8")
    assert DEFAULT_ALIGNER in page
    assert DEFAULT_ALIGNER_LICENSE in page
