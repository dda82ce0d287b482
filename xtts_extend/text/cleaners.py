"""The default cleaner for any language, and a cleaner for Amharic as a worked example.

The only changes to letters are lowercasing and composition (Unicode NFC). Cleaning text twice, or cleaning text that
`Xtts.inference` has already lowercased, gives the same result as cleaning it once.
"""

from __future__ import annotations

from xtts_extend.text.characters import is_silent
from xtts_extend.text.cleaning import Cleaning, Json, Step, turkic_i
from xtts_extend.text.numbers import decimal_mark_of, num2words_language

__all__ = ["amharic_cleaner", "default_cleaner", "is_silent", "lower_dotted_i"]

# Languages whose Latin alphabet has both ı and i. Some are also written in Cyrillic, where I is a Roman numeral.
# fmt: off
_DOTLESS_I = frozenset((
    "alt", "az", "aze", "azj", "ba", "bak", "crh", "diq", "gag", "kaa", "kaz", "kdr", "kir", "kiu", "kk", "krc", "kum",
    "ky", "nog", "sah", "tat", "tly", "tt", "tur", "tyv", "uum", "zza",
))
# fmt: on


def lower_dotted_i(text: str, code: str) -> str:
    """Return the text with I and İ lowercased to ı and i if the language is Turkic.

    `str.lower` would turn I into i, and İ into i with a second dot. In Turkish, which is one of coqui's own languages,
    both become i, as in coqui's cleaner. All other letters are unchanged.
    """
    return turkic_i(text, dotless=code != "tr") if _has_turkic_i(code) else text


def _has_turkic_i(code: str) -> bool:
    return code == "tr" or code in _DOTLESS_I


def default_cleaner(code: str) -> Cleaning:
    """Return the default cleaner, for a language that has no cleaner of its own.

    It composes letters (NFC), lowercases them, unifies punctuation marks, writes digits from all scripts as 0-9, spells
    out numbers if num2words supports the language, and collapses whitespace.

    >>> default_cleaner("vi")("Tiếng  VIỆT: “21”")
    'tiếng việt: hai mươi mốt'
    """
    steps = [Step(name, 1) for name in ("composition", "ethiopic", "characters", "casing")]
    if _has_turkic_i(code):
        # This comes first, because later steps drop non-printing characters, and may then compose an I with a dot that
        # was separated from it.
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

# Letters that are pronounced alike in modern Amharic, in all seven orders (ሠ also has a labialized form).
_HOMOPHONES = {
    chr(ord(old) + order): chr(ord(new) + order)
    for old, new, orders in (("ሐ", "ሀ", 7), ("ኀ", "ሀ", 7), ("ሠ", "ሰ", 8), ("ዐ", "አ", 7), ("ፀ", "ጸ", 7))
    for order in range(orders)
}


def amharic_cleaner(fold_homophones: bool = False) -> Cleaning:
    """Return the Amharic cleaner, which also spells out abbreviations, ordinals, percent signs and currencies.

    Args:
        fold_homophones: Write ሐ and ኀ as ሀ, ሠ as ሰ, ዐ as አ, and ፀ as ጸ, in all their orders. This saves tokens and
            unifies spelling variants of a word. Off by default, because training and inference must use the same
            setting.

    >>> amharic_cleaner()("ዶ/ር አበበ 25%")
    'ዶክተር አበበ ሃያ አምስት በመቶ'
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
