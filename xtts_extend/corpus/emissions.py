"""The log probabilities of letters in each frame of a recording, computed in windows and kept on disk.

The windows lie on a fixed grid of frames, so that frame i starts at i × stride in the whole recording, whatever its
length. A model only reads the windows that contain speech; elsewhere, the blank is certain. The folder of a recording
has `emissions.json`, and parts of 10 minutes that appear atomically, so a killed process loses one part at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xtts_extend.corpus.aligners import LOWEST, CtcAligner
from xtts_extend.corpus.voice_activity import Span
from xtts_extend.errors import DataError
from xtts_extend.files import atomic_write
from xtts_extend.progress import with_progress

#: Reads a recording: (first sample, sample after the last) at the model's rate → float32 [samples].
Reader = Callable[[int, int], npt.NDArray[np.float32]]

INDEX = "emissions.json"
_VERSION = 1
# CTC models are trained on utterances of up to about 30 s, and the cost of their attention grows with the square of
# the length. At its edges, a model lacks the sounds on the other side, so it also reads 2 s of context on each side.
_WINDOW_S = 20
_CONTEXT_S = 2
# 10 minutes per file: 60 files for ten hours, and a few minutes of work lost by a kill on a CPU.
_WINDOWS_PER_PART = 30
_GPU_BATCH = 8
# Voice activity detection misses quiet words, mostly at the beginning and the end of sentences. A CTC model outputs
# blanks for noise and music in any case.
_MARGIN_S = 1.5
_GREEDY_BLOCK = 1 << 15


@dataclass(frozen=True, slots=True)
class Emissions:
    """The log probabilities of a recording on disk. Frame i starts at i × stride.

    `emissions[first:last]` reads frames: float32 [frames, columns], at least -100.

    Attributes:
        folder: Folder of the parts.
        key: Digest of everything that the values depend on.
        frames: Number of frames.
        columns: Number of columns: the blank and the letters of the model.
        stride: Number of samples between the starts of two frames.
        rate: Sample rate of the model in Hz.
        part_frames: Number of frames of each part; the last one may have fewer.
        blank: Column of the blank.
    """

    folder: Path
    key: str
    frames: int
    columns: int
    stride: int
    rate: int
    part_frames: int
    blank: int = CtcAligner.blank

    @property
    def stride_s(self) -> float:
        """Time between the starts of two frames in seconds."""
        return self.stride / self.rate

    def __getitem__(self, frames: slice) -> npt.NDArray[np.float32]:
        """Read frames. The slice has no step.

        Raises:
            DataError: A part is missing or damaged.
        """
        first, last, _ = frames.indices(self.frames)
        values = np.empty((max(0, last - first), self.columns), dtype=np.float32)
        for part in range(first // self.part_frames, -(-last // self.part_frames)):
            start = part * self.part_frames
            begin, end = max(first, start), min(last, start + self.part_frames)
            values[begin - first : end - first] = self._open(part)[begin - start : end - start]
        return values

    def path(self, part: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{part:05d}.npy"

    def shape(self, part: int) -> tuple[int, int]:
        """Return the number of frames and columns of a part."""
        return min(self.part_frames, self.frames - part * self.part_frames), self.columns

    def is_intact(self, part: int) -> bool:
        """Return whether a part exists with the expected shape."""
        return self._load(part) is not None

    def _open(self, part: int) -> npt.NDArray[np.float16]:
        values = self._load(part)
        if values is None:
            raise DataError(f"{self.path(part)} is missing or damaged. Run make-dataset again to compute it again.")
        return values

    def _load(self, part: int) -> npt.NDArray[np.float16] | None:
        try:
            values: npt.NDArray[np.float16] = np.load(self.path(part), mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        return values if values.dtype == np.float16 and values.shape == self.shape(part) else None


def compute_emissions(
    read: Reader,
    samples: int,
    recording_digest: str,
    speech: Sequence[Span],
    aligner: CtcAligner,
    folder: Path,
    *,
    progress: bool = True,
) -> Emissions:
    """Compute the log probabilities of a recording, except for the parts that are already in the folder.

    Memory use does not depend on the length of the recording.

    Args:
        read: Reads the recording at `aligner.rate`.
        samples: Length of the recording in samples at `aligner.rate`.
        recording_digest: Digest of the recording.
        speech: Its spans of speech.
        aligner: The model.
        folder: Folder for the files. Parts of a different recording, model or speech in it are deleted.
        progress: Whether to show progress on standard error.

    Raises:
        ConfigError: The model computes values that are not finite.
        DataError: The recording cannot be read.
        MachineError: The disk is full, or the folder is not writable.
    """
    window = _WINDOW_S * aligner.rate // aligner.stride
    spans = [(span.start_s, span.end_s) for span in speech]
    settings = (_VERSION, aligner.digest, recording_digest, samples, spans, _WINDOW_S, _CONTEXT_S, _MARGIN_S)
    emissions = Emissions(
        folder=folder,
        key=hashlib.blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest(),
        frames=-(-samples // aligner.stride),
        columns=aligner.columns,
        stride=aligner.stride,
        rate=aligner.rate,
        part_frames=_WINDOWS_PER_PART * window,
    )
    _claim(emissions)
    is_speech = _speech_frames(emissions, spans)
    parts = -(-emissions.frames // emissions.part_frames)
    for part in with_progress(range(parts), parts, "parts aligned (10 minutes each)", progress):
        if not emissions.is_intact(part):
            values = _compute_part(read, samples, aligner, emissions, part, window, is_speech)
            with atomic_write(emissions.path(part)) as file:
                np.save(file, values)
    return emissions


def greedy(emissions: Emissions) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the most likely letters, read in blocks: repetitions are merged, and blanks removed.

    Returns:
        The columns of the letters, int32 [letters], and the frame where each begins, int32 [letters].
    """
    columns, frames = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    previous = emissions.blank
    for first in range(0, emissions.frames, _GREEDY_BLOCK):
        best = emissions[first : first + _GREEDY_BLOCK].argmax(axis=1).astype(np.int32)
        before = np.concatenate(([previous], best[:-1]))
        begins = np.flatnonzero((best != before) & (best != emissions.blank))
        columns.append(best[begins])
        frames.append((first + begins).astype(np.int32))
        previous = int(best[-1])
    return np.concatenate(columns), np.concatenate(frames)


