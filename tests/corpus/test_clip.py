"""Clips and items set aside survive a round trip through JSON, and damaged files are named with the line."""

import json
from dataclasses import replace

import pytest
from clips import SCORES, make_clip

from xtts_extend.corpus.clip import Reason, Scores, SetAside, read_clips
from xtts_extend.errors import DataError

REJECTED = make_clip(70.5, 80.25, rejected=Reason.LOW_SCORE, detail="The score is 0.2.", edited=True)


def write(path, *objects):
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects), encoding="utf-8")
    return path


def test_contract():
    clip = make_clip(audio_file="wavs/a/b.wav", split="val")
    assert clip.to_json() == {
        "clip": "sermon-3fa2c1d0-00012345",
        "recording": "in/My Sermon.mp3",
        "recording_id": "sermon-3fa2c1d0",
        "audio_file": "wavs/a/b.wav",
        "text": "ሰላም ለዓለም።",
        "start": 12.345,
        "end": 17.345,
        "speaker_name": "speaker",
        "language": "am",
        "split": "val",
        "rejected": None,
        "detail": "",
        "edited": False,
        "score": 0.9,
        "scores": {
            "alignment": 0.9,
            "error_rate": None,
            "characters_per_second": 12.0,
            "signal_to_noise_db": 30.0,
            "silence_before_s": 0.1,
            "silence_after_s": 0.2,
            "clipped_samples": 0,
        },
    }
    assert make_clip(1.0, 3.5).duration_s == 2.5


def test_round_trip(tmp_path):
    clips = [make_clip(split="train"), REJECTED, make_clip(1 / 3, scores=replace(SCORES, signal_to_noise_db=None))]
    assert read_clips(write(tmp_path / "clips.jsonl", *(clip.to_json() for clip in clips))) == clips
    for item in (
        SetAside("a-00000000", "a.mp3", 1.5, 2.5, "", Reason.SPEECH_WITHOUT_TEXT, "1 s of speech."),
        SetAside("a-00000000", "a.mp3", None, None, "ሰላም", Reason.TEXT_WITHOUT_SPEECH, "No anchor."),
    ):
        assert SetAside.from_json(json.loads(json.dumps(item.to_json())), "here") == item


@pytest.mark.parametrize(
    ("alignment", "error_rate", "score"),
    [(0.8, None, 0.8), (0.8, 0.1, 0.8), (0.8, 0.5, 0.5), (0.8, 1.7, 0.0), (None, None, 1.0), (None, 0.25, 0.75)],
)
def test_score_is_the_lower_of_alignment_and_recognition(alignment, error_rate, score):
    assert Scores(alignment, error_rate, 1, 1, 0, 0, 0).score == score


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 3}, "clips.jsonl, line 2: Expected text to be str, got 3."),
        ({"start": float("nan")}, "line 2: Expected start to be a finite number, got nan."),
        ({"end": True}, "line 2: Expected end to be a finite number, got True."),
        ({"split": "test"}, "line 2: Expected split to be train, val or null, got 'test'."),
        ({"rejected": "ugly"}, "line 2: Expected rejected to be one of text_without_speech, .*, got 'ugly'."),
        ({"scores": {}}, "line 2: Expected alignment to be a finite number, got nothing."),
        ({"scores": []}, r"line 2: Expected scores to be dict, got \[\]."),
        ({"scores": {**REJECTED.to_json()["scores"], "clipped_samples": True}}, "clipped_samples to be int, got True"),
    ],
)
def test_damaged_values_are_named(tmp_path, change, message):
    path = write(tmp_path / "clips.jsonl", make_clip().to_json(), {**REJECTED.to_json(), **change})
    with pytest.raises(DataError, match=message):
        read_clips(path)


@pytest.mark.parametrize("line", [b"{", b"\xff", b"[" * 100_000])
def test_damaged_lines_are_named(tmp_path, line):
    (tmp_path / "clips.jsonl").write_bytes(b"\n" + line + b"\n")
    with pytest.raises(DataError, match=r"clips\.jsonl, line 2 is not valid JSON in UTF-8"):
        read_clips(tmp_path / "clips.jsonl")


def test_lines_without_an_object(tmp_path):
    with pytest.raises(DataError, match="line 1: Expected a JSON object, got list"):
        read_clips(write(tmp_path / "clips.jsonl", []))
    with pytest.raises(DataError, match=r"missing\.jsonl cannot be read: No such file or directory"):
        read_clips(tmp_path / "missing.jsonl")
