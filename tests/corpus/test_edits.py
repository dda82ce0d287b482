"""Edits are appended, the last value counts, and what cannot be applied is named with its line."""

import json
import logging
from dataclasses import replace

import pytest
from clips import SCORES, make_clip

from xtts_extend.corpus.clip import Reason
from xtts_extend.corpus.edits import Edit, append_edit, apply_edit, apply_edits, read_edits
from xtts_extend.errors import DataError, MachineError

CLIP = make_clip(12.345)
OTHER = make_clip(70.0, rejected=Reason.LOW_SCORE, detail="The score is 0.2.")
DURATIONS = {CLIP.recording_id: 100.0}
MEASURED = replace(SCORES, alignment=None, characters_per_second=7.0)


def apply(*edits):
    """Return the clips with edits applied, by id."""
    clips, unmatched = apply_edits([CLIP, OTHER], edits, DURATIONS, lambda clip: MEASURED)
    assert [clip.id for clip in clips] == [CLIP.id, OTHER.id]
    assert unmatched == []
    return clips


def test_lines_are_appended_and_read_back(tmp_path):
    path = tmp_path / "edits.jsonl"
    assert read_edits(path) == []
    edits = [Edit("a", text="ሰላም", start=1.5), Edit("b", drop=True), Edit("a", end=3, drop=False)]
    append_edit(path, replace(edits[0], text=" ሰላም\n"))
    append_edit(path, edits[1])
    append_edit(path, edits[2])
    assert path.read_text(encoding="utf-8").splitlines() == [
        '{"clip": "a", "text": "ሰላም", "start": 1.5}',
        '{"clip": "b", "drop": true}',
        '{"clip": "a", "end": 3, "drop": false}',
    ]
    assert read_edits(path) == edits
    assert [edit.line for edit in read_edits(path)] == [1, 2, 3]


def test_an_incomplete_line_does_not_damage_the_next_one(tmp_path):
    path = tmp_path / "edits.jsonl"
    path.write_bytes(b'{"clip": "a", "te')
    append_edit(path, Edit("b", drop=True))
    with pytest.raises(DataError, match=r"edits\.jsonl, line 1 is not valid JSON") as error:
        read_edits(path)
    assert "line 2" not in str(error.value)
    path.write_bytes(path.read_bytes().splitlines()[1])
    assert read_edits(path) == [Edit("b", drop=True)]


def test_file_that_cannot_be_written(tmp_path):
    with pytest.raises(MachineError, match=r"could not be written: .*\. This change was lost"):
        append_edit(tmp_path / "no" / "edits.jsonl", Edit("a", drop=True))


def test_changed_values(tmp_path):
    edited, other = apply(Edit(CLIP.id, text="አንድ", end=20))
    assert other == OTHER
    assert edited == replace(CLIP, text="አንድ", end_s=20.0, scores=MEASURED, edited=True)
    assert isinstance(edited.end_s, float)


def test_times_may_be_rounded():
    assert apply_edit(make_clip(95.0), Edit("", end=100.2), 100.1999).end_s == 100.1999
    assert apply_edit(CLIP, Edit(CLIP.id, end=23.945), 100.0).end_s == 23.945


def test_accepting_and_dropping():
    dropped, accepted = apply(Edit(CLIP.id, drop=True, line=7), Edit(OTHER.id, drop=False))
    assert dropped == replace(CLIP, rejected=Reason.DROPPED, detail="Dropped by edits.jsonl, line 7.", edited=True)
    assert accepted == replace(OTHER, rejected=None, detail="", edited=True)


