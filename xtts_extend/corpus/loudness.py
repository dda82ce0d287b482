"""Measure how loud speech and pauses are in a long recording, and compute one gain for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xtts_extend.corpus.recording import stream_copy
from xtts_extend.corpus.voice_activity import Span

#: Power of speech, pauses excluded, after the gain: -23 dB relative to full scale.
SPEECH_LEVEL_DB = -23.0
#: Highest peak of speech after the gain. Resampling to the model's rate adds up to about 1 dB.
HIGHEST_PEAK_DB = -1.0
_WINDOWS_PER_SECOND = 100
#: One window in this many may exceed the peak, so that a single cough does not set the gain of a ten-hour recording.
_WINDOWS_PER_OUTLIER = 10_000
_BLOCK_S = 10
_STEPS = 1 << 15


@dataclass(frozen=True, slots=True)
class SpeechLevel:
    """How loud a recording is; full scale is 1.

    Attributes:
        rms: Root mean square of the speech.
        peak: Largest absolute value in speech, apart from one in 10,000 windows of 10 ms.
        noise_rms: Median root mean square of the windows of 10 ms outside speech, or None if there are none.
    """

    rms: float
    peak: float
    noise_rms: float | None


def speech_level(flac: Path, sample_rate: int, speech: Sequence[Span]) -> SpeechLevel:
    """Measure the speech and the pauses of a working copy.

    Args:
        flac: Working copy of a recording.
        sample_rate: Its sample rate in Hz.
        speech: Its spans of speech, in order; at least one.

    Raises:
        DataError: The file is missing or damaged.
    """
    window = sample_rate // _WINDOWS_PER_SECOND
    edges = np.array([edge for span in speech for edge in (span.start_s, span.end_s)]) * sample_rate / window
    # Histograms, because the values of ten hours should not be kept: 3.6 million windows.
    peaks, noise = np.zeros(_STEPS + 1, dtype=np.int64), np.zeros(_STEPS + 1, dtype=np.int64)
    power, first = 0.0, 0
    for block in stream_copy(flac, sample_rate, _BLOCK_S * _WINDOWS_PER_SECOND * window):
        windows = block[: len(block) // window * window].reshape(-1, window)
        # An odd number of edges before a window's middle: it lies within speech.
        is_speech = np.searchsorted(edges, first + np.arange(len(windows)) + 0.5, side="right") % 2 == 1
        first += len(windows)
        powers = np.square(windows, dtype=np.float64).mean(axis=1)
        power += float(powers[is_speech].sum())
        peaks += _histogram(np.abs(windows[is_speech]).max(axis=1, initial=0))
        noise += _histogram(np.sqrt(powers[~is_speech]))
    count, pauses = int(peaks.sum()), int(noise.sum())
    return SpeechLevel(
        rms=float(np.sqrt(power / max(count, 1))),
        peak=_value(peaks, count - count // _WINDOWS_PER_OUTLIER),
        noise_rms=_value(noise, -(-pauses // 2)) if pauses else None,
    )


def gain_for(level: SpeechLevel) -> float:
    """Return the factor that all samples of a recording are multiplied with.

    It brings the speech to -23 dB, which leaves its peaks the headroom that they usually need: those of read speech are
    15 to 20 dB above it (LJ Speech, at -22 to -19 dB, nearly reaches full scale). If the peaks would exceed -1 dB, they
    get -1 dB instead. One gain per recording keeps the differences between its loud and quiet sentences, which are part
    of how its speaker reads.
    """
    return min(10 ** (SPEECH_LEVEL_DB / 20) / level.rms, 10 ** (HIGHEST_PEAK_DB / 20) / level.peak)


def _histogram(values: np.ndarray) -> np.ndarray:
    """Count values in [0, 1] by step of a 16-bit sample."""
    return np.bincount(np.ceil(values * _STEPS).astype(np.int64).clip(0, _STEPS), minlength=_STEPS + 1)


def _value(histogram: np.ndarray, rank: int) -> float:
    """Return the value with this rank in a histogram, counted from 1."""
    return float(np.searchsorted(histogram.cumsum(), max(rank, 1)) / _STEPS)
