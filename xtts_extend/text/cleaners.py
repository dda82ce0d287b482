"""From written text to the text that becomes tokens: the default cleaner, and Amharic as the worked example.

Marks are mapped to those that the XTTS vocabulary can already spell, so that punctuation makes no new tokens. Letters
are never touched, beyond lower case and Unicode's composed form (NFC). Cleaning twice, or cleaning text that
`Xtts.inference` has lower-cased, gives the same as cleaning once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import partial

from xtts_extend.text.numbers import amharic_ordinal, ethiopic_numerals_to_digits, numbers_to_words

Cleaner = Callable[[str], str]

# Joiners are spelling in Persian and the Indic scripts; every other format character is invisible and silent.
JOINERS = "\u200c\u200d"
_SILENT_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs"})

# Old marks by what becomes them. Double quotes vanish, as in coqui's own cleaners.
_MARKS = {
    "": '"“”„‟″«»‹›〝〞〟＂「」『』《》〈〉',
    "'": "‘’‚‛′`´＇",
    "-": "‐‑‒–—―−﹣－⸺",
    "...": "…",
    "(": "[{（［｛【",
    ")": "]}）］｝】",
    ".": "。．｡።፨।॥۔။།។։",
    ",": "、，､፣၊",
    ";": "；፤",
    ":": "：፥፦",
    "?": "？፧",
    "!": "！",
    " ": "፡",
}


class _Characters(dict[int, str | None]):
    """A table for `str.translate`: marks are mapped, digits become ASCII, silent characters vanish, the rest stays."""

    def __missing__(self, codepoint: int) -> str | None:
        character = chr(codepoint)
        category = unicodedata.category(character)
        new: str | None = character
        if category in _SILENT_CATEGORIES and character not in JOINERS and not character.isspace():
            new = None
        elif category == "Nd":
            new = str(unicodedata.decimal(character))
        self[codepoint] = new
        return new


_CHARACTERS = _Characters({ord(old): new for new, marks in _MARKS.items() for old in marks})

# ፡፡ is how ። is often typed, :: too; ፡- stands for ፦.
_TYPED_FULL_STOP = re.compile("፡፡|(?<=[ሀ-፿])::")
_TYPED_COLON = re.compile("፡-")


def plain_mark(character: str) -> str | None:
    """The mark of the XTTS vocabulary that is written for another one, "" for what is not spoken; None for the rest."""
    plain = character.translate(_CHARACTERS)
    return None if plain == character else plain


def is_silent(character: str) -> bool:
    """Whether the cleaners drop this character as one that no text is spoken by: control, format, private use."""
    return _CHARACTERS[ord(character)] is None


# Languages whose Latin letters have an ı beside the i. Some are written in Cyrillic as well, where I is a numeral.
# fmt: off
_DOTLESS_I = frozenset((
    "alt", "az", "aze", "azj", "ba", "bak", "crh", "diq", "gag", "kaa", "kaz", "kdr", "kir", "kiu", "kk", "krc", "kum",
    "ky", "nog", "sah", "tat", "tly", "tt", "tur", "tyv", "uum", "zza",
))
# fmt: on
_CYRILLIC = re.compile("[\u0400-\u052f]")


def lower_dotted_i(text: str, code: str) -> str:
    """I and İ in lower case as the language has them: ı and i in most Turkic languages, not i and i with a second dot.

    Turkish is one of coqui's own, whose cleaner makes an i of both. All else is left as it is.
    """
    if code == "tr":
        return text.replace("İ", "i")
    if code in _DOTLESS_I and not _CYRILLIC.search(text):
        return unicodedata.normalize("NFC", text).replace("İ", "i").replace("I", "ı")
    return text


def _simplify(text: str, code: str) -> str:
    """NFC, Ethiopic numerals as digits, known marks, lower case."""
    text = lower_dotted_i(text, code)
    text = _TYPED_COLON.sub("፦", _TYPED_FULL_STOP.sub("።", unicodedata.normalize("NFC", text)))
    text = ethiopic_numerals_to_digits(text).translate(_CHARACTERS)
    # İ lower-cases to i and a combining dot, which nobody pronounces.
    return text.lower().replace("i\u0307", "i")


def _finish(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def default_cleaner(code: str) -> Cleaner:
    """The cleaner of a language that has none of its own.

    NFC, lower case, marks unified, digits of all scripts as ASCII digits and, where num2words knows the language,
    numbers as words, white space collapsed.
    """
    return partial(_default_clean, code=code)


def _default_clean(text: str, code: str) -> str:
    return _finish(numbers_to_words(_simplify(text, code), code))


_AMHARIC_ABBREVIATIONS = {
    "ዓ/ም": "ዓመተ ምሕረት",
    "ዓ.ም": "ዓመተ ምሕረት",
    "እ.ኤ.አ": "እንደ ኤሮፓውያን አቆጣጠር",
    "ዶ/ር": "ዶክተር",
    "ፕ/ር": "ፕሮፌሰር",
    "ኢ/ር": "ኢንጂነር",
    "ወ/ሮ": "ወይዘሮ",
    "ወ/ት": "ወይዘሪት",
    "ጠ/ሚ": "ጠቅላይ ሚኒስትር",
    "ት/ቤት": "ትምህርት ቤት",
    "መ/ቤት": "መሥሪያ ቤት",
    "ም/ቤት": "ምክር ቤት",
    "ፍ/ቤት": "ፍርድ ቤት",
    "ክ/ከተማ": "ክፍለ ከተማ",
}
_AMHARIC_ABBREVIATION = re.compile(
    "|".join(re.escape(short) for short in sorted(_AMHARIC_ABBREVIATIONS, key=len, reverse=True))
)
_AMHARIC_SYMBOLS = {"%": " በመቶ ", "&": " እና ", "$": " ዶላር ", "€": " ዩሮ ", "£": " ፓውንድ "}
_AMHARIC_SYMBOL = re.compile("[%&$€£]")
_CURRENCY_BEFORE_AMOUNT = re.compile(r"([$€£])\s*(\d+(?:[.,]\d+)*)")
_AMHARIC_ORDINAL = re.compile(r"(?<![\d.,])(\d{1,15})ኛ", re.ASCII)

# Letters that today's Amharic pronounces alike, in their seven orders (ሠ also in its labialised one).
_HOMOPHONES = {
    ord(old) + order: ord(new) + order
    for old, new, orders in (("ሐ", "ሀ", 7), ("ኀ", "ሀ", 7), ("ሠ", "ሰ", 8), ("ዐ", "አ", 7), ("ፀ", "ጸ", 7))
    for order in range(orders)
}


def amharic_cleaner(fold_homophones: bool = False) -> Cleaner:
    """The cleaner of Amharic: the default, and abbreviations, ordinals, per cent and currencies.

    `fold_homophones` writes ሐ and ኀ as ሀ, ሠ as ሰ, ዐ as አ, ፀ as ጸ, in all their orders: fewer tokens, and spelling
    variants of one word become one word. It has to be the same in training and in use, so it is off by default.
    """
    return partial(_clean_amharic, fold_homophones=fold_homophones)


def _clean_amharic(text: str, fold_homophones: bool) -> str:
    text = _simplify(text, "am")
    text = _AMHARIC_ABBREVIATION.sub(lambda match: _AMHARIC_ABBREVIATIONS[match[0]], text)
    text = _CURRENCY_BEFORE_AMOUNT.sub(r"\2\1", text)
    text = _AMHARIC_SYMBOL.sub(lambda match: _AMHARIC_SYMBOLS[match[0]], text)
    text = _AMHARIC_ORDINAL.sub(lambda match: amharic_ordinal(int(match[1])), text)
    text = numbers_to_words(text, "am")
    if fold_homophones:
        text = text.translate(_HOMOPHONES)
    return _finish(text)
