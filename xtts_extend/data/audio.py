"""Reads and writes recordings with soundfile: wav, flac, ogg and mp3, without FFmpeg."""

from __future__ import annotations

import hashlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio
from torch import Tensor

from xtts_extend.errors import DataError

# A program that writes a wav to a pipe cannot know its size and leaves a number near 2 or 4 GiB in the header.
_UNKNOWN_WAV_SIZE = 0x7FFF0000
_BLOCK_FRAMES = 1 << 18
# torchaudio's resampler looks at 6 samples of the lower rate to each side: no more periods of both rates than that.
_RESAMPLER_PERIODS = 8


@dataclass(frozen=True)
class Recording:
    """What one file holds: its rate in Hz, channels, samples per channel, and what was measured on them."""

    sample_rate: int
    channels: int
    frames: int
    level: float  # half the range of the mono samples; 1 is full scale
    clipped: int  # samples beyond full scale or cut off at it
    finite: bool  # no NaN or infinite sample
    digest: str  # of the file's bytes


def load_audio(path: Path | str, sample_rate: int) -> Tensor:
    """Read a recording as the stock `load_audio` does: mono by the mean of the channels, resampled, clipped to [-1, 1].

    Args:
        path: A file that soundfile reads.
        sample_rate: The rate of the result in Hz.

    Returns:
        float32 tensor [1, samples].

    Raises:
        DataError: The file is missing, unreadable, truncated, empty, or holds NaN or infinite samples.
    """
    with open_audio(path) as file:
        frames = read_frames(file, file.frames)
        require_whole(path, promised=file.frames, held=len(frames))
        file_rate = file.samplerate
    audio = _mono(path, frames)
    if file_rate != sample_rate:
        audio = torchaudio.functional.resample(audio, file_rate, sample_rate)
    return audio.clip_(-1, 1)


def audio_length(path: Path | str, sample_rate: int) -> int:
    """How many samples `load_audio` gives, from the file's header.

    Raises:
        DataError: The file is missing or unreadable.
    """
    with open_audio(path) as file:
        return _length(file, sample_rate)


def _length(file: soundfile.SoundFile, sample_rate: int) -> int:
    return -(-int(file.frames) * sample_rate // int(file.samplerate))


def load_slice(path: Path | str, sample_rate: int, start: int, end: int) -> Tensor:
    """Samples `start` to `end` of what `load_audio` gives, without reading the rest.

    Where the file has another rate, what the resampler sees on both sides is read as well; the result is that of the
    whole recording but for rounding.

    Returns:
        float32 tensor [1, end - start].

    Raises:
        DataError: As `load_audio`, or the recording is shorter.
    """
    with open_audio(path) as file:
        if end > _length(file, sample_rate):
            raise DataError(
                f"{path} ends before sample {end} at {sample_rate} Hz; has it changed? Run check-data again."
            )
        common = math.gcd(file.samplerate, sample_rate)
        theirs, ours = file.samplerate // common, sample_rate // common
        # whole periods of both rates, so that the resampler is in the same phase
        first = max(0, start // ours - _RESAMPLER_PERIODS)
        last = -(-end // ours) + _RESAMPLER_PERIODS
        file.seek(first * theirs)
        audio = _mono(path, read_frames(file, (last - first) * theirs))
    if (theirs, ours) != (1, 1):
        audio = torchaudio.functional.resample(audio, theirs, ours)
    found = audio[:, start - first * ours : end - first * ours].clip(-1, 1)
    if found.shape[-1] != end - start:
        raise DataError(
            f"{path} is truncated: it ends before sample {end} at {sample_rate} Hz, which its header promises"
        )
    return found


def _mono(path: Path | str, frames: npt.NDArray[np.float32]) -> Tensor:
    """frames [frames, channels] → [1, frames], the mean of the channels."""
    if len(frames) == 0:
        raise DataError(f"{path} holds no samples; record it again or remove it from the manifest")
    if not np.isfinite(frames).all():
        raise DataError(f"{path} holds NaN or infinite samples; write it again from its source")
    audio = torch.from_numpy(np.ascontiguousarray(frames.T))
    return audio if audio.size(0) == 1 else torch.mean(audio, dim=0, keepdim=True)


def save_wav(path: Path | str, audio: Tensor | npt.NDArray[np.floating], sample_rate: int) -> None:
    """Write mono audio, [samples] or [1, samples] in [-1, 1], as a 16-bit wav; its folder is made where it is missing.

    Raises:
        DataError: The audio has another shape, no samples, or NaN or infinite ones, or the file cannot be written.
    """
    samples = audio.detach().float().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio, dtype=np.float32)
    shape = samples.shape
    if samples.ndim == 2 and shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 1 or not len(samples):
        raise DataError(f"cannot write {path}: audio of shape {list(shape)}, expected [samples] or [1, samples]")
    if not np.isfinite(samples).all():
        raise DataError(f"cannot write {path}: the audio holds NaN or infinite samples")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.clip(samples, -1, 1), sample_rate, subtype="PCM_16", format="WAV")
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"cannot write {path}: {error}; is the folder writable, and is there space?") from error


