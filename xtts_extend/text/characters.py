"""Clean text character by character: punctuation, digits from all scripts, and non-printing characters.

Punctuation is mapped to marks that the XTTS vocabulary already has, so that it adds no new tokens.
"""

from __future__ import annotations

import unicodedata

# Persian and the Indic scripts use joiners in spelling. All other format characters are invisible and not pronounced.
JOINERS = "\u200c\u200d"
_SILENT_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs"})

# For each replacement, the marks that it replaces. Double quotes are dropped, as in coqui's own cleaners.
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
    """A `str.translate` table that replaces punctuation, converts digits to ASCII and drops non-printing characters."""

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


def plain_characters(text: str) -> str:
    """Replace punctuation that the base cannot spell, write digits as 0-9, and drop non-printing characters."""
    return text.translate(_CHARACTERS)


def plain_mark(character: str) -> str | None:
    """Return the cleaners' replacement for a mark ("" if they drop it), or None if they keep the character."""
    plain = plain_characters(character)
    return None if plain == character else plain


def is_silent(character: str) -> bool:
    """Return whether the cleaners drop a character as non-printing: a control, format or private-use character."""
    return _CHARACTERS[ord(character)] is None
