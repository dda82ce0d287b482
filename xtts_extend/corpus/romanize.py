"""Romanize words with uroman, which the texts that MMS_FA was trained on were romanized with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from xtts_extend.data.language_names import codes_of

_OTHER = re.compile("[^a-z']+")


def romanize(words: Sequence[str], language: str) -> list[str]:
    """Return each word in lowercase letters a-z and apostrophes. A word without a letter becomes an empty string.

    Args:
        words: Words, each of which is romanized on its own.
        language: Code of the language. uroman has rules of its own for some languages.
    """
    code = codes_of(language.split("-")[0])[0]
    return [_romanize(word, code) for word in words]


@lru_cache(maxsize=65536)
def _romanize(word: str, code: str) -> str:
    romanized: str = _uroman().romanize_string(word, lcode=code)
    return _OTHER.sub("", romanized.lower().replace("’", "'"))


@lru_cache(maxsize=1)
def _uroman() -> Any:
    # Loading its tables takes 3 s.
    import uroman

    return uroman.Uroman()
