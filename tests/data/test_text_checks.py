from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from samples import make_sample

from xtts_extend.data.sample import Sample
from xtts_extend.data.text_checks import check_text, count_letters, speaking_rates, text_warnings
from xtts_extend.text.languages import clean_text

TOKENIZER: Any = SimpleNamespace(preprocess_text=clean_text)


def warning_kinds(text: str, language: str = "bg") -> list[str]:
    return [kind for kind, _ in text_warnings(text, language, TOKENIZER)]


@pytest.mark.parametrize(
    "text",
    [
        "a <b>bold</b> word", "line<br/>break", "fish &amp; chips", "it&#8217;s", "it&#x2019;s",
        "see https://example.org/a",
        "on www.example.com now", "on example.com now", "to me@mail.example.co.uk", "[laughter] yes", "[00:12] yes",
        r"{\an8}Well", "<unk> again", "<!-- note -->", "**bold**", "♪ la la la",
        "<prosody rate='slow'>well</prosody>", "<break time='1s'/> so", "<|endoftext|>",
        "(laughs) yes", "yes (Laughter)", "( coughing )", "so (lacht)", "да (смеётся)", "はい（笑）", "네 (웃음)",
        "ja (rires)",
        "[noise]", "［笑］はい", "{pause} so", "*coughs* so", "a _word_ of it", "♫", "'''bold'''",
        "a&nbsp b", "a &amp b", "on t.me/x", "see bit.ly/x", "see example.co.uk", "see example.de now", "mailto:me",
        "as @anna says", "#topic of", "un@@ believable", "▁the", "one\\ntwo", r"caf\udead", "== head ==", "a --> b",
    ],
)  # fmt: skip
def test_markup(text: str) -> None:
    assert warning_kinds(text) == ["markup"]


@pytest.mark.parametrize(
    "text",
    [
        "three < four and five > two", "fish & chips", "Q&A; more", "I said: yes.", "e.g. this", "well... no",
        "(an aside)", "the end.In between", "one/two", "C# and F*", "ሰላም ለዓለም።", "100 %",
        "so (sic)", "(siehe oben)", "(music by Bach)", "AT&T and R&B", "2*3*4", "a * b", "# 1", "#1", "snake_case",
        "km/h",
        "the end.it is", "e.g./i.e.", "U.S./U.K.", "z.B. so", "3.5/7", "&c.", "x@ y", "node.js", "ዓ.ም",
    ],
)  # fmt: skip
def test_text_without_markup(text: str) -> None:
    assert "markup" not in warning_kinds(text)


@pytest.mark.parametrize(
    ("language", "text", "kinds"),
    [
        ("bg", "в 1990 година", ["digits"]),
        ("sw", "mwaka wa 1990", ["digits"]),
        ("el", "το 1990", ["digits"]),
        ("bg", "през хиляда деветстотин", []),
        # These are digits of a different script, and numbers whose words are known.
        ("bg", "٣ в", ["digits"]),
        ("am", "በ1990", []),
        ("am", "በ፲፱፻፺", []),
        ("uk", "у 1990 році", []),
        ("de", "im Jahr 1990", []),
    ],
)
def test_digits_that_are_not_spelled_out(language: str, text: str, kinds: list[str]) -> None:
    assert warning_kinds(text, language) == kinds


def sample(text: str, duration_s: float, language: str = "xx") -> tuple[Sample, int]:
    return make_sample(text, duration_s=duration_s, language=language), count_letters(text)


@pytest.mark.parametrize(
    ("text", "duration_s", "rate"),
    [
        ("It was in all the papers, of course.", 2.5, None),
        ("It was in all the papers, of course.", 0.8, "33.8"),
        ("It was in all the papers, of course.", 7.0, "3.9"),
        # Syllabic scripts need half as many characters for the same text.
        ("ይህ ነገር በጋዜጣው ላይ ሁሉ ወጥቷል።", 3.0, None),
        ("ይህ ነገር በጋዜጣው ላይ ሁሉ ወጥቷል።", 1.0, "18.0"),
        ("我昨天在报纸上看到了这件事情", 7.0, None),
        ("我昨天在报纸上看到了这件事情", 1.0, "14.0"),
        ("昨日の新聞でそれを読みました", 3.0, None),
        ("어제 신문에서 그것을 읽었습니다", 3.0, None),
        ("어제 신문에서 그것을 읽었습니다", 15.0, "0.9"),
        # Digits count as words.
        ("1990", 1.6, None),
        ("7 8 9", 1.2, None),
        ("1990 1991 1992 1993 1994", 2.0, "40.0"),
        # A single word has silence around it.
        ("Ja.", 1.4, None),
        ("Ja.", 4.0, "0.5"),
        ("...", 0.9, None),
    ],
)
def test_speaking_rate_bounds_without_a_median(text: str, duration_s: float, rate: str | None) -> None:
    details = [detail for _, detail in speaking_rates([sample(text, duration_s)])]
    assert [detail.split(" characters per second, but speech usually has ")[0] for detail in details] == (
        [rate] if rate else []
    )


