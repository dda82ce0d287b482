"""Text files without recordings: which part of them is text."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xtts_extend.data.columns import parse_columns
from xtts_extend.data.rows import texts_of_manifest
from xtts_extend.errors import DataError

TWO = ["One text.", "Two texts."]


def texts(folder: Path, content: str, columns: str = "", name: str = "corpus.txt") -> list[str] | None:
    (folder / name).write_text(content, encoding="utf-8")
    return texts_of_manifest(folder / name, parse_columns(columns) if columns else None)


LISTS = {
    "mls": "10214_10108_000000\tOne text.\n10214_10108_000001\tTwo texts.\n",
    "kaldi": "spk1-utt001 One text.\nspk2-utt002 Two texts.\n",
    "librispeech": "103-1240-0000 One text.\n103-1240-0001 Two texts.\n",
    "festival": '( arctic_a0001 "One text." )\n( arctic_a0002 "Two texts." )\n',
    "jsut": "BASIC5000_0001:One text.\nBASIC5000_0002:Two texts.\n",
    "voxforge": "ann-2010-abc/mfc/a01 One text.\nben-2011-abc/mfc/a01 Two texts.\n",
    "recordings and spaces": '"one.wav" One text.\n"two.wav" Two texts.\n',
    "tatoeba": "1276\teng\tOne text.\n1277\tamh\tTwo texts.\n",
    "leipzig": "1\tOne text.\n2\tTwo texts.\n",
    "audacity": "0.000\t1.500\tOne text.\n1.500\t2.100\tTwo texts.\n",
    "ids and commas": "u1,One text.\nu2,Two texts.\n",
    "ljspeech": "LJ001-0001|1 text.|One text.\nLJ001-0002|2 texts.|Two texts.\n",
    "piper": "u_1|anna|One text.\nu_2|anna|Two texts.\n",
    "csv": "sentence,source\nOne text.,web\nTwo texts.,web\n",
    "a title": "My corpus\nid,sentence\n1,One text.\n2,Two texts.\n",
    "common voice": "sentence_id\tsentence\tsentence_domain\nab\tOne text.\tx\ncd\tTwo texts.\tx\n",
    "whisper": "start\tend\ttext\n0\t100\tOne text.\n100\t200\tTwo texts.\n",
    "sep": "sep=;\nid;text\n1;One text.\n2;Two texts.\n",
    "json lines": '{"text": "One text."}\n{"text": "Two texts.", "url": "x"}\n',
    "json strings": '"One text."\n"Two\\u0020texts."\n',
    "an array": '["One text.",\n "Two texts."]\n',
    "segments": json.dumps(
        {"text": "x", "segments": [{"id": 0, "text": "One text."}, {"id": 1, "text": "Two texts."}]}
    ),
}


@pytest.mark.parametrize("content", LISTS.values(), ids=LISTS)
def test_lists_without_recordings(tmp_path: Path, content: str) -> None:
    assert texts(tmp_path, content) == TWO


def test_other_ids(tmp_path: Path) -> None:
    ids = ["BAC009S0002W0122", "BAC009S0002W0123", "BAC009S0003W0001", "X7", "Y8"]
    assert texts(tmp_path, "".join(f"{name} word {name}\n" for name in ids)) == [f"word {name}" for name in ids]
    assert texts(tmp_path, "001 a\n003 b\n\n002\n") == ["a", "b", ""]
    assert texts(tmp_path, "00:12 a\n01:30 b\n02:10 c\n03:05 d\n04:20 e\n") == ["a", "b", "c", "d", "e"]
    assert texts(tmp_path, "1. a\n2. b\n3. c\n") == ["a", "b", "c"]
    assert texts(tmp_path, '"Yes."\n"No."\n', name="lines.jsonl") == ["Yes.", "No."]


PLAIN = {
    "years": "1914 war\n1918 peace\n1939 war\n",
    "a dialogue": "A: One.\nB: Two.\nA: Three.\n",
    "verses": "Genesis 1:1 One.\nGenesis 1:2 Two.\n",
    "a few tabs": "One\ttwo\nthree\nfour\tfive\tsix\n",
    "paragraphs": "\tOne two\n\tthree\n",
    "what somebody says": '"One,"\n"Two."\n',
    "a note first": "[Applause] One\nTwo\n",
    "a heading": "# One\n\nTwo, three.\n",
    "pipes in a poem": "one | two\nthree | four\n",
    "a comma in each": "Well, yes.\nOh, no.\n",
    "moses": "One text .\nTwo texts &apos; .\n",
    "a tag": "One <b>text</b>.\nTwo texts.\n",
}


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_plain_text_stays_plain(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert texts(tmp_path, content) is None
    assert not caplog.records


STOPS = {
    "srt": ("1\n00:00:01,000 --> 00:00:02,000\nOne\n", "looks like SRT or WebVTT subtitles"),
    "webvtt": ("WEBVTT\n\n00:01.000 --> 00:02.000\nOne\n", "looks like WebVTT subtitles"),
    "ass": ("[Script Info]\nTitle: x\n", "looks like ASS or SSA subtitles"),
    "sbv": ("0:00:00.599,0:00:04.160\nOne\n", "looks like SBV subtitles"),
    "microdvd": ("{0}{25}One\n", "looks like MicroDVD subtitles"),
    "lrc": ("[00:01.20]One\n[00:03.20]Two\n", "looks like LRC lyrics"),
    "xml": ('<?xml version="1.0"?>\n<a>One</a>\n', "looks like XML or HTML"),
    "html": ("<!DOCTYPE html>\n<p>One", "looks like XML or HTML"),
    "tags": ("<p>One</p>\n<p>Two</p>\n", "looks like XML or HTML"),
    "rtf": ("{\\rtf1 One}", "looks like an RTF document"),
    "po": ('msgid "One"\nmsgstr "Two"\n', "looks like a translation catalog"),
    "stm": ("f1 A s1 0.00 2.30 one\nf1 A s1 2.30 4.30 two\n", "looks like an STM or CTM transcript"),
    "parallel": ("One text\tUn texte\nTwo texts\tDeux\n", r"columns 1 .'One text'., 2 .'Un texte'.*--columns text=2"),
    "counts": ("one\t12\ntwo\t3\n", "Specify the text column"),
    "six columns": ("1\tx y\tz w\tOne text\tno\tyes\n2\tx\tz\tTwo\tno\tyes\n", "Otherwise, specify the columns"),
    "a comma too many": (
        "u1,One\nu2,Two, three\nu3,Four\n",
        "Expected 2 columns separated by commas, but line 2 has 3",
    ),
    "another key": (
        '{"body": "One"}\n',
        r"Expected text\. Specify the keys to use, for example with --columns text=KEY",
    ),
    "another column": ("text,file\n", "has a header but no rows"),
    "arrays": ('["a1", "One"]\n["a2", "Two"]\n', "contains JSON arrays as rows"),
    "an array of arrays": ('[["a1", "One"],\n["a2", "Two"]]\n', "contains JSON arrays as rows"),
    "pdf": ("%PDF-1.7\n", "is a document, a spreadsheet or an archive"),
}


@pytest.mark.parametrize(("content", "error"), STOPS.values(), ids=STOPS)
def test_files_that_are_not_only_text(tmp_path: Path, content: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        texts(tmp_path, content)


KALDI = [f"spk-{number} Text {number}." for number in range(30)]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([*KALDI, "A line without one."], "Most lines begin with an id, but 'A line without one.' does not"),
        ([line.replace(" ", "\t", 1) for line in [*KALDI, "Without"]], "Expected 2 columns .* but line 31 has 1"),
        ([line.replace(" ", "|", 1) for line in [*KALDI, "x|y|z"]], "Expected 2 columns .* but line 31 has 3"),
        ([*(f"one {n}\ttwo" for n in range(30)), "Without"], "Specify the text column"),
        ([*(f"one {n}\ttwo" for n in range(30)), "one\ttwo\tthree"], "Specify the text column"),
        (["text,source", *(f"one {n},two" for n in range(30)), "one,two,three"], "Expected 2 columns .* but line 32"),
    ],
    ids=["kaldi", "a tab missing", "a pipe too many", "no ids", "a tab too many", "a header"],
)
def test_a_single_deviating_line_is_named(tmp_path: Path, lines: list[str], error: str) -> None:
    with pytest.raises(DataError, match=error):
        texts(tmp_path, "\n".join(lines))


def test_long_lists(tmp_path: Path) -> None:
    assert texts(tmp_path, "\n".join([*KALDI, KALDI[0]])) == [line.split(" ", 1)[1] for line in [*KALDI, KALDI[0]]]
    assert texts(tmp_path, json.dumps([f"Text {number}." for number in range(3000)], indent=1))[2999] == "Text 2999."


def test_columns_without_recordings(tmp_path: Path) -> None:
    assert texts(tmp_path, "One text.\tUn\nTwo texts.\tDeux\n", "text=1") == TWO
    assert texts(tmp_path, "en,fr\nOne text.,Un\nTwo texts.,Deux\n", "text=en") == TWO
    assert texts(tmp_path, '{"body": "One text."}\n{"body": "Two texts."}\n', "text=body") == TWO
    pq.write_table(pa.table({"text": TWO, "url": ["x", "y"]}), tmp_path / "corpus.parquet")
    assert texts_of_manifest(tmp_path / "corpus.parquet") == TWO


def test_ids_and_languages_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    texts(tmp_path, LISTS["kaldi"])
    texts(tmp_path, "1\teng\tOne text.\n2\tdeu\tZwei.\n")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "Reading the text after the id on each line, as in Kaldi's text file.",
        "Using texts in several languages: deu, eng.",
    ]
