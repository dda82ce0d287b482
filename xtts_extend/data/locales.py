"""How tables write languages: codes in capitals, with a region, of three letters, or English names."""

from __future__ import annotations

import re

import pandas as pd

from xtts_extend.text.languages import STOCK_LANGUAGES, validate_code

#: Other spellings of the languages that XTTS knows; for those of a region, see `read_language`.
_SPELLINGS = {
    "ar": "arabic ara",
    "cs": "czech ces cze",
    "de": "german deu ger deutsch",
    "en": "english eng",
    "es": "spanish spa castilian",
    "fr": "french fra fre",
    "hi": "hindi hin",
    "hu": "hungarian hun",
    "it": "italian ita",
    "ja": "japanese jpn jp",
    "ko": "korean kor kr",
    "nl": "dutch nld dut",
    "pl": "polish pol",
    "pt": "portuguese por",
    "ru": "russian rus",
    "tr": "turkish tur",
    "zh-cn": "chinese zho chi cmn cn mandarin",
}
_CODES = {spelling: code for code, spellings in _SPELLINGS.items() for spelling in spellings.split()}


def read_language(text: str) -> str:
    """The code of a language as a table spells it: "EN", "en-US", "eng" and "English" are "en".

    Raises LanguageError when it is no language.
    """
    spelled = text.strip().lower().replace("_", "-")
    # as it always was: coqui knows both
    if text == "zh" or spelled == "zh-cn":
        return spelled
    regional = re.fullmatch(r"([a-z]{2,3})-[a-z0-9-]+", spelled)
    base = regional[1] if regional else spelled
    code = _CODES.get(base, base)
    return "zh-cn" if code == "zh" else validate_code(code)


def looks_like_language(column: pd.Series[str], language: str | None, *, any_code: bool) -> bool:
    """Whether every cell of a column names a language.

    Args:
        column: of a table.
        language: one that is to be expected.
        any_code: two capitals are a language as well, which could be a speaker's initials.
    """
    known = {*STOCK_LANGUAGES, *_CODES, *_SPELLINGS, "yue", language}
    code = "[A-Z]{2}|[a-z]{2,3}[-_][A-Z]{2}" if any_code else "[a-z]{2,3}[-_][A-Z]{2}"
    names = [name.strip() for name in column.unique()]
    return all(name.lower() in known or re.fullmatch(code, name) for name in names)
