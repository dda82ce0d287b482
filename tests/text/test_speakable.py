from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xtts_extend.errors import DataError
from xtts_extend.text.speakable import spoken_text
from xtts_extend.text.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    "text",
    ['"', "...", "\u200b", "\ufeff", "😀", "—", "   ", "« »", "\u0301", "?! … -", "\ue000", "日本語テキスト", "привет"],
)
def test_text_with_nothing_to_speak(text: str, small_vocab: Path) -> None:
    with pytest.raises(DataError, match="There is nothing to say: "):
        spoken_text(load_tokenizer(small_vocab), text, "en", 400)


def test_text_is_composed_and_must_be_unicode(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "xtts_vocab.json")
    spoken = spoken_text(tokenizer, "Me\u0301xico", "es", 400)
    assert (spoken.sentences, spoken.unknown) == (["México"], [])
    with pytest.raises(DataError, match="not UTF-8: it contains the byte 0xe9"):
        spoken_text(tokenizer, "caf\udce9", "en", 400)


def test_unknown_characters_are_listed(small_vocab: Path) -> None:
    tokenizer = load_tokenizer(small_vocab)
    with pytest.raises(
        DataError,
        match=r"has none of the characters that would be spoken \('語' \(U\+8A9E\), 'テ' \(U\+30C6\)\).*in 'en'",
    ):
        spoken_text(tokenizer, "語テ 語", "en", 400)
    spoken = spoken_text(tokenizer, "A naïve 😀 word. ... ምንም። 「the」 end—of‖it, isn’t‐it…", "en", 400)
    assert spoken.unknown == ["ï", "😀", "ም", "ን", "።", "「", "」", "—", "‖", "’", "‐", "…"]
    assert [sentence.split() for sentence in spoken.sentences] == [
        ["A", "nave", "word."],
        ["the", "end-of", "it,", "isn't-it..."],
    ]
    assert spoken_text(tokenizer, "The end, or: is it?", "en", 400).unknown == []


@pytest.mark.parametrize("code", ["en", "de", "fr"])
def test_no_sentence_has_too_many_tokens(code: str, small_vocab: Path) -> None:
    """Numbers are written in words after the text is split."""
    tokenizer = load_tokenizer(small_vocab)
    text = " ".join(map(str, range(1950, 2000)))
    assert len(tokenizer.encode(text, code)) > 400
    spoken = spoken_text(tokenizer, text, code, 400).sentences
    counts = [len(tokenizer.encode(sentence, code)) for sentence in spoken]
    assert all(100 < count <= 400 for count in counts), counts
    assert " ".join(spoken) == text
    assert spoken_text(tokenizer, "9" * 111, code, 400).sentences != ["9" * 111]
    assert [len(part) for part in spoken_text(tokenizer, "abcde", code, 2).sentences] == [1] * 5


def test_short_sentences_are_those_of_split_sentences(shared_data: Path) -> None:
    """Speech in old languages does not change."""
    from xtts_extend.text.sentences import split_sentences

    tokenizer = load_tokenizer(shared_data / "xtts_vocab.json")
    for code in ("en", "de", "es", "ru"):
        text = " ".join((shared_data / "udhr" / f"{code}.txt").read_text(encoding="utf-8").split()[:150])
        spoken = spoken_text(tokenizer, text, code, 400)
        hyphens = text.replace("\u2010", "-")
        assert spoken.sentences == split_sentences(hyphens, code, tokenizer.char_limits[code])
        assert spoken.unknown == (["\u2010"] if hyphens != text else [])


@pytest.mark.parametrize(
    ("text", "code", "spoken", "unknown"),
    [
        ("\u202bhel\u00adlo\u202c\u200f \ufeff there\u0007", "en", "hello there", []),
        ("ＦＵＬＬ Ａ１２", "en", "full A12", "ｆｕｌａ１２"),
        ("ﬁne ﬂow", "en", "fine flow", "ﬁﬂ"),
        ("𝓗𝓮𝓵𝓵𝓸", "en", "Hello", "𝓗𝓮𝓵𝓸"),
        ("Ⅻ men", "en", "XII men", "ⅻ"),
        ("2½ cups of H₂O, 10²", "en", "2 1/2 cups of H 2 O, 10 2", "½₂²"),
        ("5％ ‼", "en", "5% !!", "％‼"),
        ("Привет, man ПРИ", "en", ", man", "приветп"),
        ("№ 5 is ㎏", "en", "5 is", "№㎏"),
        ("Kilo 3,14", "de", "Kilo 3,14", "K"),
    ],
    ids=[
        "invisible",
        "full width",
        "ligatures",
        "styled",
        "Roman",
        "fractions",
        "marks",
        "capitals",
        "symbols",
        "Komma",
    ],
)
def test_variants_of_plain_characters(text: str, code: str, spoken: str, unknown: str, small_vocab: Path) -> None:
    """Coqui's German cleaner writes a K itself, which must not remove one from the text."""
    result = spoken_text(load_tokenizer(small_vocab), text, code, 400)
    assert result.unknown == list(dict.fromkeys(unknown))
    assert " ".join(result.sentences).casefold() == spoken.casefold()


@pytest.mark.parametrize("joiner", ["\u200c", "\u200d"])
def test_joiners_inside_words_stay(joiner: str, write_vocab: Callable[..., Path], small_vocab_data: Any) -> None:
    text = f"न{joiner}म"
    small_vocab_data["model"]["vocab"] |= {character: index for index, character in enumerate(text, start=265)}
    spoken = spoken_text(load_tokenizer(write_vocab(small_vocab_data)), text, "fr", 400)
    assert (spoken.sentences, spoken.unknown) == ([text], [])
    assert spoken_text(load_tokenizer(write_vocab()), f"a{joiner}b", "fr", 400).unknown == [joiner]


@pytest.mark.parametrize("text", ["a" * 20_000, "a " * 10_000, ". " * 10_000 + "a", "日" * 20_000 + "a", "ab-" * 7_000])
def test_long_texts(text: str, small_vocab: Path) -> None:
    tokenizer = load_tokenizer(small_vocab)
    spoken = spoken_text(tokenizer, text, "en", 400)
    assert max(len(tokenizer.encode(sentence, "en")) for sentence in spoken.sentences) <= 400
    assert "".join(spoken.sentences).count("a") == text.count("a")
