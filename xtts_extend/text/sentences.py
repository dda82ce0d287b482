"""Long text into sentences: boundaries by pysbd, then a length that the model can take."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import pysbd
from pysbd.languages import LANGUAGE_CODES

from xtts_extend.errors import LanguageError

# pysbd's time grows with the square of the length (80,000 characters: 8 s), so it gets a line in blocks.
_BLOCK = 500

# Full stops of scripts whose rules pysbd lacks, or has for one language of several; ፡፡ is a common way to type ።.
_FULL_STOP = re.compile("(?<=[።፧፨।॥།။។۔。！？])(?![።፧፨।॥།။።۔。！？])|(?<=፡፡)")
_SENTENCE_END = re.compile(r"[.!?።፧।॥။។۔。！？]+\s|፡፡|[።။។。！？]")
_SPOKEN = re.compile(r"\w")
# A place to wrap, with the piece before it: white space, the Ethiopic word space, or a zero-width space.
_WORD = re.compile("[^\\s፡\u200b]*[\\s፡\u200b]+|[^\\s፡\u200b]+")


def split_sentences(text: str, language: str, limit: int) -> list[str]:
    """Sentences of a text, none longer than `limit` characters, none empty.

    Boundaries are pysbd's own for the languages that it knows, its English rules for all others, and the full stops of
    other scripts. A longer sentence is wrapped at spaces; a word longer than the limit is cut, before a letter and not
    before its combining marks. Raises LanguageError when `limit` is below 1.
    """
    if limit < 1:
        raise LanguageError(f"Sentences were to be split at {limit} characters; the limit has to be 1 or more.")
    segmenter = _segmenter(language.split("-")[0])
    pieces: list[str] = []
    for line in text.splitlines():
        for block in _blocks(line, max(_BLOCK, 2 * limit)):
            for sentence in segmenter.segment(block):
                for part in _FULL_STOP.split(sentence):
                    for piece in _wrap(part.strip(), limit):
                        # Marks alone are nothing to say: the model would make up a sound.
                        if pieces and not _SPOKEN.search(piece) and len(pieces[-1] + piece) <= limit:
                            pieces[-1] += piece
                        else:
                            pieces.append(piece)
    return pieces


@lru_cache(maxsize=32)
def _segmenter(code: str) -> pysbd.Segmenter:
    return pysbd.Segmenter(language=code if code in LANGUAGE_CODES else "en", clean=False)


def _blocks(line: str, size: int) -> list[str]:
    blocks = []
    while len(line) > size:
        ends = [match.end() for match in _SENTENCE_END.finditer(line, 0, size)]
        cut = ends[-1] if ends else line.rfind(" ", 0, size) + 1 or size
        blocks.append(line[:cut])
        line = line[cut:]
    return [*blocks, line] if line.strip() else blocks


def _wrap(sentence: str, limit: int) -> list[str]:
    lines, line = [], ""
    for word in _WORD.findall(sentence):
        if len((line + word).rstrip()) > limit:
            lines.append(line.strip())
            line = ""
        while len(word.rstrip()) > limit:
            cut = _break_position(word, limit)
            lines.append(word[:cut])
            word = word[cut:]
        line += word
    return [piece for piece in [*lines, line.strip()] if piece]


def _break_position(word: str, limit: int) -> int:
    """The last place up to `limit` that does not part a letter from its marks, `limit` when there is none."""
    cut = limit
    while cut and unicodedata.category(word[cut])[0] == "M":
        cut -= 1
    return cut or limit
