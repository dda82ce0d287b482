"""Names of recordings as other systems spell them."""

from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path

import pytest

from xtts_extend.data.check import DataReport
from xtts_extend.data.paths import FOLDERS, any_exists, describe_search, find_recordings

NFC, NFD = "wavs/é.wav", unicodedata.normalize("NFD", "wavs/é.wav")
BELOW = unicodedata.normalize("NFD", "éa/b.wav")

CASES = {
    "as it stands": ("wavs/a.wav", "wavs/a.wav", "wavs/a.wav", None),
    "in wavs": ("a.wav", "wavs/a.wav", "wavs/a.wav", "in wavs/"),
    "in clips, below": ("x/a.mp3", "clips/x/a.mp3", "clips/x/a.mp3", "in clips/"),
    "suffix missing": ("a.b", "wavs/a.b.opus", "wavs/a.b.opus", "with a file extension added"),
    "suffix missing, capitals": ("a", "audio/a.M4A", "audio/a.M4A", "with a file extension added"),
    "suffix in capitals": ("wavs/a.wav", "wavs/a.WAV", "wavs/a.WAV", "with a file extension in a different case"),
    "suffix in small letters": ("a.FLAC", "a.flac", "a.flac", "with a file extension in a different case"),
    "converted": ("clips/a.mp3", "clips/a.wav", "clips/a.wav", "with a different file extension"),
    "letters in another case": ("Wavs/A.wav", "wavs/a.wav", "wavs/a.wav", "with letters in a different case"),
    "composed": (NFC, NFD, NFD, "in a different Unicode normalization form"),
    "decomposed": (NFD, NFC, NFC, "in a different Unicode normalization form"),
    "decomposed without suffix": (NFD[:-4], NFC, NFC, "with a file extension added"),
    "folder decomposed": ("éa/b.wav", BELOW, BELOW, "in a folder with a different spelling"),
    "backslashes": (r".\wavs\x\a.wav", "wavs/x/a.wav", "./wavs/x/a.wav", "with backslashes treated as slashes"),
    "a name with a backslash": (r"a\b.wav", r"a\b.wav", r"a\b.wav", None),
    "spaces": (" wavs/a.wav ", "wavs/a.wav", "wavs/a.wav", "without surrounding spaces"),
    "a name with spaces": (" a b .wav ", " a b .wav ", " a b .wav ", None),
    "another machine": ("/content/My Drive/wavs/a.wav", "wavs/a.wav", "wavs/a.wav", "by the last components of a path"),
    "another system": (r"D:\voices\anna\a.wav", "anna/a.wav", "anna/a.wav", "with backslashes treated as slashes"),
    "from the parent": ("data/wavs/a.wav", "wavs/a.wav", "../data/wavs/a.wav", "relative to the parent folder"),
    "nowhere": ("a.wav", "b.wav", None, None),
    "of another name": ("a.wav", "wavs/aa.wav", None, None),
    "a text beside it": ("a", "a.txt", None, None),
    "a folder": ("wavs", "wavs/a.wav", None, None),
    "null character": ("a\0.wav", "a.wav", None, None),
    "nothing": ("", "a.wav", None, None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "file", "expected", "difference"), CASES.values(), ids=CASES)
def test_names_and_files(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    file: str,
    expected: str | None,
    difference: str | None,
) -> None:
    caplog.set_level(logging.INFO)
    manifest = tmp_path / "data" / "m.csv"
    (manifest.parent / file).parent.mkdir(parents=True)
    (manifest.parent / file).touch()
    assert find_recordings([name, name], manifest) == [expected, expected]
    assert any_exists([name], manifest) == (expected is not None)
    assert len(caplog.records) == (difference is not None)
    assert difference is None or f"2 {difference}" in caplog.text


def test_an_absolute_path_that_exists(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.wav").touch()
    name = str(tmp_path / "elsewhere" / "a.wav")
    assert find_recordings([name], tmp_path / "m.csv") == [name]


def test_two_absolute_paths_never_share_a_file(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / "1.wav").touch()
    assert find_recordings(["/x/anna/1.wav", "/x/ben/1.wav"], tmp_path / "m.csv") == [None, None]
    assert find_recordings(["wavs/1.wav", "/x/ben/1.wav"], tmp_path / "m.csv") == ["wavs/1.wav", None]


def test_the_closest_match_wins(tmp_path: Path) -> None:
    for name in ("a.mp3", "a.wav", "A.wav", "b.ogg", "B.ogg"):
        (tmp_path / name).touch()
    names = ["a", "A", "a.WAV", "b.OGG", "B"]
    assert find_recordings(names, tmp_path / "m.csv") == ["a.wav", "A.wav", "a.wav", "b.ogg", "B.ogg"]


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["A1.wav", "a1.wav", "a1.wav"], "'A1.wav' and 'a1.wav' (wavs/a1.wav)"),
        (["a1", "a2", "wavs/A1.mp3", "a1.wav"], "'a1' and 'wavs/A1.mp3' and 'a1.wav' (wavs/a1.wav)"),
        (["a1", "a1", "a2", "a2"], None),
        (["wavs/a1.wav", "wavs/a1.wav"], None),
    ],
    ids=["case", "three", "the same names", "exact"],
)
def test_names_that_share_a_file_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], shared: str | None
) -> None:
    (tmp_path / "wavs").mkdir()
    for name in ("a1.wav", "a2.wav"):
        (tmp_path / "wavs" / name).touch()
    assert None not in find_recordings(names, tmp_path / "m.csv")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [f"Different names resolve to the same file: {shared}. If they" in line for line in warnings] == [
        True
    ] * bool(shared)


def test_folders_are_listed_once_without_a_call_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wavs").mkdir()
    for number in range(50):
        (tmp_path / "wavs" / f"{number}.wav").touch()
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    calls = 0
    stat = os.stat

    def count(*args: object, **kwargs: object) -> os.stat_result:
        nonlocal calls
        calls += 1
        return stat(*args, **kwargs)

    monkeypatch.setattr(os, "stat", count)
    locations = find_recordings([str(number) for number in range(60)], tmp_path / "m.csv")
    assert locations == [f"wavs/{number}.wav" for number in range(50)] + [None] * 10
    assert calls == 0
    assert sorted(map(os.path.normpath, listed)) == sorted(str(tmp_path / folder) for folder in FOLDERS)


def test_the_description_of_a_search_names_the_folders(tmp_path: Path) -> None:
    description = describe_search("a1", str(tmp_path / "m.csv"))
    assert (
        f"For example, 'a1' was not found in {tmp_path} or in its subfolders (wavs, wav, clips, audio)" in description
    )


@pytest.mark.parametrize(("total", "named"), [(2, False), (3, True)], ids=["all missing", "some missing"])
def test_names_are_listed_unless_every_recording_is_missing(tmp_path: Path, total: int, named: bool) -> None:
    entries = [
        {"manifest_audio_file": name, "manifest": str(tmp_path / "m.csv"), "line": 1, "language": "am", "detail": "no"}
        for name in ("a1", "a2")
    ]
    report = DataReport(total=total, usable=[], problems={"missing": entries}, warnings={}, hours={})
    for names in (None, 20):
        lines = report.summary(names).splitlines()
        assert any("a2 (line 1 of" in line for line in lines) == named
        missing = "every recording is missing (2 in total). For example, 'a1' was not found in"
        assert sum(missing in line for line in lines) == 1 - named
