"""Tables that are easily misread."""

import logging
from pathlib import Path

import pytest

from xtts_extend.data.columns import parse_columns
from xtts_extend.data.manifest import read_manifest
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
        ('sentence,path\n"One,wavs/a1.wav\nTwo",wavs/a2.wav\nThree,wavs/a3.wav\n', "opened on line 2 is not closed"),
        ('text;speaker;file\n"One;anna;a1.wav\nTwo";anna;a2.wav\n', "opened on line 2 is not closed"),
        (
            "a1|one text here|Anna Maria\na2|more text of it|Anna Maria\na3|third text|Ben Ko\n",
            "looks like speaker names",
        ),
        ("a1|one text here|anna\na2|more text|\na3|third text|anna\n", "looks like speaker names"),
        ("a1|Hello world|həlˈoʊ wˈɜːld\na2|This|ðˈɪs\n", "column 3 .'həlˈoʊ wˈɜːld'. looks like phonemes.* text=2"),
        ("a1|Hello world|həloʊ wɜld\na2|Red|ɹɛd\na3|Cat|kæt\n", "looks like phonemes"),
        ("audio_url,label\nwavs/a1.wav,One\nwavs/a2.wav,Two\n", "The first line looks like a header"),
        ("mp3,phrase\nwavs/a1.wav,One\nwavs/a2.wav,Two\n", "The first line looks like a header"),
    ],
    ids=[
        "text first",
        "text first, semicolons",
        "two names",
        "a speaker missing",
        "phonemes",
        "without stress",
        "unknown column names",
        "mp3",
    ],
)
def test_ambiguous_tables(table, text: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_rows(table(text), {})


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ('text,path\n"One\nmore",wavs/a1.wav\nTwo,wavs/a2.wav\n', ["One\nmore", "Two"]),
        ("a1|In 2 days|In two days\na2|Mr. Li went|Mister Li went\n", ["In two days", "Mister Li went"]),
        ("a1|Hello world|həlˈoʊ\n", ["Hello world"]),
        ("a1|Nɔvi 2|Nɔvi eve\na2|ŋu 3|ŋu etɔ̃\n", ["Nɔvi eve", "ŋu etɔ̃"]),
        ("a1|2|ɖeka eve\na2|3|ŋu etɔ\n", ["ɖeka eve", "ŋu etɔ"]),
        ("a1|One text\n\ufeffa2|Two texts\n", ["One text", "Two texts"]),
    ],
    ids=["a text of two lines", "normalised texts", "not the phonemes", "ewe", "ewe numbers", "a mark in the middle"],
)
def test_unambiguous_tables(table, text: str, texts: list[str]) -> None:
    columns = {"text": "2"} if "ˈ" in text else {}
    assert read_rows(table(text), columns).text == texts


def test_one_column_has_one_role() -> None:
    with pytest.raises(ConfigError, match="assigns two roles to the same column"):
        parse_columns("audio=1,text=1")


READ = {
    "sep is a tab": ("sep=\t\naudio\ttext\na1.wav\tOne\na2.wav\tTwo\n", [3, 4]),
    "sep, filled up by Excel": ("sep=;;\naudio;text\na1.wav;One\na2.wav;Two\n", [3, 4]),
    "sep, without a header": ('"sep=,"\r\na1.wav,One\r\na2.wav,Two\r\n', [2, 3]),
    "a title": ("My data\n\naudio,text\na1.wav,One\na2.wav,Two\n", [4, 5]),
    "a title of a spreadsheet": ("Data, 2024;;\n;;\naudio;text;speaker\na1.wav;One;x\na2.wav;Two;x\n", [4, 5]),
    "comments": ("# one\n# more, and, more, of it\naudio,text\na1.wav,One\na2.wav,Two\n", [4, 5]),
    "comments, no header": ("# one | two\na1|One\na2|Two\n", [2, 3]),
    "a header in a comment": ("#audio_file|text\na1.wav|One\na2.wav|Two\n", [2, 3]),
    "numbers without quotation marks": ('"audio"|"text"|"n"\n"a1.wav"|"One"|3\n"a2.wav"|"Two"|-4.5e3\n', [2, 3]),
    "the same, tabs": ('"a1.wav"\t"One"\t7\n"a2.wav"\t"Two"\t7\n', [1, 2]),
    "nothing in a field": ('"audio"|"text"|"n"\n"a1.wav"|"One"|\n"a2.wav"|"Two"|\n', [2, 3]),
    "quotation marks of names": ('"a1.wav"|One\n"a2.wav"|Two\n', [1, 2]),
    "single ones": ("'a1'|One\n'a2'|Two\n", [1, 2]),
}


@pytest.mark.parametrize(("text", "lines"), READ.values(), ids=READ)
def test_titles_comments_and_quotation_marks(table, text: str, lines: list[int]) -> None:
    samples = read_manifest(f"{table(text)}:en", None)
    assert [sample.text for sample in samples] == ["One", "Two"]
    assert [Path(sample.audio_file).name for sample in samples] == ["a1.wav", "a2.wav"]
    assert [sample.line for sample in samples] == lines


def test_titles_and_quoted_names_are_logged(table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read_manifest(f"{table('My data' + chr(10) + 'audio|text' + chr(10) + QUOTED)}:en", None)
    messages = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert messages == [
        "Skipped these lines above the table as titles or comments: 1 ('My data').",
        "Found recordings whose paths differ from those in the manifest: 1 in wavs/, 1 without quotation marks.",
    ]


QUOTED = '"a1.wav"|"One" and more\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a1|One, two\na2|Three, four|five\n", r"Expected 2 columns separated by \|, but line 2 has 3"),
        ("a1|One|two\na2|Two\na3|Three\n", r"Line 1 has 3 columns separated by \|, but 2 of the other 2 lines have 2"),
        ("a1|One\naudio_file|text\na2|Two\n", "line 2, is a second header"),
        ('a1\t"One"\t0\na2\t"Two\n', "Expected 3 columns separated by tabs, but line 2 has 2"),
    ],
    ids=["a pipe in a text with commas", "the first line", "a header that is no title's", "a lacking field"],
)
def test_rows_of_different_widths(table, text: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_rows(table(text), {})
