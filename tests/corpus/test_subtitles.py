from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from xtts_extend.corpus.subtitles import Cue, read_cues, words_of_cues
from xtts_extend.errors import DataError

SRT = "1\n00:00:01,000 --> 00:00:02,500\nAhoj, světe!\n\n2\n00:00:03,000 --> 00:00:04,000\nJak se\nmáš?\n"
VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue { color: red }

NOTE a comment

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Bob>Ahoj,</v> <i>světe!</i>

00:00:03.000 --> 00:00:04.000
Jak se
máš?
"""
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,not shown
Dialogue: 1,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\i1}Ahoj,{\\i0} světe!
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,Ahoj, světe!
Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,{\\p1}m 0 0 l 10 10{\\p0}
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,Jak se\\Nmáš?
"""
SSA = ASS.replace("V4+", "V4").replace("v4.00+", "v4.00").replace("Layer", "Marked").replace(": 0,", ": Marked=0,")
TTML = """<?xml version="1.0" encoding="utf-8"?>
<tt xmlns="http://www.w3.org/{namespace}" xml:lang="cs"><body><div>
<p begin="00:00:01.000" {end}>Ahoj,<span> světe!</span></p>
<p begin="3s" end="4s">Jak se<br/>máš?</p>
</div></body></tt>
"""
SAMI = "<SAMI><BODY><SYNC Start=1000><P>Ahoj, světe!<SYNC Start=3000><P>Jak se<br>máš?</BODY></SAMI>"


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str | bytes, language: str = "cs") -> list[Cue]:
        # The name says nothing about the format.
        path = tmp_path / "subtitles.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_cues(path, language)

    return read_text


def srt(*cues: str | tuple[float, float, str]) -> str:
    """Return subtitles as SRT. A text without times is shown for one second, right after the previous one."""
    blocks = []
    for index, cue in enumerate(cues):
        start, end, text = (index, index + 1, cue) if isinstance(cue, str) else cue
        times = " --> ".join(f"00:00:{time:06.3f}".replace(".", ",") for time in (start, end))
        blocks.append(f"{index + 1}\n{times}\n{text}\n")
    return "\n".join(blocks)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (SRT, (1.0, 2.5, 3.0, 4.0)),
        (SRT.replace("\n", "\r\n"), (1.0, 2.5, 3.0, 4.0)),
        (VTT, (1.0, 2.5, 3.0, 4.0)),
        (ASS, (1.0, 2.5, 3.0, 4.0)),
        (SSA, (1.0, 2.5, 3.0, 4.0)),
        (TTML.format(namespace="ns/ttml", end='end="2.5s"'), (1.0, 2.5, 3.0, 4.0)),
        (TTML.format(namespace="2006/10/ttaf1", end='dur="1.5s"'), (1.0, 2.5, 3.0, 4.0)),
        ("{1}{1}10\n{10}{25}{Y:i}Ahoj, světe!\n{30}{40}Jak se|máš?\n", (1.0, 2.5, 3.0, 4.0)),
        ("[10][25]/Ahoj, světe!\n[30][40]Jak se|máš?\n", (1.0, 2.5, 3.0, 4.0)),
        ("0:00:01.000,0:00:02.500\nAhoj, světe!\n\n0:00:03.000,0:00:04.000\nJak se\nmáš?\n", (1.0, 2.5, 3.0, 4.0)),
        # SAMI has no end times, which pysubs2 estimates from the text.
        (SAMI, (1.0, 2.304, 3.0, 4.237)),
    ],
    ids=["srt", "srt-crlf", "vtt", "ass", "ssa", "ttml", "ttml-2006", "microdvd", "mpl2", "sbv", "sami"],
)
def test_formats_are_detected_by_content(read, text: str, times: tuple[float, ...]) -> None:
    assert read(text) == [Cue(*times[:2], "Ahoj, světe!"), Cue(*times[2:], "Jak se máš?")]


@pytest.mark.parametrize(
    ("encoding", "language", "text"),
    [
        ("utf-8-sig", "cs", "Žluťoučký kůň"),
        ("utf-16", "cs", "Žluťoučký kůň"),
        ("utf-16-le", "am", "ሰላም ነው"),
        ("cp1250", "cs", "Žluťoučký kůň"),
        ("cp1251", "ru", "Привет, мир"),
        ("cp1252", "fr", "Ça va, l’été"),
        ("cp1253", "el", "Καλημέρα"),
        ("gb18030", "zh-cn", "你好"),
    ],
)
def test_encodings(read, encoding: str, language: str, text: str) -> None:
    assert [cue.text for cue in read(srt(text).encode(encoding), language)] == [text]


def test_an_encoding_that_the_language_does_not_have(read) -> None:
    with pytest.raises(DataError, match=r"subtitles.txt is not UTF-8: byte \d+ \(line 3\) is 0xcf"):
        read(srt("Привет").encode("cp1251"), "am")


@pytest.mark.parametrize(
    ("shown", "spoken"),
    [
        ("- Ano?\n- Ne.", "Ano? Ne."),
        (">> BOB: Ano.", "Ano."),
        ("&gt;&gt; Dr. Novák: Ano.", "Ano."),
        (">>> Dobrý den", "Dobrý den"),
        ("- JAN NOVÁK: Ano.", "Ano."),
        ("Poznámka: Ano.", "Poznámka: Ano."),
        ("Ve 12: dva", "Ve 12: dva"),
        ("[hudba] Ano", "Ano"),
        ("[dlouhá\nhudba] Ano", "Ano"),
        ("(laughs) Ano (prý)", "Ano (prý)"),
        ("(ZVONÍ TELEFON)\nHaló?", "Haló?"),
        ("Tak <font color='red'>jo</font>&nbsp;&amp; {\\an8}dost", "Tak jo & dost"),
        ("♪ Zpívá se ♪\nMluví se", "Mluví se"),
        ("-5 stupňů", "-5 stupňů"),
        ("Rok\n1990", "Rok 1990"),
    ],
)
def test_what_is_not_spoken_is_removed(read, shown: str, spoken: str) -> None:
    assert [cue.text for cue in read(srt(shown, "konec", shown))] == [spoken, "konec", spoken]


