"""Cut aligned words into clips: inside pauses, 1 to 11 seconds long, whole sentences if they fit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from xtts_extend.corpus.alignment import UNHEARD, AlignedWord
from xtts_extend.corpus.clip import SHORTEST_CLIP_S
from xtts_extend.corpus.pauses import Loudness, Quiet
from xtts_extend.corpus.words import Word

#: Longest clip in seconds. XTTS accepts up to 11.6 s in training, which leaves room to move an end by hand.
LONGEST_S = 11.0
# A cut needs a pause of this length. Stop consonants are silent for up to 0.1 s within a word.
_SHORTEST_PAUSE_S = 0.14
# Silence that a clip keeps before and after its speech, at most. Speech fades out slowly.
_BEFORE_S, _AFTER_S = 0.2, 0.4
# A word's times are exact to about this.
_TOLERANCE_S = 0.04
# How far before the first and after the last word of a run a pause is looked for. CTC models give the last letter of a
# word when its sound begins, which may last. After a run that ends inside a phrase, more words are spoken.
_REACH_BEFORE_S, _REACH_AFTER_S, _REACH_INSIDE_S = 0.5, 1.2, 0.5
# No word contains a pause of this length.
_LONGEST_IN_WORD_S = 0.3
# Quiet stretches closer than this are one pause: between them is a breath, or the release of a stop consonant.
_RELEASE_S = 0.15
# Costs of a division into clips: a cut inside a sentence, or at a comma; each clip; each sentence after the first in a
# clip; each second below a good length; each second of silence inside a clip beyond half a second; each second of words
# that are in no clip.
_INSIDE_SENTENCE, _AT_COMMA, _PER_CLIP, _PER_SENTENCE = 3.0, 1.0, 0.5, 0.6
_GOOD_S, _PER_SHORT_S, _PER_SILENT_S, _PER_LOST_S = 3.0, 0.5, 2.0, 6.0


class Uncut(str, Enum):
    """Why words became no clip."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    NO_PAUSE = "no_pause"


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive words of a run, from `first` to `last` (exclusive; numbers of words in the text), and their time.

    Attributes:
        uncut: Why the words cannot become a clip, or None if they can.
    """

    first: int
    last: int
    start_s: float
    end_s: float
    uncut: Uncut | None = None


@dataclass(frozen=True, slots=True)
class _Pause:
    """A possible cut before word `word` of a run: its first and last quiet stretch, and what the cut costs.

    They are two if there is a sound between them that belongs to no word.
    """

    word: int
    first: Quiet
    last: Quiet
    cost: float

    @property
    def is_broken(self) -> bool:
        """Whether there is an unknown sound in the pause, so that no clip may contain it."""
        return self.first is not self.last

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return self.last.end_s - self.first.start_s

    @property
    def clip_end_s(self) -> float:
        """Where a clip before the pause ends."""
        return min(self.first.start_s + _AFTER_S, (self.first.start_s + self.first.end_s) / 2)

    @property
    def clip_start_s(self) -> float:
        """Where a clip after the pause starts."""
        return max(self.last.end_s - _BEFORE_S, (self.last.start_s + self.last.end_s) / 2)


def cut_run(run: Sequence[AlignedWord], words: Sequence[Word], loudness: Loudness) -> list[Segment]:
    """Divide a run into clips and what cannot become one; together they are all of its words, in order.

    Args:
        run: Aligned words without a break.
        words: The whole text.
        loudness: The recording's loudness.
    """
    pauses = _pauses(run, words, loudness)
    if len(pauses) < 2:
        return [Segment(run[0].index, run[-1].index + 1, run[0].start_s, run[-1].end_s, Uncut.NO_PAUSE)]
    best = [0.0] + [np.inf] * (len(pauses) - 1)
    came_from = [0] * len(pauses)
    for end, after in enumerate(pauses[1:], start=1):
        for start in range(end - 1, -1, -1):
            if start < end - 1 and pauses[start + 1].is_broken:
                break
            before = pauses[start]
            length_s = after.clip_end_s - before.clip_start_s
            is_clip = SHORTEST_CLIP_S <= length_s <= LONGEST_S
            if length_s > LONGEST_S and start < end - 1:
                break
            cost = best[start] + (_clip_cost(pauses[start : end + 1]) if is_clip else _PER_LOST_S * (1 + length_s))
            if cost < best[end]:
                best[end], came_from[end] = cost, start
    cuts = [len(pauses) - 1]
    while cuts[-1]:
        cuts.append(came_from[cuts[-1]])
    cuts.reverse()
    segments = [_segment(run, pauses[start], pauses[end]) for start, end in itertools.pairwise(cuts)]
    first, last = pauses[0].word, pauses[-1].word
    if first:
        segments.insert(0, _without_pause(run[:first]))
    if last < len(run):
        segments.append(_without_pause(run[last:]))
    return segments


def _without_pause(words: Sequence[AlignedWord]) -> Segment:
    return Segment(words[0].index, words[-1].index + 1, words[0].start_s, words[-1].end_s, Uncut.NO_PAUSE)


def _segment(run: Sequence[AlignedWord], before: _Pause, after: _Pause) -> Segment:
    start_s, end_s = before.clip_start_s, after.clip_end_s
    length_s = end_s - start_s
    uncut = None if length_s >= SHORTEST_CLIP_S else Uncut.TOO_SHORT
    if length_s > LONGEST_S:
        uncut = Uncut.TOO_LONG
    return Segment(run[before.word].index, run[after.word - 1].index + 1, start_s, end_s, uncut)


def _pauses(run: Sequence[AlignedWord], words: Sequence[Word], loudness: Loudness) -> list[_Pause]:
    """Return the possible cuts of a run: before its first word, between words, after its last."""
    last = len(run)
    start_s, end_s = _start_of(run[0], loudness), _end_of(run[-1], loudness)
    gaps = {0: (start_s - _REACH_BEFORE_S, start_s + _TOLERANCE_S)}
    heard = [number for number, word in enumerate(run) if word.score >= UNHEARD]
    for number, following in itertools.pairwise(heard):
        cut = _cut_between(number, following, run, words)
        if cut is not None:
            gaps[cut] = (run[number].end_s - _TOLERANCE_S, run[following].start_s + _TOLERANCE_S)
    latest_s = end_s + (_REACH_AFTER_S if words[run[-1].index].ends_phrase else _REACH_INSIDE_S)
    gaps[last] = (end_s - _TOLERANCE_S, latest_s + 2 * _AFTER_S)
    pauses = []
    for number, gap in gaps.items():
        quiet = _joined(loudness.quiet_stretches(*gap, _SHORTEST_PAUSE_S))
        if quiet and (number < last or quiet[0].start_s < latest_s):
            first, final = quiet[-1 if number == 0 else 0], quiet[0 if number == last else -1]
            cost = _cut_cost(words[run[number - 1].index]) if 0 < number < last else 0.0
            pauses.append(_Pause(number, first, final, cost))
    return pauses


def _cut_between(heard: int, following: int, run: Sequence[AlignedWord], words: Sequence[Word]) -> int | None:
    """Return the number of the first word after a pause between two words that were heard one after the other.

    Words between them that were not heard are on the side that punctuation tells. None if it does not.
    """
    if following == heard + 1:
        return following
    between = [(number + 1, words[run[number].index]) for number in range(heard, following)]
    for ends in (
        [number for number, word in between if word.ends_sentence],
        [number for number, word in between if word.ends_phrase],
    ):
        if ends:
            return ends[0] if len(ends) == 1 else None
    return None


def _start_of(word: AlignedWord, loudness: Loudness) -> float:
    """Return where the first word of a run starts. Its first letter may have been found in speech before a pause."""
    pauses = loudness.quiet_stretches(word.start_s, word.end_s, _LONGEST_IN_WORD_S)
    return pauses[-1].end_s if pauses else word.start_s


def _end_of(word: AlignedWord, loudness: Loudness) -> float:
    """Return where the last word of a run ends. Its last letter may have been found in speech after a pause."""
    pauses = loudness.quiet_stretches(word.start_s, word.end_s, _LONGEST_IN_WORD_S)
    return pauses[0].start_s if pauses else word.end_s


def _joined(stretches: Sequence[Quiet]) -> list[Quiet]:
    """Return pauses: of quiet stretches with only a short sound between them, the longest."""
    joined: list[Quiet] = []
    previous_end_s = -np.inf
    for quiet in stretches:
        is_near = quiet.start_s - previous_end_s < _RELEASE_S
        previous_end_s = quiet.end_s
        if joined and is_near:
            joined[-1] = max(joined[-1], quiet, key=lambda one: one.end_s - one.start_s)
        else:
            joined.append(quiet)
    return joined


def _cut_cost(word: Word) -> float:
    if word.ends_sentence:
        return 0.0
    return _AT_COMMA if word.ends_phrase else _INSIDE_SENTENCE


def _clip_cost(pauses: Sequence[_Pause]) -> float:
    """Return the cost of a clip from the first to the last of consecutive pauses."""
    length_s = pauses[-1].clip_end_s - pauses[0].clip_start_s
    silence_s = sum(max(0.0, pause.length_s - 0.5) for pause in pauses[1:-1])
    short = _PER_SHORT_S * max(0.0, _GOOD_S - length_s)
    sentences = sum(pause.cost == 0 for pause in pauses[1:-1])
    return _PER_CLIP + pauses[-1].cost + _PER_SENTENCE * sentences + short + _PER_SILENT_S * silence_s
