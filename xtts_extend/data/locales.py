"""Recognize the languages in tables, given as names or as codes, which may be uppercase, regional or three-letter."""

from __future__ import annotations

import re

import pandas as pd

from xtts_extend.data.language_names import code_of_name, same_language
from xtts_extend.errors import LanguageError
from xtts_extend.text.languages import STOCK_LANGUAGES, validate_code

#: Alternative codes for XTTS's languages. `read_language` handles codes with a region.
_CODES = {
    "ara": "ar", "ces": "cs", "cze": "cs", "deu": "de", "ger": "de", "eng": "en", "spa": "es", "fra": "fr", "fre": "fr",
    "hin": "hi", "hun": "hu", "ita": "it", "jpn": "ja", "jp": "ja", "kor": "ko", "kr": "ko", "nld": "nl", "dut": "nl",
    "pol": "pl", "por": "pt", "rus": "ru", "tur": "tr", "zho": "zh-cn", "chi": "zh-cn", "cmn": "zh-cn", "cn": "zh-cn",
}  # fmt: skip
#: Values that mean that the language is unknown.
_UNKNOWN = frozenset(("", "nan", "none", "null", "n/a", "na", "unknown", "unk", "undefined", "other", "und", "-", "?"))


def is_unknown(text: str | None) -> bool:
    """Return whether a cell is blank or says that the language is unknown."""
    return (text or "").strip().lower() in _UNKNOWN


def read_language(text: str, expected: str | None = None) -> str:
    """Return the language code for a language name or code as a table spells it.

    Args:
        text: Name of a language, or its code with or without a region.
        expected: Code to return if `text` is any name or code for the same language.

    Raises:
        LanguageError: The text is neither a known name nor a valid code.

    >>> [read_language(text) for text in ("EN", "en-US", "eng", "English", "አማርኛ")]
    ['en', 'en', 'en', 'en', 'am']
    >>> read_language("Amharic", expected="amh")
    'amh'
    """
    spelled = text.strip().lower().replace("_", "-")
    # Coqui accepts both "zh" and "zh-cn".
    if text == "zh" or spelled == "zh-cn":
        return spelled
    named = code_of_name(text)
    regional = re.fullmatch(r"([a-z]{2,3})-[a-z0-9-]+", spelled)
    base = regional[1] if regional else spelled
    code = named or _CODES.get(base, base)
    if expected is not None and same_language(code, expected):
        return expected
    if named is None and len(code) > 3 and code != text.strip():
        raise LanguageError(
            f"{text.strip()!r} is neither a language code nor a known language name. Put the language's ISO code in "
            "the column. If all rows are in one language, add --columns language= and pass the code as PATH:LANG."
        )
    return "zh-cn" if code == "zh" else validate_code(code)


def all_languages(column: pd.Series[str]) -> bool:
    """Return whether every cell of a column names a language or marks it as unknown, and at least one names one."""
    names = [name for name in column.unique() if not is_unknown(name)]
    return bool(names) and all(_is_language(name) for name in names)


def _is_language(name: str) -> bool:
    try:
        code = read_language(name)
    except LanguageError:
        return False
    # Codes can be longer, but if longer ones were accepted, any name would pass for a code.
    return len(code) < 4 or code == "zh-cn"


def looks_like_language(column: pd.Series[str], language: str | None, *, any_code: bool) -> bool:
    """Return whether every cell of a column looks like a language.

    Args:
        column: Column of a table.
        language: Code of the language to expect.
        any_code: Whether to accept any two capital letters as a code, even though they could be a speaker's initials.
    """
    known = {*STOCK_LANGUAGES, *_CODES, "zh-cn", "yue", language}
    code = "[A-Z]{2}|[a-z]{2,3}[-_][A-Z]{2}" if any_code else "[a-z]{2,3}[-_][A-Z]{2}"
    names = [name.strip() for name in column.unique()]
    return all(name.lower() in known or re.fullmatch(code, name) or code_of_name(name) for name in names)
