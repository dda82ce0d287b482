"""Cut aligned words into clips: inside pauses, 1 to 11 seconds long, whole sentences if they fit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from xtts_extend.corpus.alignment import AlignedWord
from xtts_extend.corpus.clip import SHORTEST_CLIP_S
from xtts_extend.corpus.pauses import Loudness
from xtts_extend.corpus.words import Word

#: Longest clip in seconds. XTTS accepts up to 11.6 s in training, which leaves room to move an end by hand.
LONGEST_S = 11.0
# A cut needs a pause of this length. Stop consonants are silent for up to 0.06 to 0.08 s within a word.
_SHORTEST_PAUSE_S = 0.09
# Silence that a clip keeps at either end, at most.
_EDGE_S = 0.2
# A word's times are exact to about this.
_TOLERANCE_S = 0.04
# How far before the first and after the last word of a run a pause is looked for.
_REACH_S = 0.5
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
    """A possible cut before word `word` of a run: a quiet stretch, and what the cut costs."""

    word: int
    start_s: float
    end_s: float
    cost: float

    @property
    def clip_end_s(self) -> float:
        """Where a clip before the pause ends."""
        return min(self.start_s + _EDGE_S, (self.start_s + self.end_s) / 2)

    @property
    def clip_start_s(self) -> float:
        """Where a clip after the pause starts."""
        return max(self.end_s - _EDGE_S, (self.start_s + self.end_s) / 2)


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
    pauses = []
    before = loudness.quiet_stretches(run[0].start_s - _REACH_S, run[0].start_s + _TOLERANCE_S, _SHORTEST_PAUSE_S)
    if before:
        pauses.append(_Pause(0, before[-1].start_s, before[-1].end_s, 0.0))
    for number, (word, following) in enumerate(itertools.pairwise(run), start=1):
        between = loudness.quiet_stretches(
            word.end_s - _TOLERANCE_S, following.start_s + _TOLERANCE_S, _SHORTEST_PAUSE_S
        )
        if between:
            longest = max(between, key=lambda quiet: quiet.end_s - quiet.start_s)
            pauses.append(_Pause(number, longest.start_s, longest.end_s, _cut_cost(words[word.index])))
    after = loudness.quiet_stretches(run[-1].end_s - _TOLERANCE_S, run[-1].end_s + _REACH_S, _SHORTEST_PAUSE_S)
    if after:
        pauses.append(_Pause(len(run), after[0].start_s, after[0].end_s, 0.0))
    return pauses


def _cut_cost(word: Word) -> float:
    if word.ends_sentence:
        return 0.0
    return _AT_COMMA if word.ends_phrase else _INSIDE_SENTENCE


def _clip_cost(pauses: Sequence[_Pause]) -> float:
    """Return the cost of a clip from the first to the last of consecutive pauses."""
    length_s = pauses[-1].clip_end_s - pauses[0].clip_start_s
    silence_s = sum(max(0.0, pause.end_s - pause.start_s - 0.5) for pause in pauses[1:-1])
    short = _PER_SHORT_S * max(0.0, _GOOD_S - length_s)
    sentences = sum(pause.cost == 0 for pause in pauses[1:-1])
    return _PER_CLIP + pauses[-1].cost + _PER_SENTENCE * sentences + short + _PER_SILENT_S * silence_s
