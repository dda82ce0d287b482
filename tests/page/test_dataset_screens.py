"""The screens for long recordings: what they start, what they refuse, and the corrections that they store."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
from data_sets import CLIP, RECORDING
from test_hostile_input import VALID

from xtts_extend.corpus.edits import EDITS_FILE, Edit, read_edits
from xtts_extend.page import jobs
from xtts_extend.page.project import Project


def test_a_data_set_is_made_with_checked_answers(page, started):
    number = page.event("Make the data set")
    labels = [page.label(one) for one in page.events[number]["inputs"]]
    started.clear()
    assert "no processes in tests" in page.fire(number, [VALID[label] for label in labels])
    folder = page.project.folder
    expected = [
        "make-dataset", "--language=am", f"--output={folder}/data/dataset", f"--text={folder}/recordings/book.txt",
        "--speaker=አና", f"--aligner={folder}/ctc", "--asr=facebook/mms-1b-all", "--asr-language=amh", "--min-score=0.5",
        f"{folder}/recordings",
    ]  # fmt: skip
    assert started == [expected]
    assert page.fire(page.event("Show the make-dataset command"), ["The text beside each recording", *[None] * 5]) == [
        f"xtts-extend make-dataset --language=am '--output={folder}/data/dataset' '{folder}/recordings'"
    ]


@pytest.mark.parametrize("label", ["Alignment model", "Speech recognizer"])
def test_functions_are_not_accepted_from_browsers(page, started, label, nothing_outside):
    number = page.event("Make the data set")
    labels = [page.label(one) for one in page.events[number]["inputs"]]
    started.clear()
    answer = page.fire(number, ["os:system" if one == label else VALID[one] for one in labels])
    assert "Functions (module:function) are accepted only on the command line." in answer
    assert started == []


def test_clips_are_corrected_for_the_next_run(page, started):
    edits = page.project.folder / "data" / "dataset" / EDITS_FILE
    edits.unlink(missing_ok=True)
    player, text, start, end, span = page.fire(page.event("Clip"), [CLIP])
    assert (text, start, end, span) == ("ቃል 3.", 3.0, 5.0, None)
    assert page.client.get(player["url"]).content == (edits.parent / "wavs" / RECORDING / f"{CLIP}.wav").read_bytes()
    save, drop = page.event("Save and accept"), page.event("Drop the clip")
    note, group, table, *_ = page.fire(save, [CLIP, "አዲስ\nቃል.", 3, 4.5, "accepted", 1])
    assert note == "Corrections that wait for the next run: 1. Clips are shown 20 at a time."
    assert ["accepted (2)", "accepted"] in group["choices"]
    assert table["data"][0] == [
        CLIP, 0.4, 3.0, 4.5, "አዲስ ቃል.", "accepted (train) → accepted as edited in the next run"
    ]  # fmt: skip
    assert "Nothing has changed" in page.fire(save, [CLIP, "አዲስ ቃል.", 3, 4.5, "accepted", 1])
    assert "at most 11.6 s" in page.fire(save, [CLIP, "x", 0, 12, "accepted", 1])
    assert "has no letters" in page.fire(save, [CLIP, " ", 3, 4.5, "accepted", 1])
    assert "the recording is from 0 to 20 s" in page.fire(save, [CLIP, "x", 19, 20.5, "accepted", 1])
    page.fire(save, [f"{RECORDING}-00005000", "ቃል 5.", 5, 7, "accepted", 1])
    page.fire(drop, [CLIP, "", None, None, "accepted", 1])
    assert read_edits(edits) == [
        Edit(CLIP, text="አዲስ ቃል.", end=4.5, drop=False),
        Edit(f"{RECORDING}-00005000", drop=False),
        Edit(CLIP, drop=True),
    ]
    edits.unlink()
    started.clear()
    answer = page.fire(page.event("Apply the corrections (run make-dataset again)"), [])
    assert answer == "Start make-dataset on the Recordings screen. It also applies the corrections."
    assert started == []


def test_new_limits_of_a_clip_can_be_heard(page):
    number = page.event("Hear the new start and end")
    (heard,) = page.fire(number, [CLIP, 2.5, 4])
    with wave.open(heard["path"]) as file:
        assert (file.getframerate(), file.getnframes()) == (24_000, 36_000)
        assert max(file.readframes(36_000)[1::2]) > 100, "a quiet recording is made louder"
    assert Path(heard["path"]).is_relative_to(page.project.folder / ".page")
    assert "The recording ends before 21 s." in page.fire(number, [CLIP, 21, 22])
    assert "up to 60 s after the start" in page.fire(number, [CLIP, 4, 2.5])


def test_corrections_are_applied_by_the_last_command_again(page, started, monkeypatch):
    output = f"--output={page.project.folder}/data/dataset"
    job = jobs.Job(Path("j"), "make-dataset", "Data set", ("make-dataset", output, "r"), "", "")
    monkeypatch.setattr(jobs.Job, "state", "finished")
    monkeypatch.setattr(Project, "jobs", lambda project: [job])
    started.clear()
    number = page.event("Apply the corrections (run make-dataset again)")
    assert "no processes in tests" in page.fire(number, [])
    assert started == [["make-dataset", output, "r"]]
    monkeypatch.setattr(jobs.Job, "state", "running")
    assert "already being made" in page.fire(number, [])
