"""Long recordings of a project, with the texts that make-dataset uses, and what it does not use."""

from __future__ import annotations

import os

import pytest

from xtts_extend.page.project import Project, Settings
from xtts_extend.page.sources_view import Sources, list_sources


@pytest.fixture
def project(tmp_path) -> Project:
    project = Project.open(tmp_path / "ፕሮጀክት one")
    project.save(Settings("am"))
    return project


def write(project: Project, *names: str) -> None:
    for name in names:
        file = project.folder / "recordings" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # Recordings with the same content would be used once.
        file.write_text(name, encoding="utf-8")


def listed(project: Project) -> list[tuple[str, str, str]]:
    """Return each recording's name, text and speaker."""
    folder = project.folder / "recordings"
    return [
        (one.path.relative_to(folder).as_posix(), one.text_path.name if one.text_path else "", one.speaker_name)
        for one in list_sources(project).recordings
    ]


def test_an_empty_folder(project):
    assert list_sources(project) == Sources()


def test_recordings_with_their_texts(project):
    write(project, "talk.mp3", "talk.am.srt", "talk.en.srt", "አና/ለ.mkv", "አና/መጽሐፍ.txt", ".hidden.mp3", "notes.docx")
    found = list_sources(project)
    assert listed(project) == [("talk.mp3", "talk.am.srt", "speaker"), ("አና/ለ.mkv", "መጽሐፍ.txt", "አና")]
    folder = project.folder / "recordings"
    assert found.texts == {name: folder / name for name in ("talk.am.srt", "talk.en.srt", "አና/መጽሐፍ.txt")}
    assert found.problems == [
        "notes.docx is not used: it matches no recording, or repeats one.",
        "talk.en.srt is not used: it matches no recording, or repeats one.",
    ]


def test_the_language_may_be_chosen_later(project):
    project.save(Settings())
    write(project, "talk.mp3", "talk.srt")
    assert listed(project) == [("talk.mp3", "talk.srt", "speaker")]


def test_linked_recordings_are_listed_once(project, tmp_path):
    folder = project.folder / "recordings"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.mp3").write_bytes(b"xy")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "up").symlink_to(folder, target_is_directory=True)
    assert listed(project) == [("linked/b.mp3", "", "linked")]


def test_what_cannot_be_used_is_said(project):
    write(project, "a.mp3", "a.srt")
    folder = project.folder / "recordings"
    (folder / "gone.mp3").symlink_to(project.folder / "nothing")
    with open(os.fsencode(folder) + b"/\xff.srt", "wb"):
        pass
    assert sorted(list_sources(project).problems) == [
        "'\\udcff.srt' has a name that is not valid Unicode. Rename it.",
        "gone.mp3 is a broken link.",
    ]
    (folder / "a.srt").write_bytes(b"")
    assert list_sources(project).recordings == []
    assert any("a.srt is empty" in problem for problem in list_sources(project).problems)
