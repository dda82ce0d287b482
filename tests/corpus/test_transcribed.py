"""Data sets with transcripts as recordings for make-dataset."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from made_archives import AUDIO, clip, common_voice, make_tar, make_zip, write_parquet
from tones import make_sentences, write_recording

from xtts_extend.corpus.sources import Source, TextKind, find_sources
from xtts_extend.corpus.transcribed import locate_recordings
from xtts_extend.errors import ConfigError, DataError


def described(sources: list[Source]) -> list[tuple[str, str, str]]:
    """Return the name, the text and the speaker of transcribed recordings."""
    assert {source.kind for source in sources} == {TextKind.TRANSCRIPT}
    return [
        (source.path.name, source.text_path.read_text(encoding="utf-8"), source.speaker_name)
        for source in sources
        if source.text_path is not None
    ]


def test_common_voice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = make_tar(tmp_path / "am.tar.gz", common_voice())
    output = tmp_path / "out"
    paths, transcribed = locate_recordings([str(archive), str(tmp_path / "talk.mp3")], "am", output)
    assert paths == [tmp_path / "talk.mp3"]
    assert described(transcribed) == [("common_voice_am_1.mp3", "ሰላም ለዓለም።", "anna")]
    assert "Recordings that have no text are skipped: common_voice_am_2.mp3 (line 3)." in caplog.text
    assert all(source.path.is_relative_to(output / ".work" / "sources") for source in transcribed)
    # The same files the second time, and another speaker.
    again = locate_recordings([str(archive)], "am", output, "Narrator")[1]
    assert described(again) == [("common_voice_am_1.mp3", "ሰላም ለዓለም።", "Narrator")]
    assert again[0].text_path == transcribed[0].text_path
    assert find_sources([], "am", transcribed=transcribed) == transcribed


def test_recordings_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = common_voice("cv")
    del files["cv/clips/common_voice_am_1.mp3"]
    archive = make_tar(tmp_path / "am.tar.gz", files)
    with pytest.raises(DataError, match=r"has no recording with a text in 'am'; the reasons are listed above"):
        locate_recordings([str(archive)], "am", tmp_path / "out")
    assert "Recordings that are missing are skipped: common_voice_am_1.mp3 (line 2)." in caplog.text
    with pytest.raises(DataError, match="no recording with a text in 'ti'"):
        locate_recordings([str(archive)], "ti", tmp_path / "out")
    assert "Recordings that are in am, not in ti are skipped" in caplog.text


def test_an_archive_of_long_recordings(tmp_path: Path) -> None:
    files = {"Ann/talk.wav": clip(), "Ann/talk.txt": b"One two three.", "README.txt": b"..."}
    archive = make_zip(tmp_path / "talks.zip", files)
    paths, transcribed = locate_recordings([str(archive)], "en", tmp_path / "out")
    assert transcribed == []
    (source,) = find_sources(paths, "en")
    assert (source.path.name, source.text_path and source.text_path.name, source.speaker_name) == (
        "talk.wav", "talk.txt", "Ann",
    )  # fmt: skip


def test_a_folder_with_files_of_the_user_is_left_alone(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"talk.wav": clip()})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.csv").write_text("mine")
    with pytest.raises(ConfigError, match="was not written by make-dataset"):
        locate_recordings([str(archive)], "en", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.csv"]


def test_parquet_beside_recordings(tmp_path: Path) -> None:
    write_recording(tmp_path / "talk.flac", make_sentences(1))
    cells = [{"bytes": clip(seed), "path": "a.wav"} for seed in (0, 1, 0)]
    columns = {
        "audio": pa.array(cells, AUDIO),
        "text": ["One.", "Two.", "One."],
        "client_id": ["anna", "b|eth", "carl"],
    }
    write_parquet(tmp_path / "set" / "train.parquet", columns)
    paths, transcribed = locate_recordings([str(tmp_path / "set"), str(tmp_path / "talk.flac")], "en", tmp_path / "out")
    sources = find_sources(paths, "en", transcribed=transcribed)
    # The third recording has the same content as the first.
    assert described(sources[1:]) == [("000001.wav", "One.", "anna"), ("000002.wav", "Two.", "b eth")]
    assert sources[0].path == tmp_path / "talk.flac"
    (tmp_path / "set" / "more").mkdir()
    (tmp_path / "talk.flac").rename(tmp_path / "set" / "more" / "talk.flac")
    with pytest.raises(ConfigError, match=r"contains Parquet files and recordings, such as .*talk\.flac"):
        locate_recordings([str(tmp_path / "set")], "en", tmp_path / "out")
