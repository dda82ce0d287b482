"""Spell out numbers in the languages that num2words supports.

num2words is used only for whole cardinal numbers. It gets decimals and negative numbers wrong in several languages (in
Vietnamese, -5 becomes fifteen; in Persian and Bengali, 3.05 becomes 3.5), so this module adds the sign, the decimal
point and the fraction itself, using num2words' own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from num2words import CONVERTER_CLASSES, num2words

#: Maximum number of digits in a number that is read as a cardinal. Longer numbers, such as account numbers, are read
#: digit by digit.
MAX_CARDINAL_DIGITS = 15

# num2words' codes for languages whose codes differ here.
_NUM2WORDS_CODES = {"kk": "kz", "nb": "no"}

# Languages in num2words with a decimal point and thousands commas. All others use them the other way around (CLDR).
_DECIMAL_POINT_LANGUAGES = frozenset({"am", "bn", "cy", "fa", "he", "kn", "te", "th"})

# num2words 0.5.14 raises TypeError for most Amharic numbers above 1,100 and writes "mሚሊዮን" for a million.
_AMHARIC_SCALES = ((10**12, "ትሪሊዮን"), (10**9, "ቢሊዮን"), (10**6, "ሚሊዮን"), (10**3, "ሺህ"))

_NUMBER = re.compile(r"(?:(?<!\S)-)?\d+(?:[.,'\u00a0\u202f]\d+)*", re.ASCII)
_GROUPED = re.compile(
    r"(?P<whole>[1-9]\d{0,2}(?:(?P<mark>[.,'\u00a0\u202f])\d{3}(?:(?P=mark)\d{3})*))(?:(?!(?P=mark))[.,](?P<fraction>\d+))?"
)
_DECIMAL = re.compile(r"(?P<whole>\d+)[.,](?P<fraction>\d+)")

# Words for digits in languages that coqui supports but num2words does not.
_DIGIT_WORDS = {"hi": ["शून्य", "एक", "दो", "तीन", "चार", "पाँच", "छह", "सात", "आठ", "नौ"]}

_ETHIOPIC_NUMERAL = re.compile("[፩-፼]{1,16}")
_ETHIOPIC_HUNDRED, _ETHIOPIC_MYRIAD = "፻", "፼"


def num2words_language(code: str) -> str | None:
    """Return num2words' code for a language, such as "kz" for "kk", or None if there is none."""
    num2words_code = _NUM2WORDS_CODES.get(code, code)
    return num2words_code if num2words_code in CONVERTER_CLASSES else None


def can_spell_numbers(code: str) -> bool:
    """Return whether `numbers_to_words` can spell out numbers in this language."""
    return num2words_language(code) is not None


def decimal_mark_of(code: str) -> str:
    """Return the decimal mark of a language: "." or ","."""
    return "." if code in _DECIMAL_POINT_LANGUAGES else ","


def numbers_to_words(text: str, code: str, decimal_mark: str | None = None) -> str:
    """Return the text with numbers (ASCII digits) spelled out, or unchanged if num2words does not support the language.

    Thousands separators, decimal fractions and a minus sign after a space are recognized. A number with a leading zero
    or with more than `MAX_CARDINAL_DIGITS` digits is read digit by digit. No space is added between a number and
    adjacent letters, because Amharic writes "in 1990" as one word.

    >>> numbers_to_words("1,234.5", "am")
    'አንድ ሺህ ሁለት መቶ ሠላሳ አራት ነጥብ አምስት'
    >>> numbers_to_words("1.234", "vi"), numbers_to_words("1.234", "vi", decimal_mark=".")
    ('một nghìn hai trăm ba mươi bốn', 'một.hai ba bốn')

    Args:
        text: Text in the language.
        code: Code of the language.
        decimal_mark: "." or ",". It determines how numbers such as 1.234 are read. The default is the language's own.
    """
    if not can_spell_numbers(code):
        return text
    mark = decimal_mark or decimal_mark_of(code)
    return _NUMBER.sub(lambda match: _read_number(match[0], code, mark), text)


