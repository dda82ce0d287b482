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
        around = round(_SURROUNDINGS_S / STEP_S)
        low, high = np.percentile(self._levels[max(0, first - around) : last + around], (5, 95))
        quiet = self._levels[first:last] < low + _QUIET_SHARE * (high - low)
        edges = np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0))
        stretches = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        shortest = round(shortest_s / STEP_S)
        return [Quiet((first + a) * STEP_S, (first + b) * STEP_S) for a, b in stretches if b - a >= shortest]
