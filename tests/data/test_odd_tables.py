"""Tables with something in them that would be taken for something else without a word."""

from pathlib import Path

import pytest

from xtts_extend.data.columns import parse_columns
from xtts_extend.data.rows import read_rows
from xtts_extend.errors import ConfigError, DataError


@pytest.fixture
def table(tmp_path: Path):
    (tmp_path / "wavs").mkdir()
    for name in ("a1", "a2", "a3"):
        (tmp_path / "wavs" / f"{name}.wav").write_bytes(b"")

    def write(text: str) -> Path:
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        return tmp_path / "list.csv"

    return write


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('sentence,path\n"One,wavs/a1.wav\nTwo",wavs/a2.wav\nThree,wavs/a3.wav\n', "opens in line 2 is not closed"),
        ('text;speaker;file\n"One;anna;a1.wav\nTwo";anna;a2.wav\n', "opens in line 2 is not closed"),
        ("a1|one text here|Anna Maria\na2|more text of it|Anna Maria\na3|third text|Ben Ko\n", "looks like speakers"),
        ("a1|one text here|anna\na2|more text|\na3|third text|anna\n", "looks like speakers"),
        ("audio_url,label\nwavs/a1.wav,One\nwavs/a2.wav,Two\n", "the first line looks like a header"),
        ("mp3,phrase\nwavs/a1.wav,One\nwavs/a2.wav,Two\n", "the first line looks like a header"),
    ],
    ids=["text first", "text first, semicolons", "two names", "a speaker missing", "unknown names", "mp3"],
)
def test_what_stops_the_reading(table, text: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_rows(table(text), {})


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ('text,path\n"One\nmore",wavs/a1.wav\nTwo,wavs/a2.wav\n', ["One\nmore", "Two"]),
        ("a1|In 2 days|In two days\na2|Mr. Li went|Mister Li went\n", ["In two days", "Mister Li went"]),
        ("a1|One text\n\ufeffa2|Two texts\n", ["One text", "Two texts"]),
    ],
    ids=["a text of two lines", "normalised texts", "a mark in the middle"],
)
def test_what_is_read(table, text: str, texts: list[str]) -> None:
    assert read_rows(table(text), {}).text == texts


def test_one_column_has_one_role() -> None:
    with pytest.raises(ConfigError, match="gives one column two roles"):
        parse_columns("audio=1,text=1")