def _read_number(number: str, code: str, decimal_mark: str) -> str:
    sign = ""
    if number.startswith("-"):
        number = number[1:]
        sign = _converter_word(code, "negword", "-")
        sign = sign if sign == "-" else sign + " "
    match = _GROUPED.fullmatch(number)
    if match and match["fraction"] is None and match["mark"] == decimal_mark and number.count(decimal_mark) == 1:
        match = None  # If the comma is the decimal mark, 1,234 is a decimal fraction.
    match = match or _DECIMAL.fullmatch(number)
    if match is None:
        return sign + re.sub(r"\d+", lambda part: read_digits(part[0], code), number)
    words = read_digits(re.sub(r"\D", "", match["whole"]), code)
    if match["fraction"] is not None:
        point = _converter_word(code, "pointword", "")
        words += f" {point} " if point else decimal_mark
        words += _digit_by_digit(match["fraction"], code)
    return sign + words


def read_digits(digits: str, code: str) -> str:
    """Spell out ASCII digits as a cardinal, or one by one if there are too many of them or the first one is a zero."""
    if len(digits) > MAX_CARDINAL_DIGITS or (digits[0] == "0" and len(digits) > 1):
        return _digit_by_digit(digits, code)
    return cardinal(int(digits), code) or _digit_by_digit(digits, code)


def spell_numbers(text: str, code: str, should_spell: Callable[[str], bool] = lambda word: True) -> str:
    """Return the text with digits spelled out by `read_digits`, including those in words such as "1990.".

    Args:
        text: Text in the language.
        code: Code of the language.
        should_spell: Function that takes a word and returns whether to spell out its digits. By default, all digits are
            spelled out.
    """

    def spell(match: re.Match[str]) -> str:
        if not should_spell(match[0]):
            return match[0]
        return re.sub("[0-9]+", lambda digits: read_digits(digits[0], code), match[0])

    return re.sub(r"\S*[0-9]\S*", spell, text)


def _digit_by_digit(digits: str, code: str) -> str:
    names = _DIGIT_WORDS.get(code, list("0123456789"))
    return " ".join(cardinal(int(digit), code) or names[int(digit)] for digit in digits)


@lru_cache(maxsize=4096)
def cardinal(number: int, code: str) -> str | None:
    """Return a non-negative whole number in words, or None if num2words fails on it."""
    if code == "am" and number >= 1000:
        return _amharic_cardinal(number)
    try:
        return str(num2words(number, lang=_NUM2WORDS_CODES.get(code, code))).lower().strip()
    except (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError):
        return None


def _amharic_cardinal(number: int) -> str:
    words = []
    for value, name in _AMHARIC_SCALES:
        count, number = divmod(number, value)
        if count:
            words.append(f"{cardinal(count, 'am')} {name}")
    if number:
        words.append(cardinal(number, "am") or str(number))
    return " ".join(words)


def amharic_ordinal(number: int) -> str:
    """Return a number as an Amharic ordinal in words, such as ሃያ አንደኛ for 21."""
    rest = number % 1000
    if not rest and number:
        return f"{cardinal(number, 'am')}ኛ"
    last = str(num2words(rest, lang="am", to="ordinal"))
    return f"{cardinal(number - rest, 'am')} {last}" if number > rest else last


def _converter_word(code: str, attribute: str, default: str) -> str:
    """Return num2words' word for the decimal point or minus sign, or `default` if it has no word."""
    word = getattr(CONVERTER_CLASSES[_NUM2WORDS_CODES.get(code, code)], attribute, None)
    word = (word or "").strip().lower()
    return word if word and not re.search(r"[^\w\s]", word) else default


def ethiopic_numerals_to_digits(text: str) -> str:
    """Return the text with Ethiopic numerals converted to ASCII digits: ፲፱፻፺ becomes 1990, and ፼ becomes 10000.

    Units and tens are added. ፻ multiplies the preceding value by 100, and ፼ by 10,000; a missing value counts as 1.
    """
    return _ETHIOPIC_NUMERAL.sub(lambda match: str(_ethiopic_value(match[0])), text)


def _ethiopic_value(numeral: str) -> int:
    myriads = hundreds = units = 0
    for sign in numeral:
        if sign == _ETHIOPIC_HUNDRED:
            hundreds, units = hundreds + (units or 1) * 100, 0
        elif sign == _ETHIOPIC_MYRIAD:
            myriads, hundreds, units = (myriads + hundreds + units or 1) * 10_000, 0, 0
        else:
            tens, unit = divmod(ord(sign) - ord("፩"), 9)
            units += 10 * (unit + 1) if tens else unit + 1
    return myriads + hundreds + units
