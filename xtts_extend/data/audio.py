"""Recordings as the model takes them, whole or a slice, what they measure, and writing a wav."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio
from torch import Tensor

from xtts_extend.data.audio_file import AudioFile, Frames, open_audio
from xtts_extend.errors import DataError

#: Half the range between the lowest and the highest sample, under which nobody hears speech: -60 dB of full scale.
SILENCE_LEVEL = 0.001
_BLOCK_FRAMES = 1 << 18
# torchaudio's resampler looks at 6 samples of the lower rate to each side: no more periods of both rates than that.
_RESAMPLER_PERIODS = 8


# torchaudio makes a filter of this many numbers at most: rates without a common divisor would take gigabytes.
_RESAMPLER_SIZE = 1 << 25
# 20 dB beyond full scale. No recording gets there, and whole numbers written as floating point do at once.
_HIGHEST_PEAK = 10.0
# Windows of this many to a second are sound or silence, by how far they are below the loudest. Their level is half the
# range of their samples: a click in noise has little power, and stands out all the same.
_WINDOWS_PER_SECOND = 20
_SOUND_BELOW_LOUDEST_DB = 26
#: Recordings of sentences have 80 to 95 % of sound in them, by `sound_share`.
LITTLE_SOUND = 0.4


@dataclass(frozen=True)
class Recording:
    """What one file holds: its rate in Hz, channels, samples per channel, and what was measured on them."""

    sample_rate: int
    channels: int
    frames: int
    level: float  # half the range of the mono samples; 1 is full scale
    peak: float  # the largest sample of any channel, without its sign
    sound: float  # share of the time that is sound, 0 to 1, by `sound_share`
    clipped: int  # samples beyond full scale or cut off at it
    finite: bool  # no NaN or infinite sample
    digest: str  # of the file's bytes

    @property
    def out_of_range(self) -> bool:
        """Whether samples are so far beyond full scale that they are integers which nobody scaled."""
        return self.peak > _HIGHEST_PEAK


def load_audio(path: Path | str, sample_rate: int) -> Tensor:
    """Read a recording as the stock `load_audio` does: mono by the mean of the channels, resampled, clipped to [-1, 1].

    Args:
        path: A file that libsndfile or FFmpeg reads.
        sample_rate: The rate of the result in Hz.

    Returns:
        float32 tensor [1, samples].

    Raises:
        DataError: The file is missing, unreadable, truncated, empty, or holds samples that no recording has.
    """
    with open_audio(path) as file:
        file_rate = file.sample_rate
        _require_resampling(path, file_rate, sample_rate)
        frames = file.read()
        _require_whole(path, promised=file.frames, held=len(frames))
    audio = _mono(path, frames)
    if file_rate != sample_rate:
        audio = torchaudio.functional.resample(audio, file_rate, sample_rate)
    return audio.clip_(-1, 1)


def audio_length(path: Path | str, sample_rate: int) -> int:
    """How many samples `load_audio` gives, from the file's header where that says it.

    Raises:
        DataError: The file is missing or unreadable.
    """
    with open_audio(path) as file:
        frames = sum(map(len, _blocks(file, _BLOCK_FRAMES))) if file.frames is None else file.frames
        return _length(frames, file.sample_rate, sample_rate)


def _length(frames: int, file_rate: int, sample_rate: int) -> int:
    return -(-frames * sample_rate // file_rate)


def _blocks(file: AudioFile, frames: int) -> Iterator[Frames]:
    """The rest of a file, in blocks of up to `frames` frames."""
    while len(samples := file.read(frames)):
        yield samples


def can_resample(file_rate: int, sample_rate: int) -> bool:
    """Whether the resampler's filter for these rates has a sensible size (see torchaudio's sinc kernel)."""
    common = math.gcd(file_rate, sample_rate)
    theirs, ours = file_rate // common, sample_rate // common
    half_width = math.ceil(6 * theirs / (0.99 * min(theirs, ours)))
    return ours * (2 * half_width + theirs) <= _RESAMPLER_SIZE


def _require_resampling(path: Path | str, file_rate: int, sample_rate: int) -> None:
    if not can_resample(file_rate, sample_rate):
        raise DataError(f"{path} {resampling_problem(file_rate, sample_rate)}")


def resampling_problem(file_rate: int, sample_rate: int) -> str:
    """What is wrong with a rate, and what to do."""
    return (
        f"has {file_rate} Hz, which cannot be resampled to {sample_rate} Hz: they have hardly a common divisor. "
        f"Convert it with `ffmpeg -i IN -ar {sample_rate} OUT.wav`."
    )


def load_slice(path: Path | str, sample_rate: int, start: int, end: int) -> Tensor:
    """Samples `start` to `end` of what `load_audio` gives, without reading the rest.

    Where the file has another rate, what the resampler sees on both sides is read as well; the result is that of the
    whole recording but for rounding.

    Returns:
        float32 tensor [1, end - start].

    Raises:
        DataError: As `load_audio`, or the recording is shorter.
    """
    too_short = DataError(f"{path} ends before sample {end} at {sample_rate} Hz; has it changed? Run check-data again.")
    with open_audio(path) as file:
        _require_resampling(path, file.sample_rate, sample_rate)
        if file.frames is not None and end > _length(file.frames, file.sample_rate, sample_rate):
            raise too_short
        common = math.gcd(file.sample_rate, sample_rate)
        theirs, ours = file.sample_rate // common, sample_rate // common
        # whole periods of both rates, so that the resampler is in the same phase
        first = max(0, start // ours - _RESAMPLER_PERIODS)
        last = -(-end // ours) + _RESAMPLER_PERIODS
        file.skip(first * theirs)
        frames = file.read((last - first) * theirs)
    if not len(frames):
        raise too_short
    audio = _mono(path, frames)
    if (theirs, ours) != (1, 1):
        audio = torchaudio.functional.resample(audio, theirs, ours)
    found = audio[:, start - first * ours : end - first * ours].clip(-1, 1)
    if found.shape[-1] != end - start:
        raise too_short
    return found


def _mono(path: Path | str, frames: Frames) -> Tensor:
    """frames [frames, channels] → [1, frames], the mean of the channels."""
    if len(frames) == 0:
        raise DataError(f"{path} holds no samples; record it again or remove it from the manifest")
    if not np.isfinite(frames).all():
        raise DataError(f"{path} holds NaN or infinite samples; write it again from its source")
    if (peak := np.abs(frames).max()) > _HIGHEST_PEAK:
        raise DataError(f"{path} {out_of_range(float(peak), float(np.ptp(frames.mean(axis=1))) / 2)}")
    audio = torch.from_numpy(np.ascontiguousarray(frames.T))
    return audio if audio.size(0) == 1 else torch.mean(audio, dim=0, keepdim=True)


def out_of_range(peak: float, level: float) -> str:
    """What is wrong with samples that reach a peak like this and have this level, and what to do."""
    # without a sign all are above zero, so that their range is no larger than the largest of them
    unsigned = 2 * level <= peak
    bits = next((bits for bits in (8, 16, 24) if peak <= ((1 << bits) - 1 if unsigned else 1 << bits - 1)), 32)
    cure = f"{f'Subtract {1 << bits - 1}, and divide' if unsigned else 'Divide them'} by {1 << bits - 1}"
    return (
        f"has samples up to {peak:.0f}, and full scale is 1: integers of {bits} bits were written as floating point. "
        f"{cure}, or write the file again as integers."
    )


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
    lowest, highest, peak, frames, clipped, finite = np.inf, -np.inf, 0.0, 0, 0, True
    levels: list[Frames] = []
    with open_audio(path) as file:
        rate, channels = file.sample_rate, file.channels
        window = rate // _WINDOWS_PER_SECOND
        for samples in _blocks(file, _BLOCK_FRAMES // window * window):
            frames += len(samples)
            finite = finite and bool(np.isfinite(samples).all())
            mono = samples.mean(axis=1)
            lowest, highest = min(lowest, float(mono.min())), max(highest, float(mono.max()))
            # Flat at full scale for three samples: the peak of a sound wave is not.
            loud = np.abs(samples)
            peak = max(peak, float(loud.max()))
            flat = (loud[1:] >= 0.99) & (samples[1:] == samples[:-1])
            clipped += int((loud > 1).sum()) + int((flat[1:] & flat[:-1]).sum())
            if finite:
                levels.append(_levels(mono, window))
        _require_whole(path, promised=file.frames, held=frames)
    try:
        with open(path, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not frames or not finite:
        return Recording(rate, channels, frames, 0.0, 0.0, 0.0, clipped, finite, digest.hexdigest())
    level = (highest - lowest) / 2
    return Recording(rate, channels, frames, level, peak, _sound(levels), clipped, finite, digest.hexdigest())


def sound_share(audio: Frames, sample_rate: int) -> float:
    """Share of the time of mono audio, [samples], that is less than 26 dB below its loudest moment, 0 to 1."""
    return _sound([_levels(audio, sample_rate // _WINDOWS_PER_SECOND)])


def describe_sound(share: float) -> str:
    """A share of sound, in words."""
    return f"{share:.0%} of it is louder than {_SOUND_BELOW_LOUDEST_DB} dB below its loudest moment"


def _levels(mono: Frames, window: int) -> Frames:
    """Half the range of the samples of each window; what is left at the end is shorter than one."""
    windows = mono[: len(mono) // window * window].reshape(-1, window)
    return np.ptp(windows, axis=1) / 2


def _sound(levels: Sequence[Frames]) -> float:
    """Share of the windows with these levels that are sound."""
    every = np.concatenate(levels)
    loudest = every.max(initial=0)
    return float((every > loudest * 10 ** (-_SOUND_BELOW_LOUDEST_DB / 20)).mean()) if len(every) else 1.0


def _require_whole(path: Path | str, *, promised: int | None, held: int) -> None:
    """Raise DataError when a file gave fewer samples than its header promised."""
    if promised is not None and held != promised:
        raise DataError(f"{path} is truncated: its header promises {promised} samples, it holds {held}")