def _claim(emissions: Emissions) -> None:
    """Write the index. If the folder has one with a different key, or none, delete the parts first."""
    index = {name: value for name, value in asdict(emissions).items() if name != "folder"}
    content = json.dumps(index, indent=1).encode()
    file = emissions.folder / INDEX
    if file.is_file() and file.read_bytes() == content:
        return
    # The index goes first: parts without an index do not count if the process is killed here.
    file.unlink(missing_ok=True)
    for part in emissions.folder.glob("part-*.npy"):
        part.unlink()
    with atomic_write(file) as writer:
        writer.write(content)


def _speech_frames(emissions: Emissions, spans: Sequence[tuple[float, float]]) -> npt.NDArray[np.bool_]:
    """Return for each frame whether it is speech or close to it."""
    is_speech = np.zeros(emissions.frames, dtype=np.bool_)
    for start_s, end_s in spans:
        first = int((start_s - _MARGIN_S) / emissions.stride_s)
        is_speech[max(0, first) : int((end_s + _MARGIN_S) / emissions.stride_s) + 1] = True
    return is_speech


def _compute_part(
    read: Reader,
    samples: int,
    aligner: CtcAligner,
    emissions: Emissions,
    part: int,
    window: int,
    is_speech: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float16]:
    """Return the values of a part, float16 [frames, columns]."""
    values = np.full(emissions.shape(part), LOWEST, dtype=np.float16)
    values[:, emissions.blank] = 0
    start = part * emissions.part_frames
    context = _CONTEXT_S * aligner.rate // aligner.stride
    cores = [
        (first, min(first + window, emissions.frames))
        for first in range(start, start + len(values), window)
        if is_speech[first : first + window].any()
    ]
    for batch in _batches(cores, context, emissions.frames, _GPU_BATCH if aligner.on_gpu else 1):
        audio = np.stack([_read_window(read, samples, aligner, begin, end) for _, (begin, end) in batch])
        for ((first, last), (begin, _)), log_probs in zip(batch, aligner.log_probs(audio), strict=True):
            speech = is_speech[first:last]
            values[first - start : last - start][speech] = log_probs[first - begin : last - begin][speech]
    return values


_Core = tuple[int, int]


def _batches(cores: Sequence[_Core], context: int, frames: int, size: int) -> Iterator[list[tuple[_Core, _Core]]]:
    """Yield (frames to keep, frames to compute) of up to `size` windows of equal length."""
    windows = [((first, last), (max(0, first - context), min(frames, last + context))) for first, last in cores]
    for _, group in groupby(windows, key=lambda item: item[1][1] - item[1][0]):
        same = list(group)
        yield from (same[index : index + size] for index in range(0, len(same), size))


def _read_window(read: Reader, samples: int, aligner: CtcAligner, begin: int, end: int) -> npt.NDArray[np.float32]:
    """Read the audio of frames `begin` to `end`. Behind the end of the recording, it is silent."""
    first = begin * aligner.stride
    audio = np.zeros(aligner.samples_for(end - begin), dtype=np.float32)
    available = min(len(audio), samples - first)
    audio[:available] = read(first, first + available)
    return audio
