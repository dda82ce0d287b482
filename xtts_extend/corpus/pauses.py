"""Find pauses: where a recording is quiet compared with its surroundings."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xtts_extend.corpus.recording import stream_copy

#: Seconds per value of a loudness curve.
STEP_S = 0.01
_RATE = 16_000
_STEP = round(STEP_S * _RATE)
_BLOCK_STEPS = 6_000
# Digital silence has this level, so that its logarithm is finite: -100 dB.
_FLOOR = 1e-5
# Quiet means below this share of the way, in dB, from the quietest to the loudest part of the surroundings.
_QUIET_SHARE = 0.35
_SURROUNDINGS_S = 4.0
# Of a stretch that is longer than twice this, only its start and its end are part of its surroundings. It is as quiet
# as this percentile of it, even if its surroundings are quieter.
_INSIDE_S, _NOISE_PERCENTILE = 1.0, 20


class Quiet(NamedTuple):
    """A quiet stretch, in seconds from the start of the recording."""

    start_s: float
    end_s: float


def loudness_curve(flac: Path) -> npt.NDArray[np.float32]:
    """Return the level of each `STEP_S` of a working copy in dB relative to full scale, float32 [steps].

    Args:
        flac: Working copy of a recording.

    Raises:
        DataError: The file is missing or damaged.
    """
    levels = []
    for block in stream_copy(flac, _RATE, _BLOCK_STEPS * _STEP):
        steps = block[: len(block) // _STEP * _STEP].reshape(-1, _STEP)
        levels.append(20 * np.log10(np.sqrt(np.square(steps).mean(axis=1)) + _FLOOR))
    return np.concatenate(levels).astype(np.float32) if levels else np.empty(0, np.float32)


class Loudness:
    """A recording's loudness over time.

    Args:
        levels_db: Result of `loudness_curve`.
    """

    def __init__(self, levels_db: npt.NDArray[np.float32]) -> None:
        self._levels = levels_db

    def quiet_stretches(self, start_s: float, end_s: float, shortest_s: float) -> list[Quiet]:
        """Return the quiet stretches between two times, in order.

        Args:
            start_s, end_s: The times in seconds. Stretches are cut off there.
            shortest_s: Shortest stretch to return, in seconds.
        """
        first, last = max(0, round(start_s / STEP_S)), min(len(self._levels), round(end_s / STEP_S))
        if last <= first:
            return []
        around, inside = round(_SURROUNDINGS_S / STEP_S), round(_INSIDE_S / STEP_S)
        stretch, begin, end = self._levels[first:last], max(0, first - around), last + around
        low, high = np.percentile(self._levels[begin:end], (5, 95))
        if len(stretch) > 2 * inside:
            # The rest would leave speech too small a part, and may have noise that is not around it.
            edges = np.concatenate([self._levels[begin : first + inside], self._levels[last - inside : end]])
            low, high = np.percentile(edges, (5, 95))
            low = max(low, np.percentile(stretch, _NOISE_PERCENTILE))
        quiet = stretch < low + _QUIET_SHARE * (high - low)
        borders = np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0))
        stretches = zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True)
        shortest = round(shortest_s / STEP_S)
        return [Quiet((first + a) * STEP_S, (first + b) * STEP_S) for a, b in stretches if b - a >= shortest]
