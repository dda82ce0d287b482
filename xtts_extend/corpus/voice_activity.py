"""Find speech in long recordings with Silero's voice activity detector, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtts_extend.corpus.recording import RecordingInfo, stream_copy
from xtts_extend.data.audio_file import Frames
from xtts_extend.errors import DataError
from xtts_extend.progress import with_progress

_RATE = 16_000
#: Samples per probability, as the detector requires at 16 kHz: 32 ms.
_FRAME = 512
#: The recording is divided into segments on a fixed grid, and the detector reads 32 segments at the same time, which is
#: six times as fast as reading one. At the beginning of each segment, its state is that of the preceding 2 seconds.
_SEGMENT_FRAMES = 500
_WARM_UP_FRAMES = 64
_SEGMENTS_AT_ONCE = 32

# The hysteresis of Silero's `get_speech_timestamps`, with shorter minimum speech and longer padding than its defaults,
# because a lost word costs its sentence, and a clip needs some silence around its words.
_START_PROBABILITY = 0.5
_END_PROBABILITY = 0.35
_MIN_SPEECH_S = 0.2
_MIN_SILENCE_S = 0.1
_PADDING_S = 0.05


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a recording, in seconds."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


def find_speech(flac: Path, duration_s: float, progress: bool = True) -> list[Span]:
    """Return the spans of speech in a working copy, in order and without overlap.

    Pauses of at least 0.1 s separate spans, utterances under 0.2 s are ignored, and each span has up to 0.05 s of
    padding on both sides. The same file always gives the same spans.

    Args:
        flac: Working copy of a recording.
        duration_s: Length of the recording in seconds.
        progress: Whether to show progress on standard error.

    Raises:
        DataError: The file is missing or damaged.
    """
    block = _SEGMENTS_AT_ONCE * _SEGMENT_FRAMES * _FRAME
    blocks = with_progress(
        stream_copy(flac, _RATE, block), int(-(-duration_s * _RATE // block)), "parts searched for speech", progress
    )
    return list(_spans(_probabilities(blocks), duration_s))


def require_speech(path: Path | str, info: RecordingInfo, speech: list[Span]) -> None:
    """Raise DataError if a recording contains no speech. The message says what it contains instead.

    Args:
        path: Original recording, for the message.
        info: Its measurements.
        speech: Its spans of speech.
    """
    if speech:
        return
    length = f"{info.duration_s / 60:,.1f} minutes" if info.duration_s >= 60 else f"{info.duration_s:.1f} s"
    if info.is_silent:
        raise DataError(
            f"{path} is silent: nearly all of its {length} are below -60 dB. Check the microphone or the program that "
            "exported the file, or omit the recording."
        )
    raise DataError(
        f"{path} contains no speech: its {length} contain sound, but probably only music or noise. Check that it is "
        "the right file, or omit the recording."
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Set torch to one thread for a while: the detector's operations are so small that more threads slow it down.

    Importing Silero's package does the same, but for the rest of the process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def _detector() -> Any:
    """Return Silero's model. Call this within `_one_thread`."""
    from silero_vad import load_silero_vad

    return load_silero_vad(onnx=False)


def _probabilities(blocks: Iterable[Frames]) -> Iterator[Frames]:
    """Yield the probability of speech in each 32 ms frame, in arrays; the last frame is padded with zeros."""
    warm_up = np.zeros(_WARM_UP_FRAMES * _FRAME, dtype=np.float32)
    for block in blocks:
        frames = -(-len(block) // _FRAME)
        segment = min(frames, _SEGMENT_FRAMES) * _FRAME
        segments = -(-len(block) // segment)
        padded = np.concatenate([warm_up, block, np.zeros(segments * segment - len(block), dtype=np.float32)])
        rows = np.stack([padded[index * segment : (index + 1) * segment + len(warm_up)] for index in range(segments)])
        yield _run_detector(torch.from_numpy(rows))[:, _WARM_UP_FRAMES:].reshape(-1)[:frames]
        warm_up = block[-len(warm_up) :]


@torch.inference_mode()
def _run_detector(rows: torch.Tensor) -> Frames:
    """Return the probabilities, [rows, frames], of samples, [rows, frames × 512]."""
    with _one_thread():
        detector = _detector()
        detector.reset_states()
        columns = [detector(rows[:, start : start + _FRAME], _RATE) for start in range(0, rows.size(1), _FRAME)]
        return torch.cat(columns, dim=1).numpy()


def _spans(probabilities: Iterable[Frames], duration_s: float) -> Iterator[Span]:
    """Yield padded spans of speech. They do not overlap, because pauses are longer than the padding on both sides."""
    for span in _unpadded_spans(probabilities, duration_s):
        yield Span(max(0.0, span.start_s - _PADDING_S), min(span.end_s + _PADDING_S, duration_s))


def _unpadded_spans(probabilities: Iterable[Frames], duration_s: float) -> Iterator[Span]:
    """Yield spans that begin at a high probability and end where a low one lasts for the minimum silence."""
    start: float | None = None
    possible_end: float | None = None
    for index, probability in enumerate(float(value) for block in probabilities for value in block):
        now = index * _FRAME / _RATE
        if probability >= _START_PROBABILITY:
            start = now if start is None else start
            possible_end = None
        elif probability < _END_PROBABILITY and start is not None:
            possible_end = now if possible_end is None else possible_end
            if now - possible_end >= _MIN_SILENCE_S:
                if possible_end - start > _MIN_SPEECH_S:
                    yield Span(start, possible_end)
                start = possible_end = None
    if start is not None and duration_s - start > _MIN_SPEECH_S:
        yield Span(start, duration_s)
