from __future__ import annotations

import time

import num2words
import pytest

from xtts_extend.text.numbers import (
    amharic_ordinal,
    can_spell_numbers,
    cardinal,
    ethiopic_numerals_to_digits,
    numbers_to_words,
)


@pytest.mark.parametrize(
    ("numeral", "value"),
    [
        ("፩", "1"),
        ("፱", "9"),
        ("፲", "10"),
        ("፺፱", "99"),
        ("፻", "100"),
        ("፪፻፭", "205"),
        ("፲፱፻፺", "1990"),
        ("፳፻፲፯", "2017"),
        ("፼", "10000"),
        ("፼፻", "10100"),
        ("፲፪፼፴፬፻፶፮", "123456"),
        ("፻፼", "1000000"),
        ("፼፼", "100000000"),
    ],
)
def test_ethiopic_numerals(numeral: str, value: str) -> None:
    assert ethiopic_numerals_to_digits(numeral) == value


def test_a_very_long_ethiopic_numeral_is_fast_and_limited() -> None:
    start = time.monotonic()
    assert ethiopic_numerals_to_digits("፼" * 20_000).startswith("1000000")
    assert time.monotonic() - start < 5


def test_amharic_thousands_that_num2words_fails_on() -> None:
    # When num2words is fixed, the workaround in numbers.py can be removed.
    with pytest.raises(TypeError):
        num2words.num2words(1990, lang="am")
    assert num2words.num2words(10**6, lang="am") == "አንድ mሚሊዮን"
    assert cardinal(1990, "am") == "አንድ ሺህ ዘጠኝ መቶ ዘጠና"
    assert cardinal(1_000_000, "am") == "አንድ ሚሊዮን"
    assert cardinal(2_000_345_100, "am") == "ሁለት ቢሊዮን ሦስት መቶ አርባ አምስት ሺህ መቶ"


def test_every_amharic_number_has_words_in_ethiopic_letters() -> None:
    for number in [*range(0, 12_000, 7), 10**12 + 1, 10**15 - 1]:
        words = cardinal(number, "am")
        assert words is not None
        assert all("\u1200" <= character <= "\u137f" or character == " " for character in words), (number, words)


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        ("am", "3.14", "ሦስት ነጥብ አንድ አራት"),
        ("am", "1,234", "አንድ ሺህ ሁለት መቶ ሠላሳ አራት"),
        ("am", "1.234", "አንድ ነጥብ ሁለት ሦስት አራት"),
        ("am", "በ1990", "በአንድ ሺህ ዘጠኝ መቶ ዘጠና"),
        ("am", "-5", "አሉታዊ አምስት"),
        ("am", "3-5", "ሦስት-አምስት"),
        ("am", "0912", "ዜሮ ዘጠኝ አንድ ሁለት"),
        ("uk", "1.234,5", "одна тисяча двісті тридцять чотири кома п'ять"),
        ("uk", "1\u00a0234", "одна тисяча двісті тридцять чотири"),
        ("uk", "3,05", "три кома нуль п'ять"),
        # num2words reads -5 as "mười lăm" (fifteen) and 3,05 as 3,5, and has no Vietnamese word for point or sign.
        ("vi", "-5", "-năm"),
        ("vi", "3,05", "ba,không năm"),
        ("vi", "1.234", "một nghìn hai trăm ba mươi bốn"),
        ("ro", "12.05.2024", "doisprezece.zero cinci.două mii douăzeci și patru"),
        ("kk", "15", "он бес"),
    ],
)
def test_numbers_become_words(code: str, text: str, words: str) -> None:
    assert numbers_to_words(text, code) == words


@pytest.mark.parametrize("code", ["yo", "sw", "ti", "en_US", "el"])
def test_languages_without_num2words_support_keep_their_digits(code: str) -> None:
    assert not can_spell_numbers(code)
    assert numbers_to_words("1,234 -5", code) == "1,234 -5"


@pytest.mark.parametrize("code", ["am", "uk", "kn", "te", "vi", "ce", "sk"])
def test_huge_numbers_are_read_digit_by_digit(code: str) -> None:
    start = time.monotonic()
    words = numbers_to_words("7" * 100_000, code)
    assert words == " ".join([str(cardinal(7, code))] * 100_000)
    for text in ("9" * 15, "1" + "0" * 15, "-" + "8" * 15, "1." + "2" * 5000, "1,2.3,4.5", "0", "00"):
        assert not any(character.isdigit() for character in numbers_to_words(text, code)), text
    assert time.monotonic() - start < 5


def test_amharic_ordinals() -> None:
    numbers = (0, 1, 9, 10, 21, 100, 1000, 1001)
    expected = ["ዜሮኛ", "አንደኛ", "ዘጠነኛ", "አሥረኛ", "ሃያ አንደኛ", "መቶኛ", "አንድ ሺህኛ", "አንድ ሺህ አንደኛ"]
    assert [amharic_ordinal(number) for number in numbers] == expected
