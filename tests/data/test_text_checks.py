from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from xtts_extend.data.text_checks import speaking_rates, text_warnings
from xtts_extend.text.languages import clean_text

TOKENIZER: Any = SimpleNamespace(preprocess_text=clean_text)


def found(text: str, language: str = "bg") -> list[str]:
    return [kind for kind, _ in text_warnings({"text": text, "language": language}, TOKENIZER)]


@pytest.mark.parametrize(
    "text",
    [
        "a <b>bold</b> word", "line<br/>break", "fish &amp; chips", "it&#8217;s", "it&#x2019;s",
        "see https://example.org/a",
        "on www.example.com now", "on example.com now", "to me@mail.example.co.uk", "[laughter] yes", "[00:12] yes",
        r"{\an8}Well", "<unk> again", "<!-- note -->", "**bold**", "♪ la la la",
        "<prosody rate='slow'>well</prosody>",
    ],
)  # fmt: skip
def test_markup(text: str) -> None:
    assert found(text) == ["markup"]


@pytest.mark.parametrize(
    "text",
    [
        "three < four and five > two", "fish & chips", "Q&A; more", "I said: yes.", "e.g. this", "well... no",
        "(an aside)", "the end.In between", "one/two", "C# and F*", "ሰላም ለዓለም።", "100 %",
    ],
)  # fmt: skip
def test_text_without_markup(text: str) -> None:
    assert "markup" not in found(text)


@pytest.mark.parametrize(
    ("language", "text", "kinds"),
    [
        ("bg", "в 1990 година", ["digits"]),
        ("sw", "mwaka wa 1990", ["digits"]),
        ("el", "το 1990", ["digits"]),
        ("bg", "през хиляда деветстотин", []),
        # digits of another script, and numbers that have words
        ("bg", "٣ в", ["digits"]),
        ("am", "በ1990", []),
        ("am", "በ፲፱፻፺", []),
        ("uk", "у 1990 році", []),
        ("de", "im Jahr 1990", []),
    ],
)
def test_digits_that_nobody_reads(language: str, text: str, kinds: list[str]) -> None:
    assert found(text, language) == kinds


def sample(text: str, duration_s: float, language: str = "xx") -> dict[str, Any]:
    return {"text": text, "duration_s": duration_s, "language": language}


@pytest.mark.parametrize(
    ("text", "duration_s", "rate"),
    [
        ("It was in all the papers, of course.", 2.5, None),
        ("It was in all the papers, of course.", 0.8, "33.8"),
        ("It was in all the papers, of course.", 7.0, "3.9"),
        # half as many characters say the same in scripts of syllables
        ("ይህ ነገር በጋዜጣው ላይ ሁሉ ወጥቷል።", 3.0, None),
        ("ይህ ነገር በጋዜጣው ላይ ሁሉ ወጥቷል።", 1.0, "18.0"),
        ("我昨天在报纸上看到了这件事情", 7.0, None),
        ("我昨天在报纸上看到了这件事情", 1.0, "14.0"),
        ("昨日の新聞でそれを読みました", 3.0, None),
        ("어제 신문에서 그것을 읽었습니다", 3.0, None),
        ("어제 신문에서 그것을 읽었습니다", 15.0, "0.9"),
        # digits are words
        ("1990", 1.6, None),
        ("7 8 9", 1.2, None),
        ("1990 1991 1992 1993 1994", 2.0, "40.0"),
        # a word alone has silence around it
        ("Ja.", 1.4, None),
        ("Ja.", 4.0, "0.5"),
        ("...", 0.9, None),
    ],
)
def test_the_bounds_of_any_speech(text: str, duration_s: float, rate: str | None) -> None:
    details = [detail for _, detail in speaking_rates([sample(text, duration_s)])]
    assert [detail.split(" characters per second, speech has ")[0] for detail in details] == ([rate] if rate else [])


def test_fifty_recordings_of_a_language_have_a_median() -> None:
    # a slow language: eight characters in a second
    usual = [sample("abcd efgh " * 2, 2.0) for _ in range(46)]
    others = [sample("a" * 49, 2.0), sample("a" * 47, 2.0), sample("a" * 10, 4.0), sample("a" * 11, 4.0)]
    elsewhere = sample("a" * 49, 2.0, "yy")
    off = speaking_rates([*usual, *others, elsewhere])
    assert [len(found["text"]) for found, _ in off] == [49, 10]
    assert off[0][1] == "24.5 characters per second, the language's median is 8.0: is it the text of this recording?"
    # one fewer, and what any speech has counts
    assert [len(found["text"]) for found, _ in speaking_rates([*usual[1:], *others])] == [10, 11]
