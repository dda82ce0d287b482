"""Count the words in text files and manifests, cleaned as in training, to learn a vocabulary from them."""

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
# These only change how the preceding emoji looks: variation selectors, the keycap frame, and skin tones.
_PICTURE_PARTS = frozenset("\ufe0e\ufe0f\u20e3\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")


@dataclass(frozen=True)
class Corpus:
    """Word counts of a cleaned corpus, and counts of the characters that were removed from it.

    Attributes:
        words: Count of each word.
        silent: Count of each non-printing character that the cleaner drops.
        left_out: Count of each character in the cleaned text that gets no vocabulary entry: characters that the user
            listed, and pictographs in manifests.
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
    """Count the words in text files and manifests.

    Args:
        paths: UTF-8 text files with one or more sentences per line, or manifests.
        language: Code of the language whose cleaner is used.
        known: Characters that the base can spell. They are never left out.
        drop: Characters to leave out.
        columns: Columns of the manifests, from `data.columns.parse_columns`. By default, they are detected.

    Raises:
        DataError: A file cannot be read, or no text is left after cleaning.
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
            kept = _without_unknown(cleaned, known, drop, pictures=is_manifest)
            corpus.left_out.update(Counter(cleaned) - Counter(kept))
            corpus.words.update(kept.split())
        if damaged:
            warn_once(
                f"{path}: number of damaged texts: {damaged} ({example}). Convert the original file to UTF-8 again."
            )
    if not corpus.words:
        raise DataError(
            f"No text in {', '.join(map(str, paths))} is left after cleaning for '{language}'. Expected sentences "
            "in this language, one or more per line."
        )
    return corpus


def _without_unknown(text: str, known: set[str], drop: frozenset[str], *, pictures: bool) -> str:
    """Return the text without unknown characters that are in `drop` or are pictographs, and without their joiners."""

    def is_left_out(character: str) -> bool:
        return character not in known and (character in drop or (pictures and is_picture(character)))

    if not any(map(is_left_out, text)):
        return text
    kept = []
    for (before, character), after in zip(pairwise(f" {text}"), [*text[1:], " "], strict=True):
        if not (is_left_out(character) or (character in JOINERS and (is_left_out(before) or is_left_out(after)))):
            kept.append(character)
    return "".join(kept)


def is_picture(character: str) -> bool:
    """Return whether a character is (part of) an emoji or other pictograph: ❤, but not °, № or signs in a script."""
    if character in _PICTURE_PARTS:
        return True
    in_picture_blocks = "\u2190" <= character <= "\u2bff" or character >= "\U0001f000"
    return in_picture_blocks and unicodedata.category(character) == "So"


def is_symbol(character: str) -> bool:
    """Return whether a character is not a letter, mark, digit or joiner (some scripts use joiners in spelling)."""
    return unicodedata.category(character)[0] not in "LMN" and character not in JOINERS


def parse_characters(names: Iterable[str]) -> frozenset[str]:
    """Return the characters that a user listed, together with their lowercase forms.

    Args:
        names: Characters, written literally or as code points such as U+1F600. Spaces between them are ignored.
    """
    characters = "".join(names)
    characters = _CODE_POINT.sub(lambda match: chr(min(int(match[1], 16), 0x10FFFF)), characters)
    return frozenset(unicodedata.normalize("NFC", characters + characters.lower())) - frozenset(" \t\n")
