"""A data set on the page: counts, groups, the worst clips first, and which edits wait for the next run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from data_sets import RECORDING, clip, write_data_set

from xtts_extend.corpus.clip import CLIPS_FILE, Reason
from xtts_extend.corpus.edits import EDITS_FILE, Edit, append_edit
from xtts_extend.errors import ConfigError, DataError
from xtts_extend.page import dataset_view
from xtts_extend.page.dataset_view import ACCEPTED, ALL, WAITING, EditedClip, edited_clips, groups, in_group, summarize
from xtts_extend.page.project import Project

CLIPS = [
    clip(1, 0.9),
    clip(3, 0.4),
    clip(5, 0.8, split="val"),
    clip(7, 0.2, Reason.LOW_SCORE),
    clip(9, 0.6, Reason.DROPPED),
]


@pytest.fixture
def project(tmp_path) -> Project:
    project = Project.open(tmp_path / "ፕሮጀክት one")
    write_data_set(dataset_view.dataset_folder(project), *CLIPS)
    return project


def test_the_worst_clips_are_first(project):
    clips = edited_clips(project)
    assert [one.clip.scores.score for one in clips] == [0.2, 0.4, 0.6, 0.8, 0.9]
    assert [one.name for one in in_group(clips, ACCEPTED)] == [
        f"{RECORDING}-00003000",
        f"{RECORDING}-00005000",
        f"{RECORDING}-00001000",
    ]
    assert groups(clips) == {ACCEPTED: 3, "low_score": 1, "dropped": 1, ALL: 5}
    assert [one.status for one in in_group(clips, "low_score")] == ["Low alignment score: Why."]
    assert in_group(clips, ALL) == list(clips)


def test_counts_of_the_data_set(project):
    found = summarize(project)
    assert (found.train, found.val, found.accepted_s) == (2, 1, 6.0)
    assert found.set_aside == {
        "Low alignment score": (1, 2.0),
        "Dropped by hand": (1, 2.0),
        "Text without speech": (1, 0.0),
    }


def test_edits_are_shown_until_a_run_has_applied_them(project):
    file = dataset_view.dataset_folder(project) / EDITS_FILE
    first = f"{RECORDING}-00001000"
    before = dataset_view.version_of(project)
    append_edit(file, Edit(first, text="አዲስ", drop=True))
    assert dataset_view.version_of(project) != before
    (one,) = in_group(edited_clips(project), WAITING)
    assert (one.name, one.text, one.is_dropped) == (first, "አዲስ", True)
    assert one.status == "accepted (train) → dropped in the next run"
    append_edit(file, Edit(first, start=0.5, drop=False))
    append_edit(file, Edit("gone", drop=True))
    (one,) = in_group(edited_clips(project), WAITING)
    assert (one.text, one.start_s, one.end_s, one.is_dropped) == ("አዲስ", 0.5, 3.0, False)
    assert one.status == "accepted (train) → accepted as edited in the next run"
    applied = replace(CLIPS[0], text="አዲስ", start_s=0.5, edited=True)
    write_data_set(dataset_view.dataset_folder(project), applied, *CLIPS[1:])
    assert in_group(edited_clips(project), WAITING) == []


@pytest.mark.parametrize(
    ("one", "edit", "waits"),
    [
        (clip(1, 0.5), None, False),
        (clip(1, 0.5), Edit("c", drop=True), True),
        (clip(1, 0.5, Reason.DROPPED, edited=True), Edit("c", text="x", drop=True), False),
        (clip(1, 0.5, Reason.DROPPED, edited=True), Edit("c", drop=False), True),
        (clip(1, 0.5, Reason.NOISY), Edit("c", drop=False), True),
        (clip(1, 0.5, edited=True), Edit("c", drop=False), False),
        (clip(1, 0.5, edited=True), Edit("c", end=3.5, drop=False), True),
        (clip(1, 0.5, edited=True), Edit("c", start=1.0, end=3.0, text="ቃል 1.", drop=False), False),
        (clip(1, 0.5, Reason.BORDER, edited=True), Edit("c", drop=False), False),
    ],
    ids=["none", "drop", "dropped", "restore", "accept", "accepted", "moved", "the same", "border"],
)
def test_which_edits_wait(one, edit, waits):
    assert EditedClip(one, edit).is_waiting is waits


def test_without_a_data_set_there_is_nothing(tmp_path):
    project = Project.open(tmp_path)
    assert (edited_clips(project), summarize(project), groups(())) == ((), None, {})


def test_damaged_files_are_named(project):
    folder = dataset_view.dataset_folder(project)
    (folder / "rejected.csv").write_text("start|end|reason\n1|2|unheard_of\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rejected\.csv is damaged .*unheard_of.* Run make-dataset again"):
        summarize(project)
    (folder / CLIPS_FILE).write_text("{\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"clips\.jsonl, line 1 is not valid JSON"):
        edited_clips(project)


@pytest.mark.parametrize("name", ["../../jobs/x/log.txt", "wavs/../../../project.json", "/etc/passwd", "train.csv"])
def test_only_recordings_of_clips_are_played(project, name):
    with pytest.raises(DataError, match="outside wavs"):
        dataset_view.audio_of(project, clip(1, 0.5, audio_file=name))


def test_recordings_of_clips(project):
    folder = dataset_view.dataset_folder(project)
    assert dataset_view.audio_of(project, CLIPS[0]) == folder / "wavs" / RECORDING / f"{RECORDING}-00001000.wav"
    assert dataset_view.audio_of(project, clip(1, 0.5, audio_file="")) is None
    assert dataset_view.working_copy(project, CLIPS[0]) == folder / ".work" / RECORDING / "audio.flac"
    assert dataset_view.duration_s(project, CLIPS[0]) == 20.0
    other = clip(1, 0.5, recording_id="other")
    assert (dataset_view.working_copy(project, other), dataset_view.duration_s(project, other)) == (None, math.inf)
    with pytest.raises(ConfigError, match="not allowed in names"):
        dataset_view.working_copy(project, clip(1, 0.5, recording_id="../../jobs"))