@pytest.mark.parametrize(
    "unspoken", ["[hudba]", "(VZDYCHÁ)", "- (zvuk)", "♪ la la\nla la ♪", "♪♪", "…", "<i></i>", "【音楽】"]
)
def test_subtitles_without_speech_are_counted(read, caplog: pytest.LogCaptureFixture, unspoken: str) -> None:
    with caplog.at_level(logging.INFO, "trainer"):
        assert [cue.text for cue in read(srt(unspoken, "Ano", (5, 6, unspoken)))] == ["Ano"]
    assert "such as [music]: 2." in caplog.text


def test_a_number_before_an_unnumbered_webvtt_cue_is_text(read) -> None:
    text = "WEBVTT\n\n00:01.000 --> 00:02.000\nRok\n1990\n\nkonec\n00:03.000 --> 00:04.000\n5\n"
    assert [cue.text for cue in read(text)] == ["Rok 1990", "5"]


def test_cues_are_sorted_and_may_overlap(read) -> None:
    assert read(srt((5, 6, "c"), (1, 3, "a"), (2, 1.5, "b"))) == [Cue(1, 3, "a"), Cue(2, 2, "b"), Cue(5, 6, "c")]


ROLLING_VTT = """WEBVTT
Kind: captions
Language: en

00:00:00.000 --> 00:00:02.000 align:start position:0%
{blank}
hello<00:00:00.500><c> this</c><00:00:01.000><c> is</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
hello this is
{blank}

00:00:02.010 --> 00:00:04.000 align:start position:0%
hello this is
a<00:00:02.500><c> test</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
a test
{blank}

00:00:04.010 --> 00:00:06.000 align:start position:0%
a test
a<00:00:04.500><c> test</c>
""".replace("{blank}", " ")


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        (ROLLING_VTT, [Cue(0, 2, "hello this is"), Cue(2.01, 4, "a test"), Cue(4.01, 6, "a test")]),
        (
            srt((0, 4, "one two"), (2, 6, "one two\nthree"), (4, 8, "three\nfour"), (20, 22, "four")),
            [Cue(0, 4, "one two"), Cue(2, 6, "three"), Cue(4, 8, "four"), Cue(20, 22, "four")],
        ),
        (
            srt("one", "one two", "one two three", "four", "four five"),
            [Cue(0, 1, "one"), Cue(1, 2, "two"), Cue(2, 3, "three"), Cue(3, 4, "four"), Cue(4, 5, "five")],
        ),
        (
            srt("no", "no", "yes", "well", "so"),
            [Cue(i, i + 1, t) for i, t in enumerate(["no", "no", "yes", "well", "so"])],
        ),
    ],
    ids=["youtube", "three-lines", "growing", "not-rolling"],
)
def test_rolling_captions_are_read_once(read, text: str, cues: list[Cue]) -> None:
    assert read(text, "en") == cues


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("WEBVTT\n\n", "has no spoken text"),
        (srt("[hudba]", "♪"), "number of subtitles, all without speech: 2"),
        ("Just a text.\n", "unknown format"),
        ("{10}{20}Ahoj\n", "frames"),
        ('<tt xmlns="http://www.w3.org/ns/ttml"><body><div><p begin="1', "damaged"),
        (TTML.format(namespace="ns/ttml", end='end="00:00:01:12"'), "damaged, or uses times that are not supported"),
        (TTML.format(namespace="ns/ttml", end=""), "damaged"),
        (b"PK\x03\x04", "document"),
        (b"\x1aE\xdf\xa3\x80\xff", "not UTF-8"),
    ],
)
def test_files_that_are_not_subtitles_are_named(read, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"subtitles\.txt.*{message}"):
        read(text, "am")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.srt cannot be read: No such file"):
        read_cues(tmp_path / "none.srt", "cs")


def test_words_know_their_cue_and_sentences_extend_over_cues() -> None:
    cues = [Cue(0, 1, "Přišlo 25"), Cue(1, 2, "lidí. A pak"), Cue(5, 6, "odešli")]
    words = words_of_cues(cues, "cs")
    assert [(word.separator + word.text, word.ends_sentence, word.cue) for word in words] == [
        ("Přišlo", False, (0, 1)),
        (" dvacet", False, (0, 1)),
        (" pět", False, (0, 1)),
        (" lidí.", True, (1, 2)),
        (" A", False, (1, 2)),
        (" pak", True, (1, 2)),
        (" odešli", True, (5, 6)),
    ]


def test_chinese_cues_are_joined_without_spaces() -> None:
    words = words_of_cues([Cue(0, 1, "你"), Cue(1, 2, "好 iPhone"), Cue(2, 3, "吗")], "zh-cn")
    assert [word.separator + word.text for word in words] == ["你", "好", " iPhone", " 吗"]


def test_long_subtitles_take_linear_time() -> None:
    cues = [Cue(index, index + 0.9, "Ahoj, světe, jak se dnes máš") for index in range(2000)]
    start = time.process_time()
    assert len(words_of_cues(cues, "cs")) == 12_000
    assert time.process_time() - start < 4
