"""Split long text into sentences that are short enough for the model."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import pysbd
from pysbd.languages import LANGUAGE_CODES

from xtts_extend.errors import LanguageError

# pysbd takes time quadratic in the text's length (8 s for 80,000 characters), so lines are split into blocks first.
_BLOCK = 500

# Sentence-final punctuation that pysbd does not support in all languages; ። is often typed as ፡፡.
_FULL_STOP = re.compile("(?<=[።፧፨।॥།။។۔。！？])(?![።፧፨।॥།။።۔。！？])|(?<=፡፡)")
_SENTENCE_END = re.compile(r"[.!?።፧।॥။។۔。！？]+\s|፡፡|[።။។。！？]")
_SPOKEN = re.compile(r"\w")
# Text up to a possible break: whitespace, the Ethiopic wordspace, or a zero-width space.
_WORD = re.compile("[^\\s፡\u200b]*[\\s፡\u200b]+|[^\\s፡\u200b]+")


def split_sentences(text: str, language: str, limit: int) -> list[str]:
    """Split a text into sentences, none of which is empty or longer than the limit.

    Sentences are split by pysbd's rules (the English rules for languages that it does not support), and at the
    sentence-final punctuation in other scripts. A sentence that is too long is wrapped at spaces. A word that is too
    long is split, but not between a letter and its combining marks.

    >>> split_sentences("ሰላም ነው። ደህና ነህ፧ አዎ!", "am", 130)
    ['ሰላም ነው።', 'ደህና ነህ፧', 'አዎ!']

    Args:
        text: Text of any length.
        language: Code of the language.
        limit: Maximum length of a sentence, in characters.

    Raises:
        LanguageError: The limit is below 1.
    """
    if limit < 1:
        raise LanguageError(f"Sentences cannot be split at {limit} characters; expected a limit of 1 or more.")
    segmenter = _segmenter(language.split("-")[0])
    pieces: list[str] = []
    for line in text.splitlines():
        for block in _blocks(line, max(_BLOCK, 2 * limit)):
            for sentence in segmenter.segment(block):
                for part in _FULL_STOP.split(sentence):
                    for piece in _wrap(part.strip(), limit):
                        # If a sentence is only punctuation, the model makes up a sound for it.
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
        end = ends[-1] if ends else line.rfind(" ", 0, size) + 1 or size
        blocks.append(line[:end])
        line = line[end:]
    return [*blocks, line] if line.strip() else blocks


def _wrap(sentence: str, limit: int) -> list[str]:
    lines, line = [], ""
    for word in _WORD.findall(sentence):
        if len((line + word).rstrip()) > limit:
            lines.append(line.strip())
            line = ""
        while len(word.rstrip()) > limit:
            end = _break_position(word, limit)
            lines.append(word[:end])
            word = word[end:]
        line += word
    return [piece for piece in [*lines, line.strip()] if piece]


def _break_position(word: str, limit: int) -> int:
    """Return the last index up to `limit` that does not split a letter from its marks, or `limit` if there is none."""
    index = limit
    while index and unicodedata.category(word[index])[0] == "M":
        index -= 1
    return index or limit