def test_languages_with_fifty_recordings_are_judged_by_their_median() -> None:
    # This is a slow language, with eight characters per second.
    usual = [sample("abcd efgh " * 2, 2.0) for _ in range(46)]
    others = [sample("a" * 49, 2.0), sample("a" * 47, 2.0), sample("a" * 10, 4.0), sample("a" * 11, 4.0)]
    other_language = sample("a" * 49, 2.0, "yy")
    implausible = speaking_rates([*usual, *others, other_language])
    assert [len(sample.text) for sample, _ in implausible] == [49, 10]
    assert implausible[0][1] == (
        "24.5 characters per second, but the language's median is 8.0; the text may belong to a different recording"
    )
    # With one fewer recording, the general bounds apply.
    assert [len(sample.text) for sample, _ in speaking_rates([*usual[1:], *others])] == [10, 11]


@pytest.mark.parametrize(
    "text",
    [
        "Ã©tÃ©", "donâ€™t", "naÃ¯ve", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "РџСЂРёРІРµС‚", "áˆ°áˆ‹áˆ\x9d", "à¤¨à¤®à¤¸à¥\x8d",
        "ÎšÎ±Î»", "Ø³Ù„Ø§Ù…", "×©×œ",
        "ðŸ˜€", "ï»¿a",
        "√©t√©", "‚Äôs", "caf\ufffd", "caf?s", "???? ?? ???", "a\x00b", "a\x85b", "\ue000", "\U000f0001",
    ],
)  # fmt: skip
def test_encoding_damage(text: str) -> None:
    assert warning_kinds(text) == ["mojibake"]


@pytest.mark.parametrize(
    "text",
    [
        "CAFÉ»", "Spaß”", "MANHÃ”", "IDÉE…", "São João", "l’été… »", "à–", "Âncora", "Привет", "СССР", "Сёстры", "Її",
        "р’",
        "what? no", "Really???", "ሰላም ለዓለም", "हिन्दी", "Tiếng Việt", "क\u200dष", "٣ في",
    ],
)  # fmt: skip
def test_text_without_encoding_damage(text: str) -> None:
    assert "mojibake" not in warning_kinds(text)


@pytest.mark.parametrize(
    ("text", "phonemic"),
    [
        ("həlˈoʊ wˈɜːld", True), ("ðɪs ɪz ɹɛd bɜd", True), ("ɡuːtən", True), ("kɑ̃t͡ʃ ɐ", True),
        ("Eʋegbe ŋutɔ ɖe ƒe ɣeyiɣi", False), ("nzela ya kolɛngɛ́lɛ", False), ("Əliyev gəldi", False), ("ɩ ʊ ɖ", False),
        ("ʔəsx̌ʷədəd ɬ", False), ("þæt wæs gōd cyning", False), ("Året ø", False),
    ],
)  # fmt: skip
def test_phonemes(text: str, phonemic: bool) -> None:
    assert ("phonemes" in warning_kinds(text, "xx")) == phonemic


class _UnknownTokenizer:
    """A tokenizer for which every character is unknown."""

    tokenizer = SimpleNamespace(
        encode=lambda text: SimpleNamespace(
            ids=[1] * len(text), offsets=[(index, index + 1) for index in range(len(text))]
        )
    )

    def encode(self, text: str, language: str) -> list[int]:
        return [261, 1, 1]

    def preprocess_text(self, text: str, language: str) -> str:
        return text


@pytest.mark.parametrize(
    ("text", "kind", "cause"),
    [
        ("Ã©tÃ©", "unknown_tokens", "UTF-8 decoded as a different encoding: 'Ã©tÃ©'"),
        ("ðˈɪs", "unknown_tokens", "phonetic symbols .IPA. instead of ordinary text"),
        ("<unk> so", "unknown_tokens", "'<unk>' looks like markup"),
        ("ሰ", "unknown_tokens", "in 'ሰ'$"),
        ("well \ud83d so", "text_error", r"an unpaired surrogate \(from a truncated escape\) in 'well .ud83d so'"),
    ],
    ids=["mojibake", "phonemes", "markup", "a letter", "surrogate"],
)
def test_problems_name_their_cause(text: str, kind: str, cause: str) -> None:
    problems = check_text(text, "en", _UnknownTokenizer()).all_problems(30)
    assert list(problems) == [kind]
    assert re.search(cause, problems[kind]["detail"])
