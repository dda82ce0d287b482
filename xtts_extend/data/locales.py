"""How tables write languages: codes in capitals, with a region, of three letters, or English names."""

from __future__ import annotations

import re

import pandas as pd

from xtts_extend.data.language_names import code_of_name, same_language
from xtts_extend.errors import LanguageError
from xtts_extend.text.languages import STOCK_LANGUAGES, validate_code

#: Codes of the languages that XTTS knows in other lengths; for those of a region, see `read_language`.
_CODES = {
    "ara": "ar", "ces": "cs", "cze": "cs", "deu": "de", "ger": "de", "eng": "en", "spa": "es", "fra": "fr", "fre": "fr",
    "hin": "hi", "hun": "hu", "ita": "it", "jpn": "ja", "jp": "ja", "kor": "ko", "kr": "ko", "nld": "nl", "dut": "nl",
    "pol": "pl", "por": "pt", "rus": "ru", "tur": "tr", "zho": "zh-cn", "chi": "zh-cn", "cmn": "zh-cn", "cn": "zh-cn",
}  # fmt: skip
#: What stands in the place of a language that is not known.
_NOTHING = frozenset(("", "nan", "none", "null", "n/a", "na", "unknown", "unk", "undefined", "other", "und", "-", "?"))


def is_unknown(text: str | None) -> bool:
    """Whether a cell says no more than that its language is not known."""
    return (text or "").strip().lower() in _NOTHING


def read_language(text: str, expected: str | None = None) -> str:
    """The code of a language as a table spells it: "EN", "en-US", "eng" and "English" are "en".

    Args:
        text: the spelling.
        expected: a code; it is what comes out for other codes and names of the same language ("amh", "Amharic").

    Raises LanguageError when it is no language.
    """
    spelled = text.strip().lower().replace("_", "-")
    # as it always was: coqui knows both
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
            f"Language code {text.strip()!r} is malformed, and no language of that name is known. Write the ISO code "
            "into the column; or, if all rows are of one language, add --columns language= and its code as PATH:LANG."
        )
    return "zh-cn" if code == "zh" else validate_code(code)


def all_languages(column: pd.Series[str]) -> bool:
    """Whether every cell of a column is a language's code or name, or blank; at least one of them is."""
    names = [name for name in column.unique() if not is_unknown(name)]
    return bool(names) and all(_is_language(name) for name in names)


def _is_language(name: str) -> bool:
    try:
        code = read_language(name)
    except LanguageError:
        return False
    # longer codes are allowed, and names that nobody knows look like one
    return len(code) < 4 or code == "zh-cn"


def looks_like_language(column: pd.Series[str], language: str | None, *, any_code: bool) -> bool:
    """Whether every cell of a column names a language.

    Args:
        column: of a table.
        language: one that is to be expected.
        any_code: two capitals are a language as well, which could be a speaker's initials.
    """
    known = {*STOCK_LANGUAGES, *_CODES, "zh-cn", "yue", language}
    code = "[A-Z]{2}|[a-z]{2,3}[-_][A-Z]{2}" if any_code else "[a-z]{2,3}[-_][A-Z]{2}"
    names = [name.strip() for name in column.unique()]
    return all(name.lower() in known or re.fullmatch(code, name) or code_of_name(name) for name in names)
