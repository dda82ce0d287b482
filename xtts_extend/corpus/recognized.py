"""The parts of a recording that a recognizer hears one by one, and the words that it hears."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtts_extend.corpus.alignment import Heard
from xtts_extend.corpus.voice_activity import Span
from xtts_extend.corpus.words import Word, split_words
from xtts_extend.speech.recognition import LONGEST_S

# Length that recognizers were trained on (Whisper: 30 s), so that a part of up to this length needs no splitting.
_PART_S = 28.0
# Silence that a part keeps at either end, in seconds.
_EDGE_S = 0.2


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a recording, in seconds, and the text that a recognizer heard in it."""

    start_s: float
    end_s: float
    text: str


def parts_of(speech: Sequence[Span], duration_s: float) -> list[tuple[float, float]]:
    """Return parts of a recording that contain all of its speech, as start and end in seconds, at most 60 s long each.

    Parts of up to 28 s end in the longest pause; only speech without any pause is divided elsewhere.

    Args:
        speech: Where there is speech.
        duration_s: Length of the recording in seconds.
    """
    parts: list[tuple[float, float]] = []
    group: list[Span] = []

    def close(count: int) -> None:
        start_s, end_s = max(0.0, group[0].start_s - _EDGE_S), min(duration_s, group[count - 1].end_s + _EDGE_S)
        if parts:
            start_s = max(start_s, parts[-1][1])
        pieces = int(np.ceil((end_s - start_s) / LONGEST_S))
        edges = np.linspace(start_s, end_s, max(1, pieces) + 1).tolist()
        parts.extend(itertools.pairwise(edges))
        del group[:count]

    for span in speech:
        while group and span.end_s - group[0].start_s > _PART_S:
            pauses = [following.start_s - one.end_s for one, following in zip(group, [*group[1:], span], strict=True)]
            # The second half of the group, so that parts are not needlessly short.
            half = len(pauses) // 2
            close(half + int(np.argmax(pauses[half:])) + 1)
        group.append(span)
    if group:
        close(len(group))
    return parts


def words_of_parts(parts: Sequence[Part], language: str) -> list[Word]:
    """Return the words of recognized parts, each with its part's time as a hint.

    Args:
        parts: The parts.
        language: Code of the language.
    """
    return [
        Word(word.text, word.spoken, word.separator or " " * (number == 0), word.ends_sentence, word.ends_phrase, cue)
        for part in parts
        for cue in [(part.start_s, part.end_s)]
        for number, word in enumerate(split_words(part.text, language))
    ]


def heard_in(parts: Sequence[Part], language: str) -> Heard:
    """Return the letters that were heard, as Unicode code points, spread evenly over the time of their part.

    Args:
        parts: The parts.
        language: Code of the language.
    """
    letters: list[int] = []
    times_s: list[float] = []
    for part in parts:
        codes = [ord(letter) for word in split_words(part.text, language) for letter in word.spoken]
        letters += codes
        times_s += np.linspace(part.start_s, part.end_s, len(codes) + 2)[1:-1].tolist()
    return Heard(np.array(letters, dtype=np.int64), np.array(times_s, dtype=np.float64))
