"""Recordings in folders, the texts that belong to them, speakers, and repeated recordings."""

from __future__ import annotations

import errno
import logging
import unicodedata
from pathlib import Path

import pytest

from xtts_extend.corpus import sources
from xtts_extend.corpus.sources import Source, TextKind, find_sources
from xtts_extend.errors import ConfigError, DataError

SRT = "1\n00:00:01,000 --> 00:00:02,000\nሰላም\n"


def make(root: Path, *names: str) -> Path:
    """Write files of different contents and return their root."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SRT if path.suffix == ".srt" else f"{name} {number}", encoding="utf-8")
    return root


def found(root: Path, *paths: str, **options: object) -> dict[str, tuple[str | None, str, str]]:
    """Return text, kind and speaker by recording, with paths relative to the root."""
    found_sources = find_sources([root / path for path in paths or ("",)], "am", **options)

    def name(path: Path | None) -> str | None:
        return None if path is None else path.relative_to(root).as_posix()

    return {
        name(source.path): (name(source.text_path), source.kind.value, source.speaker_name) for source in found_sources
    }


NONE = (None, "none", "speaker")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.mp3"], {"a.mp3": NONE}),
        (["a.mp3", "a.txt"], {"a.mp3": ("a.txt", "transcript", "speaker")}),
        (["a.mp3", "a.srt", "a.txt"], {"a.mp3": ("a.srt", "subtitles", "speaker")}),
        (["a.mp3", "a.mp3.srt"], {"a.mp3": ("a.mp3.srt", "subtitles", "speaker")}),
        (["a.wav", "a.wav.srt"], {"a.wav": ("a.wav.srt", "subtitles", "speaker")}),
        (["a.b.mp3", "a.b.mp3.am.default.srt"], {"a.b.mp3": ("a.b.mp3.am.default.srt", "subtitles", "speaker")}),
        (["a.mkv", "a.srt", "a.am.vtt", "a.en.srt"], {"a.mkv": ("a.am.vtt", "subtitles", "speaker")}),
        (["a.mp3", "a.AMH.txt"], {"a.mp3": ("a.AMH.txt", "transcript", "speaker")}),
        (["a.mp3", "a.am-ET.forced.srt"], {"a.mp3": ("a.am-ET.forced.srt", "subtitles", "speaker")}),
        (["a.mp3", "a.en.srt", "a.srt"], {"a.mp3": ("a.srt", "subtitles", "speaker")}),
        (["a.mp3", "a.en.srt"], {"a.mp3": NONE}),
        (["a.mp3", "ab.srt", "a b.srt"], {"a.mp3": NONE}),
        (["Talk (2) [x].m4a", "talk (2) [x].SRT"], {"Talk (2) [x].m4a": ("talk (2) [x].SRT", "subtitles", "speaker")}),
        (
            ["1.mp3", "2.mp3", "10.mp3", "book.txt", "README.txt"],
            dict.fromkeys(("1.mp3", "2.mp3", "10.mp3"), ("book.txt", "book", "speaker")),
        ),
        (["1.mp3", "book.txt"], {"1.mp3": ("book.txt", "transcript", "speaker")}),
        (["1.mp3", "2.mp3", "1.txt"], {"1.mp3": ("1.txt", "transcript", "speaker"), "2.mp3": NONE}),
        (["1.mp3", "2.mp3", "one.txt", "two.txt"], {"1.mp3": NONE, "2.mp3": NONE}),
        (["1.mp3", "2.mp3", "1.srt", "book.txt"],
         {"1.mp3": ("1.srt", "subtitles", "speaker"), "2.mp3": ("book.txt", "transcript", "speaker")}),
        (["1.mp3", "d/book.txt", "d/2.mp3"], {"1.mp3": NONE, "d/2.mp3": ("d/book.txt", "transcript", "d")}),
        (
            ["maria/disc 1/a.mp3", "maria/b.mp3", "x|\ty/c.mp3", "d.mp3"],
            {
                "maria/disc 1/a.mp3": (None, "none", "maria"),
                "maria/b.mp3": (None, "none", "maria"),
                "x|\ty/c.mp3": (None, "none", "x y"),
                "d.mp3": NONE,
            },
        ),
        ([".a.mp3", "._b.mp3", ".work/c.wav", "__MACOSX/d.mp3", "notes.pdf", "e.ogg"], {}),
        (["a.mp3", "sub/.hidden/b.mp3", "data/clips.jsonl", "data/wavs/c.wav", "part/.work/x", "part/wavs/d.wav"],
         {"a.mp3": NONE}),
    ],
    ids=[
        "no text", "transcript", "subtitles before transcript", "whole name",
        "extension of three letters", "all parts", "language first", "other code",
        "region and kind", "no language before another", "another language", "other names", "brackets and case",
        "book", "single", "another's transcript", "two books", "book for the rest", "folders", "speakers",
        "all skipped", "data sets",
    ],
)  # fmt: skip
def test_texts_and_speakers_of_a_folder(
    tmp_path: Path, files: list[str], expected: dict[str, tuple[str | None, str, str]]
) -> None:
    make(tmp_path, *files)
    if not expected:
        with pytest.raises(DataError, match="contains no recordings. It is a data set that make-dataset wrote"):
            found(tmp_path)
        (tmp_path / ".work").rename(tmp_path / "work")
        expected = {"e.ogg": NONE, "work/c.wav": (None, "none", "work")}
    assert found(tmp_path) == expected


def test_recordings_are_sorted_by_number(tmp_path: Path) -> None:
    make(tmp_path, "b 10.mp3", "b 9.mp3", "a/2.mp3", "a/11.mp3", "b 9a.mp3")
    assert list(found(tmp_path)) == ["a/2.mp3", "a/11.mp3", "b 9.mp3", "b 9a.mp3", "b 10.mp3"]


def test_names_match_across_unicode_forms(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "příběh ሰላም") for form in ("NFC", "NFD"))
    make(tmp_path, f"{decomposed}.mp3", f"{composed}.srt")
    assert found(tmp_path) == {f"{decomposed}.mp3": (f"{composed}.srt", "subtitles", "speaker")}


def test_recordings_are_recognized_by_content(tmp_path: Path) -> None:
    contents = {
        "wav": b"RIFF\x10\0\0\0WAVEfmt ", "mp3": b"ID3\x04", "mkv": b"\x1aE\xdf\xa3", "ts.ts": (b"G" + bytes(187)) * 3,
        "code.ts": b"Go = 1", "page": b"<html>",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert set(found(tmp_path)) == {"wav", "mp3", "mkv", "ts.ts"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"WEBVTT\n\n00:01.000 --> 00:02.000\n", "subtitles"),
        (SRT.encode("utf-16"), "subtitles"),
        ("\ufeff[Script Info]\n".encode(), "subtitles"),
        (b'<?xml version="1.0"?>\n<tt xmlns="http://www.w3.org/ns/ttml">', "subtitles"),
        ("1\nበመጀመሪያ".encode(), "transcript"),
    ],
)
def test_texts_are_recognized_by_content(tmp_path: Path, content: bytes, kind: str) -> None:
    make(tmp_path, "a.mp3")
    (tmp_path / "a.txt").write_bytes(content)
    assert found(tmp_path)["a.mp3"][1] == kind


def test_one_text_and_one_speaker_for_all(tmp_path: Path) -> None:
    make(tmp_path, "in/x/a.mp3", "in/b.mp3", "in/b.srt", "book.txt", "film.srt")
    book = tmp_path / "book.txt"
    assert find_sources([tmp_path / "in"], "am", text=book, speaker="almaz") == [
        Source(tmp_path / "in" / name, book, TextKind.BOOK, "almaz") for name in ("b.mp3", "x/a.mp3")
    ]
    (source,) = find_sources([tmp_path / "in" / "b.mp3"], "am", text=tmp_path / "film.srt")
    assert source.kind is TextKind.SUBTITLES
    with pytest.raises(ConfigError, match=r"film\.srt has subtitles, .* there are 2 recordings"):
        find_sources([tmp_path / "in"], "am", text=tmp_path / "film.srt")


def test_neighbors_count_for_the_texts_of_one_recording(tmp_path: Path) -> None:
    make(tmp_path, "1.mp3", "2.mp3", "2.txt", "part/1.mp3", "part/2.mp3", "part/book.txt")
    assert found(tmp_path, "1.mp3", "part/2.mp3") == {"1.mp3": NONE, "part/2.mp3": ("part/book.txt", "book", "speaker")}


def test_repeated_recordings_are_used_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "a.mp3", "c.txt")
    for name in ("b.mp3", "c.mp3"):
        (tmp_path / name).write_bytes((tmp_path / "a.mp3").read_bytes())
    (tmp_path / "d.mp3").write_text("D.MP3 0", encoding="utf-8")
    (tmp_path / "e.mp3").symlink_to("d.mp3")
    with caplog.at_level(logging.INFO, logger="trainer"):
        assert found(tmp_path, "", "d.mp3") == {"c.mp3": ("c.txt", "transcript", "speaker"), "d.mp3": NONE}
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith(" ! Recordings that are given more than once are used once: ")
    assert "d.mp3" in messages[0]
    assert "e.mp3" in messages[0]
    assert messages[1] == (
        f" ! Recordings with the same content are used once: {tmp_path}/b.mp3 (the same as {tmp_path}/a.mp3), "
        f"{tmp_path}/a.mp3 (the same as {tmp_path}/c.mp3)."
    )
    assert messages[2:] == [" > Each recording is assumed to have one speaker. Recordings by speaker: speaker 2."]


def test_texts_that_are_not_used_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "a.mp3", "a.en.srt", *(f"x{number}.srt" for number in range(12)))
    found(tmp_path)
    foreign, unmatched = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert foreign == f" ! Texts in a language other than 'am' are not used: {tmp_path}/a.en.srt."
    assert unmatched.endswith(f"{tmp_path}/x9.srt and 2 more.")


def test_links_in_a_circle_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "in/a.mp3", "out/b.mp3")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "out")
    assert list(found(tmp_path, "in")) == ["in/a.mp3", "in/linked/b.mp3"]
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("gone", {}, "gone: no such file or folder"),
        ("empty", {}, "empty contains no recordings. Pass a folder"),
        ("in", {"text": "gone.txt"}, r"gone\.txt: no such text file"),
        ("in", {"text": "empty.txt"}, r"empty\.txt is empty"),
        ("in", {"text": "locked.txt"}, r"locked\.txt cannot be read \(Permission denied\)"),
    ],
)
def test_errors_name_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, options: dict[str, str], message: str
) -> None:
    make(tmp_path, "in/a.mp3", "locked.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text(" \n")
    if options.get("text") == "locked.txt":

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        # Root may read every file.
        monkeypatch.setattr(sources, "open", refuse, raising=False)
    with pytest.raises(DataError, match=message):
        find_sources([tmp_path / path], "am", **{name: tmp_path / value for name, value in options.items()})


@pytest.mark.parametrize("speaker", ["Ann|Bob", " ", "Ann\nBob"])
def test_a_speaker_that_a_manifest_cannot_represent_is_refused(tmp_path: Path, speaker: str) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="cannot represent"):
        find_sources([tmp_path / "a.wav"], "en", speaker=speaker)