@pytest.mark.parametrize(
    ("edits", "text", "start_s", "rejected"),
    [
        ([{"text": "a"}, {"text": "b"}], "b", 12.345, None),
        ([{"text": "a"}, {"start": 13.0}], "a", 13.0, None),
        ([{"drop": True}, {"text": "a"}], "a", 12.345, None),
        ([{"text": "a", "drop": True}], "a", 12.345, Reason.DROPPED),
        ([{"text": "a"}, {"drop": True}, {"drop": False}], "a", 12.345, None),
        # The first line alone would start after its end.
        ([{"start": 20.0}, {"end": 25.0}], CLIP.text, 20.0, None),
    ],
    ids=["last text", "fields merge", "text accepts", "text and drop", "dropped and back", "checked when merged"],
)
def test_later_lines_override(edits, text, start_s, rejected):
    clip = apply(*(Edit(CLIP.id, **values) for values in edits))[0]
    assert (clip.text, clip.start_s, clip.rejected) == (text, start_s, rejected)


def test_edits_of_other_clips_are_named(caplog):
    with caplog.at_level(logging.WARNING, "trainer"):
        clips, unmatched = apply_edits([CLIP], [Edit("gone", drop=True)], DURATIONS, lambda clip: MEASURED)
    assert (clips, unmatched) == ([CLIP], ["gone"])
    assert "edits of clips that do not exist (1), which are ignored: gone." in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": 20.0}, r"The clip would start at 20 s and end at 17\.345 s\. Correct start or end\."),
        ({"start": 17.345}, r"start at 17\.345 s and end at 17\.345 s"),
        ({"start": -0.1, "end": 5.0}, r"from -0\.1 to 5 s, but the recording is from 0 to 100 s"),
        ({"start": 95.0, "end": 100.5}, "from 95 to 100.5 s, but the recording is from 0 to 100 s"),
        ({"end": 23.95}, r"11\.605 s long, but XTTS accepts at most 11\.6 s"),
        ({"start": float("nan")}, "The start is nan. Expected seconds."),
        ({"end": 10**400}, "The end is 1000.*0. Expected seconds."),
        ({"text": " \n"}, "The text '' has no letters. Type what is spoken, or drop the clip."),
        ({"text": "...!"}, "The text '...!' has no letters."),
        ({"text": "a|b"}, r"The text contains \|, which separates columns"),
        ({"text": "a\ud800"}, "unpaired surrogate"),
        ({}, "Nothing is changed."),
    ],
)
def test_values_that_cannot_be_used(values, message):
    with pytest.raises(DataError, match=f"^Edit of sermon-3fa2c1d0-00012345: .*{message}"):
        apply_edit(CLIP, Edit(CLIP.id, **values), 100.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "a"}, r'Expected an object with a clip, such as {"clip": "ID", "drop": true}\.'),
        (["a"], "Expected an object with a clip"),
        ({"clip": "a", "txt": "b"}, "Unknown key 'txt'. Expected clip, text, start, end and drop."),
        ({"clip": "a", "text": 3}, "Expected text to be a string, got 3."),
        ({"clip": "a", "start": "1"}, "Expected start to be a number, got '1'."),
        ({"clip": "a", "end": True}, "Expected end to be a number, got True."),
        ({"clip": "a", "drop": 1}, "Expected drop to be true or false, got 1."),
        ({"clip": "a", "start": float("inf")}, "The start is inf."),
        ({"clip": "a\ud800", "drop": True}, "The clip or text contains an invalid character"),
    ],
)
def test_lines_that_are_no_edits(tmp_path, line, message):
    path = tmp_path / "edits.jsonl"
    path.write_text('{"clip": "a", "drop": true}\n\n' + json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"line 3: {message}"):
        read_edits(path)


def test_all_problems_are_counted(tmp_path):
    path = tmp_path / "edits.jsonl"
    path.write_text('{"clip": "a"}\n' * 12, encoding="utf-8")
    with pytest.raises(DataError, match=r"^Edits that cannot be used: 12\.\n.*line 1: Nothing is changed") as error:
        read_edits(path)
    assert len(str(error.value).splitlines()) == 11
    edits = [Edit(CLIP.id, start=50.0, line=4), Edit(OTHER.id, end=1.0, line=9)]
    with pytest.raises(
        DataError, match=r"cannot be used: 2\.\nedits\.jsonl, line 4 \(sermon-.*\nedits\.jsonl, line 9 "
    ):
        apply_edits([CLIP, OTHER], edits, DURATIONS, lambda clip: MEASURED)
