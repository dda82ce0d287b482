"""The words of a text in time: what is known about them, and forced alignment with a CTC model's emissions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchaudio

from xtts_extend.corpus.emissions import Emissions
from xtts_extend.corpus.matching import Ints

#: A word or a sentence with a lower score was hardly heard. The time of such a word says little.
UNHEARD = 0.05
# Log probability of a wildcard, relative to the most probable token of each frame: unknown speech fits better than
# letters that were not spoken, and worse than those that were.
_WILDCARD = -0.3
# Random numbers up to this are added to log probabilities. If two ways to a frame are equally good, `forced_align` of
# torchaudio 2.11 takes a third one, however bad, and in half precision equal sums are common.
_TIE_BREAK = 1e-3
# Longest time in seconds between two letters of a word.
_LONGEST_APART_S = 0.5


@dataclass(frozen=True, slots=True)
class AlignedWord:
    """A word in time.

    Attributes:
        index: Number of the word in the text, starting at 0.
        start_s, end_s: Where it is spoken, in seconds from the start of the recording.
        score: How well the speech fits its letters, from 0 to 1.
    """

    index: int
    start_s: float
    end_s: float
    score: float


class Missing(str, Enum):
    """Why a part of a text has no place in the recording."""

    NOT_SPOKEN = "text_without_speech"
    OUT_OF_ORDER = "crossing"


@dataclass(frozen=True, slots=True)
class MissingText:
    """Words `first` to `last` (exclusive) of the text, which are set aside."""

    first: int
    last: int
    reason: Missing


@dataclass(frozen=True, slots=True)
class Match:
    """How well a text and what was heard belong together.

    Attributes:
        heard_share: Share of the letters that were heard that are in the text, 0 to 1.
        found_share: Share of the text's letters that were heard, 0 to 1.
        likeness: Similarity of the frequencies of pairs of letters on both sides, 0 to 1: high within a language.
    """

    heard_share: float
    found_share: float
    likeness: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """The words of a recording in time.

    Attributes:
        runs: Words that follow each other in the text and in the recording, with nothing else between them.
        missing: Text that was not found in the recording.
        match: How well they belong together; None if the aligner does not tell what it hears.
    """

    runs: list[list[AlignedWord]]
    missing: list[MissingText]
    match: Match | None

    def to_json(self) -> object:
        """Return the alignment as JSON values, which `from_json` reads."""
        return [
            [[astuple(word) for word in run] for run in self.runs],
            [[part.first, part.last, part.reason.value] for part in self.missing],
            self.match and astuple(self.match),
        ]

    @classmethod
    def from_json(cls, values: Any) -> Alignment:
        """Return the alignment whose `to_json` returned the values."""
        runs, missing, match = values
        return cls(
            [[AlignedWord(*word) for word in run] for run in runs],
            [MissingText(first, last, Missing(reason)) for first, last, reason in missing],
            match and Match(*match),
        )


@dataclass(frozen=True)
class Heard:
    """What a model heard in a recording: letters as numbers, with the time of each in seconds, both [letters]."""

    letters: Ints
    times_s: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Words `first` to `last` (exclusive), spoken between two times.

    Attributes:
        starts_open, ends_open: Whether other speech may precede or follow the words within these times.
    """

    first: int
    last: int
    start_s: float
    end_s: float
    starts_open: bool
    ends_open: bool


@dataclass(frozen=True)
class Plan:
    """The chunks of a recording, the text without a place in it, and how well both belong together."""

    chunks: list[Chunk]
    missing: list[MissingText]
    match: Match | None


