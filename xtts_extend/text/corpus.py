"""The words of a corpus from which a vocabulary learns: text files and manifests, cleaned as in training."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from xtts_extend.data.unspoken import find_damage
from xtts_extend.errors import DataError
from xtts_extend.notices import warn_once
from xtts_extend.text.characters import JOINERS, is_silent
from xtts_extend.text.languages import clean_text, compose_stock
from xtts_extend.text.verify import read_texts

_CODE_POINT = re.compile(r"[Uu]\+([0-9A-Fa-f]{4,6})")
# What only changes how the picture before it looks: variation selectors, a key's frame, skin colours.
_PICTURE_PARTS = frozenset("\ufe0e\ufe0f\u20e3\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")


@dataclass(frozen=True)
class Corpus:
    """Words of the cleaned text with how often each occurs, and the characters that are not in them, counted.

    `silent` characters are dropped by the cleaner, because nothing is spoken by them; `left_out` are those of the
    cleaned text that get no entry: those that the user named, and the pictures in the texts of a manifest.
    """

    words: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def read_corpus(
    paths: Sequence[Path],
    language: str,
    known: set[str],
    drop: frozenset[str] = frozenset(),
    columns: Mapping[str, str] | None = None,
) -> Corpus:
    """Read text files, one or more sentences a line, and manifests, of which only the texts count.

    Args:
        paths: files in UTF-8.
        language: whose cleaning is used.
        known: characters that the base can spell; they are never left out.
        drop: characters to leave out.
        columns: of the manifests, as `data.columns.parse_columns` gives them; by default they are recognised.

    Raises:
        DataError: a file cannot be read, or there is no text.
    """
    corpus = Corpus()
    for path in paths:
        lines, is_manifest = read_texts(path, columns)
        damaged, example = 0, ""
        for line in lines:
            if damage := find_damage(line.strip()):
                damaged, example = damaged + 1, example or damage
            cleaned = clean_text(compose_stock(line, language), language)
            for character in set(line).difference(cleaned):
                if is_silent(character):
                    corpus.silent[character] += line.count(character)
            left = _without_unknown(cleaned, known, drop, pictures=is_manifest)
            corpus.left_out.update(Counter(cleaned) - Counter(left))
            corpus.words.update(left.split())
        if damaged:
            warn_once(f"{path}: {damaged} texts have {example}. Convert the file again from its source, as UTF-8.")
    if not corpus.words:
        raise DataError(
            f"No text in {', '.join(map(str, paths))}: nothing is left after the cleaning of '{language}'. Expected "
            "sentences of the language, one or more a line."
        )
    return corpus


def _without_unknown(text: str, known: set[str], drop: frozenset[str], *, pictures: bool) -> str:
    """A text without the unknown characters that are named, or are pictures, with the joiners between these."""

    def goes(character: str) -> bool:
        return character not in known and (character in drop or (pictures and is_picture(character)))

    if not any(map(goes, text)):
        return text
    kept = []
    for (before, character), after in zip(pairwise(f" {text}"), [*text[1:], " "], strict=True):
        if not (goes(character) or (character in JOINERS and (goes(before) or goes(after)))):
            kept.append(character)
    return "".join(kept)


def is_picture(character: str) -> bool:
    """Whether a character is an emoji or another picture, or part of one: ❤ but not °, № and the signs of scripts."""
    if character in _PICTURE_PARTS:
        return True
    drawn = "\u2190" <= character <= "\u2bff" or character >= "\U0001f000"
    return drawn and unicodedata.category(character) == "So"


def is_symbol(character: str) -> bool:
    """Whether a character is no letter, mark or digit, nor a joiner, which is spelling in some scripts."""
    return unicodedata.category(character)[0] not in "LMN" and character not in JOINERS


def parse_characters(given: Iterable[str]) -> frozenset[str]:
    """The characters that a user names, as they are or as U+1F600, as they are in cleaned text; spaces part them."""
    named = "".join(given)
    named = _CODE_POINT.sub(lambda match: chr(min(int(match[1], 16), 0x10FFFF)), named)
    return frozenset(unicodedata.normalize("NFC", named + named.lower())) - frozenset(" \t\n")