def measure_recording(path: Path | str) -> Recording:
    """Read a file to its end, in blocks, so that an absurdly long one does no harm.

    Raises:
        DataError: The file is missing, unreadable or truncated.
    """
    digest = hashlib.blake2b(digest_size=16)
    lowest, highest, frames, clipped, finite = np.inf, -np.inf, 0, 0, True
    with open_audio(path) as file:
        while len(samples := read_frames(file, _BLOCK_FRAMES)):
            frames += len(samples)
            finite = finite and bool(np.isfinite(samples).all())
            mono = samples.mean(axis=1)
            lowest, highest = min(lowest, float(mono.min())), max(highest, float(mono.max()))
            # Flat at full scale for three samples: the peak of a sound wave is not.
            loud = np.abs(samples)
            flat = (loud[1:] >= 0.99) & (samples[1:] == samples[:-1])
            clipped += int((loud > 1).sum()) + int((flat[1:] & flat[:-1]).sum())
        require_whole(path, promised=file.frames, held=frames)
        rate, channels = file.samplerate, file.channels
    try:
        with open(path, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    level = (highest - lowest) / 2 if frames and finite else 0.0
    return Recording(rate, channels, frames, level, clipped, finite, digest.hexdigest())


def open_audio(path: Path | str) -> soundfile.SoundFile:
    """Open a recording for `read_frames`.

    Raises:
        DataError: The file is missing, is no recording, or is a wav with less data than its header promises.
    """
    if not os.path.isfile(path):
        what = "a folder, and a recording was expected" if os.path.isdir(path) else "no such file; check the path"
        raise DataError(f"{path}: {what}")
    try:
        file = soundfile.SoundFile(path)
    # soundfile answers a name that ends in .raw with a TypeError: it wants to be told the rate of headerless data.
    except (soundfile.SoundFileError, TypeError) as error:
        raise DataError(f"{path} cannot be read as wav, flac, ogg or mp3: {error}") from error
    # libsndfile shortens a truncated wav without a word, except in its log. The text would go on where the audio ends.
    shortened = re.search(r"^\s*data *: *(\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if shortened and int(shortened[2]) < int(shortened[1]) < _UNKNOWN_WAV_SIZE:
        file.close()
        raise DataError(
            f"{path} is truncated: its header promises {shortened[1]} bytes of audio, it holds {shortened[2]}"
        )
    return file


def read_frames(file: soundfile.SoundFile, frames: int) -> npt.NDArray[np.float32]:
    """Read the next frames, float32 [frames, channels]; fewer at the end of the file.

    Raises:
        DataError: The data is damaged.
    """
    try:
        return file.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"{file.name} is damaged or truncated: {error}") from error


def require_whole(path: Path | str, *, promised: int, held: int) -> None:
    """Raise DataError when a file gave fewer samples than its header promised (a truncated mp3 does)."""
    if held != promised:
        raise DataError(f"{path} is truncated: its header promises {promised} samples, it holds {held}")