def align_chunk(chunk: Chunk, letters: Sequence[Sequence[int]], emissions: Emissions) -> list[AlignedWord] | None:
    """Align the words of a chunk with a CTC model's emissions, or return None if they do not fit into its time.

    Words without letters that the model knows get no time of their own: they start and end in the middle between their
    neighbors, with a score of 0.

    Args:
        chunk: The words and their time.
        letters: Token ids of each word of the whole text.
        emissions: The emissions of the whole recording.
    """
    first_frame = max(0, int(chunk.start_s / emissions.stride_s))
    log_probs = torch.from_numpy(emissions[first_frame : int(chunk.end_s / emissions.stride_s) + 1])
    best = log_probs.amax(dim=1)
    wildcard = log_probs.size(1)
    log_probs = torch.cat([log_probs, (best + _WILDCARD)[:, None]], dim=1)
    targets = [token for word in letters[chunk.first : chunk.last] for token in word]
    count = len(targets)
    padded = [wildcard] * chunk.starts_open + targets + [wildcard] * chunk.ends_open
    repeats = sum(left == right for left, right in itertools.pairwise(padded))
    if not targets or len(padded) + repeats > len(log_probs):
        return None
    aligned = log_probs + _TIE_BREAK * torch.rand(log_probs.shape, generator=torch.Generator().manual_seed(0))
    path, _ = torchaudio.functional.forced_align(aligned[None], torch.tensor([padded]), blank=emissions.blank)
    scores = log_probs.gather(1, path[0, :, None].long())
    spans = torchaudio.functional.merge_tokens(path[0], scores[:, 0], blank=emissions.blank)
    spans = spans[chunk.starts_open : len(spans) - chunk.ends_open]
    if len(spans) != count:
        raise ValueError(f"{len(spans)} spans for {count} tokens.")
    # What the path loses against the best token of each frame, in nats.
    losses = torch.cat([torch.zeros(1), (best - scores[:, 0]).clamp(min=0).cumsum(0)])
    return list(_aligned_words(chunk, letters, spans, losses, first_frame, emissions.stride_s))


def _aligned_words(
    chunk: Chunk,
    letters: Sequence[Sequence[int]],
    spans: Sequence[Any],
    losses: torch.Tensor,
    first_frame: int,
    stride_s: float,
) -> Iterator[AlignedWord]:
    used = 0
    end = spans[0].start
    for index in range(chunk.first, chunk.last):
        size = len(letters[index])
        if not size:
            following = spans[used].start if used < len(spans) else end
            middle_s = (first_frame + (end + following) / 2) * stride_s
            yield AlignedWord(index, middle_s, middle_s, 0.0)
            continue
        found = spans[used : used + size]
        said = _together(found, _LONGEST_APART_S / stride_s)
        start, end = found[0].start, said[-1].end
        used += size
        # Letters that were heard between two words count against the first of them.
        last = spans[used].start if used < len(spans) else found[-1].end
        loss = float(losses[last] - losses[start]) / size
        begin_s, end_s = ((first_frame + frame) * stride_s for frame in (said[0].start, end))
        yield AlignedWord(index, begin_s, end_s, float(np.exp(-loss)))


def _together(spans: Sequence[Any], most_apart: float) -> Sequence[Any]:
    """Return the spans of a word's letters, or the largest part of them if some are further apart than letters can be.

    If there is speech beside a word that is not in the text, its first or last letters may be found there.
    """
    edges = [number for number in range(1, len(spans)) if spans[number].start - spans[number - 1].end > most_apart]
    parts = [spans[first:last] for first, last in itertools.pairwise([0, *edges, len(spans)])]
    return max(parts, key=len)


def join_chunks(plan: Plan, aligned: Iterable[list[AlignedWord] | None]) -> Alignment:
    """Join the words of chunks that follow each other without a break.

    Args:
        plan: The chunks.
        aligned: The words of each chunk, or None if they do not fit into its time.
    """
    runs: list[list[AlignedWord]] = []
    missing = list(plan.missing)
    is_open = True
    for chunk, words in zip(plan.chunks, aligned, strict=True):
        if words is None:
            missing.append(MissingText(chunk.first, chunk.last, Missing.NOT_SPOKEN))
            is_open = True
            continue
        if is_open or chunk.starts_open:
            runs.append(words)
        else:
            runs[-1].extend(words)
        is_open = chunk.ends_open
    return Alignment(runs, sorted(missing, key=lambda part: part.first), plan.match)
