"""The cleanings of languages: the default one, and Amharic as the worked example.

Letters are never touched, beyond lower case and Unicode's composed form (NFC). Cleaning twice, or cleaning text that
`Xtts.inference` has lower-cased, gives the same as cleaning once.
"""

from __future__ import annotations

from xtts_extend.text.characters import is_silent
from xtts_extend.text.cleaning import Cleaning, Json, Step, turkic_i
from xtts_extend.text.numbers import decimal_mark_of, num2words_language

__all__ = ["amharic_cleaner", "default_cleaner", "is_silent", "lower_dotted_i"]

# Languages whose Latin letters have an ı beside the i. Some are written in Cyrillic as well, where I is a numeral.
# fmt: off
_DOTLESS_I = frozenset((
    "alt", "az", "aze", "azj", "ba", "bak", "crh", "diq", "gag", "kaa", "kaz", "kdr", "kir", "kiu", "kk", "krc", "kum",
    "ky", "nog", "sah", "tat", "tly", "tt", "tur", "tyv", "uum", "zza",
))
# fmt: on


def lower_dotted_i(text: str, code: str) -> str:
    """I and İ in lower case as the language has them: ı and i in most Turkic languages, not i and i with a second dot.

    Turkish is one of coqui's own, whose cleaner makes an i of both. All else is left as it is.
    """
    return turkic_i(text, dotless=code != "tr") if _has_turkic_i(code) else text


def _has_turkic_i(code: str) -> bool:
    return code == "tr" or code in _DOTLESS_I


def default_cleaner(code: str) -> Cleaning:
    """The cleaning of a language that has none of its own.

    NFC, lower case, marks unified, digits of all scripts as ASCII digits and, where num2words knows the language,
    numbers as words, white space collapsed.
    """
    steps = [Step(name, 1) for name in ("composition", "ethiopic", "characters", "casing")]
    if _has_turkic_i(code):
        # before an I and a dot that a silent character parts are composed
        steps.insert(0, Step("turkic_i", 1, {"dotless": code != "tr"}))
    if language := num2words_language(code):
        steps.append(Step("numbers", 1, {"language": language, "decimal_mark": decimal_mark_of(code)}))
    return Cleaning((*steps, Step("composition", 1), Step("white_space", 1)))


_AMHARIC_ABBREVIATIONS: dict[str, Json] = {
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
_AMHARIC_SYMBOLS: dict[str, Json] = {"%": " በመቶ ", "&": " እና ", "$": " ዶላር ", "€": " ዩሮ ", "£": " ፓውንድ "}

# Letters that today's Amharic pronounces alike, in their seven orders (ሠ also in its labialised one).
_HOMOPHONES = {
    chr(ord(old) + order): chr(ord(new) + order)
    for old, new, orders in (("ሐ", "ሀ", 7), ("ኀ", "ሀ", 7), ("ሠ", "ሰ", 8), ("ዐ", "አ", 7), ("ፀ", "ጸ", 7))
    for order in range(orders)
}


def amharic_cleaner(fold_homophones: bool = False) -> Cleaning:
    """The cleaning of Amharic: the default, and abbreviations, ordinals, per cent and currencies.

    `fold_homophones` writes ሐ and ኀ as ሀ, ሠ as ሰ, ዐ as አ, ፀ as ጸ, in all their orders: fewer tokens, and spelling
    variants of one word become one word. It has to be the same in training and in use, so it is off by default.
    """
    cleaning = default_cleaner("am").after(
        "casing",
        Step("replacements", 1, {"texts": _AMHARIC_ABBREVIATIONS, "whole_words": False}),
        Step("currency_last", 1, {"symbols": "$€£"}),
        Step("replacements", 1, {"texts": _AMHARIC_SYMBOLS, "whole_words": False}),
        Step("amharic_ordinals", 1),
    )
    if not fold_homophones:
        return cleaning
    letters, written_as = "".join(_HOMOPHONES), "".join(_HOMOPHONES.values())
    return cleaning.after("numbers", Step("homophones", 1, {"letters": letters, "written_as": written_as}))
