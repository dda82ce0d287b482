from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from xtts_extend.errors import LanguageError
from xtts_extend.text.languages import split_sentences
from xtts_extend.text.sentences import sentence_ends


@pytest.mark.parametrize(
    ("code", "text", "sentences"),
    [
        ("am", "ሰላም ነው። ደህና ነህ፧ አዎ!", ["ሰላም ነው።", "ደህና ነህ፧", "አዎ!"]),
        ("am", "ሰላም ነው፡፡ ደህና", ["ሰላም ነው፡፡", "ደህና"]),
        ("ti", "ሰላም።ደሓን፧ ሕራይ", ["ሰላም።", "ደሓን፧", "ሕራይ"]),
        ("yo", "Ẹ n lẹ́ o. Dr. Ade wá.", ["Ẹ n lẹ́ o.", "Dr. Ade wá."]),
        ("en", "Mr. Smith left. He ran.", ["Mr. Smith left.", "He ran."]),
        ("el", "Ναι. Όχι.", ["Ναι.", "Όχι."]),
        ("bn", "আমি। তুমি।", ["আমি।", "তুমি।"]),
        ("zh-cn", "你好。再见。", ["你好。", "再见。"]),
        ("ka", "ერთი\nორი", ["ერთი", "ორი"]),
        ("am", "ሰላም። ። ደህና።", ["ሰላም።።", "ደህና።"]),
        ("am", "", []),
        ("am", " \n ", []),
    ],
)
def test_boundaries(code: str, text: str, sentences: list[str]) -> None:
    assert split_sentences(text, code, 250) == sentences


def test_long_sentences_wrap_at_spaces_and_at_the_ethiopic_word_space() -> None:
    assert split_sentences("one two three four", "yo", 9) == ["one two", "three", "four"]
    assert split_sentences("ሰላም፡ለዓለም፡ሁሉ", "am", 9) == ["ሰላም፡ለዓለም፡", "ሁሉ"]


def test_words_longer_than_the_limit_are_split_but_not_before_a_combining_mark() -> None:
    assert split_sentences("abcdefgh", "yo", 3) == ["abc", "def", "gh"]
    assert split_sentences("e\u0301" * 3, "yo", 3) == ["e\u0301"] * 3
    assert split_sentences("e" + "\u0301" * 4, "yo", 2) == ["e\u0301", "\u0301\u0301", "\u0301"]
    assert split_sentences("ab", "yo", 1) == ["a", "b"]


@pytest.mark.parametrize("limit", [1, 7, 50, 250])
def test_no_character_is_lost_and_no_sentence_is_too_long(shared_data: Path, limit: int) -> None:
    for path in sorted((shared_data / "udhr").glob("*.txt")):
        text = path.read_text(encoding="utf-8")[:3000]
        pieces = split_sentences(text, path.stem, limit)
        assert all(0 < len(piece) <= limit for piece in pieces)
        assert "".join("".join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize("unit", ["a. b. c. ", "word ", "x", "ነው። ", "ሰላም፡", '"Hi." ', "1. ", "\n", "።", "."])
def test_huge_texts_take_linear_time(unit: str) -> None:
    # pysbd alone takes 20 s for 36,000 characters of "a. b. c. ", and four times as long for twice as many.
    # The limit is CPU time, because the machine may be busy.
    start = time.process_time()
    pieces = split_sentences(unit * (30_000 // len(unit)), "am", 130)
    assert time.process_time() - start < 8
    assert all(0 < len(piece) <= 130 for piece in pieces)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one(limit: int) -> None:
    with pytest.raises(LanguageError, match="1 or more"):
        split_sentences("a", "yo", limit)


@pytest.mark.parametrize(
    ("code", "sentences"),
    [
        ("am", ["ሰላም ነው።", "ደህና ነህ፧", "አዎ!", "ገና ፨", "ነው፡፡", "አለ"]),
        ("hi", ["आप कैसे हैं?", "मैं ठीक हूँ।", "और॥", "मैं हूँ.", "तुम"]),
        ("mr", ["मी आहे.", "तू आहेस."]),
        ("ar", ["مرحبا، كيف حالك؟", "أنا بخير.", "شكرا"]),
        ("ur", ["یہ ہے۔", "وہ ہے؟", "ہاں"]),
        ("my", ["မင်္ဂလာပါ၊ နေကောင်းလား။", "ကောင်းပါတယ်"]),
        ("km", ["សួស្តី។", "អរគុណ៕", "ល្អ"]),
        ("bo", ["བཀྲ་ཤིས།", "བདེ་ལེགས༎", "ག"]),
        ("th", ["สวัสดีครับ", "เด็ก ๆ", "กิน"]),
        ("lo", ["ສະບາຍດີ", "ຂອບໃຈ"]),
        ("hy", ["Ինչպե՞ս ես։", "Լավ եմ:", "Շատ"]),
        ("el", ["Τι κάνεις;", "Καλά."]),
        ("en", ["I came; I saw.", "Mr. Smith has 3.5 at the U.S. office.", "“Hi.”", "He did (really?!)", "Yes… no."]),
        ("cs", ["„Ahoj!“ řekl.", "Dr. Novák… šel."]),
        ("ka", ["კარგი.", "არა!", "ნახე"]),
        ("fr", ["Bonjour !", "« Ça va ? »", "Oui."]),
        ("de", ["Nein.", "»Doch!«", "„Gut.“", "Ja."]),
        ("sat", ["ᱚᱞ᱾", "ᱪᱤᱠᱤ᱿"]),
    ],
)
def test_sentence_ends(code: str, sentences: list[str]) -> None:
    text = " ".join(sentences)
    ends = [len(" ".join(sentences[: count + 1])) for count in range(len(sentences))]
    assert sentence_ends(text, code) == ends


@pytest.mark.parametrize(
    ("code", "text", "sentences"),
    [
        ("zh-cn", "你好。再见！“好吗？”他说", ["你好。", "再见！", "“好吗？”", "他说"]),
        ("ti", "ሰላም።ደሓን", ["ሰላም።", "ደሓን"]),
        ("en", "A title\n\nOne. Two", ["A title", "One.", "Two"]),
        ("en", "One.\nTwo\nThree. Four.\n", ["One.", "Two", "Three.", "Four."]),
        (
            "en",
            "It was the best. It\nwas the\nage of. Then\nit ended",
            ["It was the best.", "It\nwas the\nage of.", "Then\nit ended"],
        ),
        ("en", "one\ntwo words\nthree.", ["one", "two words", "three."]),
        ("en", "One. And\ntwo.\n\nThree. Four\nfive.", ["One.", "And\ntwo.", "Three.", "Four\nfive."]),
        ("en", " \n\n ", []),
    ],
)
def test_sentence_ends_without_spaces_and_at_line_breaks(code: str, text: str, sentences: list[str]) -> None:
    starts = [0, *sentence_ends(text, code)]
    assert [text[start:end].strip() for start, end in pairwise(starts)] == sentences


@pytest.mark.parametrize("unit", ["a. b. c. ", "word ", "x", '"Hi." ', "1. ", "\n", ".", " \n", "“"])
def test_sentence_ends_take_linear_time(unit: str) -> None:
    start = time.process_time()
    sentence_ends(unit * (10_000 // len(unit)), "en")
    assert time.process_time() - start < 4
