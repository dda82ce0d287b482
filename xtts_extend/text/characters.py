"""What becomes of single characters: marks that the base can spell, digits of all scripts, what nobody sees.

Marks are mapped to those that the XTTS vocabulary can already spell, so that punctuation makes no new tokens.
"""

from __future__ import annotations

import unicodedata

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


def plain_characters(text: str) -> str:
    """Marks as the base can spell them, digits of all scripts as 0-9, silent characters dropped."""
    return text.translate(_CHARACTERS)


def plain_mark(character: str) -> str | None:
    """The mark of the XTTS vocabulary that is written for another one, "" for what is not spoken; None for the rest."""
    plain = plain_characters(character)
    return None if plain == character else plain


def is_silent(character: str) -> bool:
    """Whether the cleaners drop this character as one that no text is spoken by: control, format, private use."""
    return _CHARACTERS[ord(character)] is None
