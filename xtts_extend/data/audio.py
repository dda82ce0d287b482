"""Load recordings at the model's sample rate, measure them and write WAV files."""

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

#: Level (half the range of the samples) below which a recording counts as silent: -60 dB relative to full scale.
SILENCE_LEVEL = 0.001
_BLOCK_FRAMES = 1 << 18
# Periods to read on each side: more than the 6 samples (at the lower rate) that torchaudio's resampler needs.
_RESAMPLER_PERIODS = 8
# Maximum number of values in the filter that torchaudio builds. For rates without a large common divisor, the filter
# would take gigabytes of memory.
_RESAMPLER_SIZE = 1 << 25
# 20 dB above full scale. No real recording is that loud, but unscaled integers written as floating point are.
_HIGHEST_PEAK = 10.0
# A window counts as sound unless its level is at least this far below that of the loudest window. The level is half
# the range of the window's samples rather than their power, so that a click in noise counts as the loudest window.
_WINDOWS_PER_SECOND = 20
_SOUND_BELOW_LOUDEST_DB = 26
#: Share of sound below which a recording counts as mostly silence. Spoken sentences have 0.80 to 0.95 (see
#: `sound_share`).
LITTLE_SOUND = 0.4


@dataclass(frozen=True)
class Recording:
    """The format of one audio file and the measurements of its samples.

    Attributes:
        sample_rate: Sample rate in Hz.
        channels: Number of channels.
        frames: Number of samples per channel.
        level: Half the range of the mono samples; full scale is 1.
        peak: Largest absolute sample value in any channel.
        sound: Share of the recording that contains sound, 0 to 1 (see `sound_share`).
        clipped: Number of samples that exceed full scale or are flat at full scale.
        finite: Whether all samples are finite (neither NaN nor infinite).
        digest: BLAKE2b digest of the file, 32 hexadecimal digits.
    """

    sample_rate: int
    channels: int
    frames: int
    level: float
    peak: float
    sound: float
    clipped: int
    finite: bool
    digest: str

    @property
    def out_of_range(self) -> bool:
        """Whether the samples look like unscaled integers: their peak is more than 20 dB above full scale."""
        return self.peak > _HIGHEST_PEAK


def load_audio(path: Path | str, sample_rate: int) -> Tensor:
    """Read a recording as mono, resampled and clipped to [-1, 1], as coqui's `load_audio` does.

    Args:
        path: Audio file in a format that libsndfile or FFmpeg reads.
        sample_rate: Sample rate of the result in Hz.

    Returns:
        float32 tensor [1, samples], the mean of the channels.

    Raises:
        DataError: The file is missing, unreadable, truncated or empty, or has samples that are NaN, infinite or far
            beyond full scale.

    >>> save_wav("tone.wav", 0.5 * np.sin(np.arange(44100) / 20), 44100)
    >>> load_audio("tone.wav", 22050).shape
    torch.Size([1, 22050])
    """
    with open_audio(path) as file:
        file_rate = file.sample_rate
        _require_resampling(path, file_rate, sample_rate)
        frames = file.read()
        require_complete(path, declared=file.frames, read=len(frames))
    audio = _mono(path, frames)
    if file_rate != sample_rate:
        audio = torchaudio.functional.resample(audio, file_rate, sample_rate)
    return audio.clip_(-1, 1)


def audio_length(path: Path | str, sample_rate: int) -> int:
    """Return the number of samples that `load_audio` would return, decoding the file only if its header has no length.

    Args:
        path: Audio file in a format that libsndfile or FFmpeg reads.
        sample_rate: Sample rate of the result in Hz.

    Raises:
        DataError: The file is missing or unreadable.
    """
    with open_audio(path) as file:
        frames = sum(map(len, read_blocks(file, _BLOCK_FRAMES))) if file.frames is None else file.frames
        return resampled_length(frames, file.sample_rate, sample_rate)


def resampled_length(frames: int, file_rate: int, sample_rate: int) -> int:
    """Return the number of samples that `frames` samples become when their rate changes."""
    return -(-frames * sample_rate // file_rate)


def read_blocks(file: AudioFile, frames: int) -> Iterator[Frames]:
    """Yield the rest of a file in blocks of up to `frames` frames."""
    while len(samples := file.read(frames)):
        yield samples


def can_resample(file_rate: int, sample_rate: int) -> bool:
    """Return whether the resampling filter for these rates fits in memory (see torchaudio's sinc kernel)."""
    common = math.gcd(file_rate, sample_rate)
    orig, new = file_rate // common, sample_rate // common
    half_width = math.ceil(6 * orig / (0.99 * min(orig, new)))
    return new * (2 * half_width + orig) <= _RESAMPLER_SIZE


def _require_resampling(path: Path | str, file_rate: int, sample_rate: int) -> None:
    if not can_resample(file_rate, sample_rate):
        raise DataError(f"{path} {resampling_problem(file_rate, sample_rate)}")


def resampling_problem(file_rate: int, sample_rate: int) -> str:
    """Return the part of a message that follows a file name: why the file cannot be resampled and how to fix it."""
    return (
        f"has a sample rate of {file_rate:,} Hz and cannot be resampled to {sample_rate:,} Hz, because the greatest "
        f"common divisor of the two rates is too small. Convert it with `ffmpeg -i IN -ar {sample_rate} OUT.wav`."
    )


def load_slice(path: Path | str, sample_rate: int, start: int, end: int) -> Tensor:
    """Return samples `start` to `end` of the audio that `load_audio` would return, without reading the rest.

    If the file has a different sample rate, the samples that the resampler needs on both sides are read as well, so
    that the result equals the same part of the whole recording after resampling, up to rounding.

    Args:
        path: Audio file in a format that libsndfile or FFmpeg reads.
        sample_rate: Sample rate of the result in Hz.
        start: Index of the first sample, at `sample_rate`.
        end: Index of the sample after the last one, at `sample_rate`.

    Returns:
        float32 tensor [1, end - start].

    Raises:
        DataError: The recording is too short, or `load_audio` would also fail on it.
    """
    with open_audio(path) as file:
        return read_slice(file, path, sample_rate, start, end)


def read_slice(file: AudioFile, path: Path | str, sample_rate: int, start: int, end: int) -> Tensor:
    """Work like `load_slice` on a file that has just been opened; `path` is for error messages."""
    too_short = DataError(
        f"{path} ends before sample {end:,} at {sample_rate:,} Hz. The file may have changed; run check-data again."
    )
    _require_resampling(path, file.sample_rate, sample_rate)
    if file.frames is not None and end > resampled_length(file.frames, file.sample_rate, sample_rate):
        raise too_short
    common = math.gcd(file.sample_rate, sample_rate)
    orig, new = file.sample_rate // common, sample_rate // common
    # Read whole periods of both rates, so that the resampler stays in phase with the whole recording.
    first = max(0, start // new - _RESAMPLER_PERIODS)
    last = -(-end // new) + _RESAMPLER_PERIODS
    file.skip(first * orig)
    frames = file.read((last - first) * orig)
    if not len(frames):
        raise too_short
    audio = _mono(path, frames)
    if (orig, new) != (1, 1):
        audio = torchaudio.functional.resample(audio, orig, new)
    audio_slice = audio[:, start - first * new : end - first * new].clip(-1, 1)
    if audio_slice.shape[-1] != end - start:
        raise too_short
    return audio_slice


def _mono(path: Path | str, frames: Frames) -> Tensor:
    """Return the mean of the channels, [frames, channels] → [1, frames]; raise DataError for unusable samples."""
    if len(frames) == 0:
        raise DataError(f"{path} has no samples. Record it again, or remove it from the manifest.")
    require_usable(path, frames)
    audio = torch.from_numpy(np.ascontiguousarray(frames.T))
    return audio if audio.size(0) == 1 else torch.mean(audio, dim=0, keepdim=True)


def require_usable(path: Path | str, frames: Frames) -> None:
    """Raise DataError if samples, [frames, channels], are NaN, infinite or far beyond full scale."""
    if not np.isfinite(frames).all():
        raise DataError(f"{path} contains NaN or infinite samples. Export it again from its source.")
    if (peak := np.abs(frames).max()) > _HIGHEST_PEAK:
        raise DataError(f"{path} {describe_out_of_range(float(peak), float(np.ptp(frames.mean(axis=1))) / 2)}")


def describe_out_of_range(peak: float, level: float) -> str:
    """Return the part of a message that follows a file name: why its samples look unscaled and how to fix them.

    Args:
        peak: Largest absolute sample value.
        level: Half the range of the samples.
    """
    # Unsigned samples are all positive, so their range is at most the peak.
    unsigned = 2 * level <= peak
    bits = next((bits for bits in (8, 16, 24) if peak <= ((1 << bits) - 1 if unsigned else 1 << bits - 1)), 32)
    scale = 1 << bits - 1
    fix = f"{f'Subtract {scale} from the samples and divide them' if unsigned else 'Divide the samples'} by {scale}"
    return (
        f"has sample values up to {peak:,.0f}, but full scale is 1, so these are {bits}-bit integers written as "
        f"floating point. {fix}, or write the file as integers."
    )


def save_wav(path: Path | str, audio: Tensor | npt.NDArray[np.floating], sample_rate: int) -> None:
    """Write mono audio to a 16-bit WAV file, and create the file's folder if it does not exist.

    Args:
        path: Path of the WAV file.
        audio: Samples in [-1, 1], with shape [samples] or [1, samples]. Values outside that range are clipped.
        sample_rate: Sample rate in Hz.

    Raises:
        DataError: The audio has a different shape, is empty, or has NaN or infinite samples, or the file cannot be
            written.
    """
    samples = audio.detach().float().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio, dtype=np.float32)
    shape = samples.shape
    if samples.ndim == 2 and shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 1 or not len(samples):
        raise DataError(f"Cannot write {path}: expected audio of shape [samples] or [1, samples], got {list(shape)}.")
    if not np.isfinite(samples).all():
        raise DataError(f"Cannot write {path}: the audio contains NaN or infinite samples.")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.clip(samples, -1, 1), sample_rate, subtype="PCM_16", format="WAV")
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(
            f"Cannot write {path} ({error}). Check that the folder is writable and the disk is not full."
        ) from error


def measure_recording(path: Path | str) -> Recording:
    """Measure a recording, reading it in blocks so that memory use does not depend on its length.

    Args:
        path: Audio file in a format that libsndfile or FFmpeg reads.

    Raises:
        DataError: The file is missing, unreadable or truncated.

    >>> save_wav("tone.wav", 0.5 * np.sin(np.arange(44100) / 20), 44100)
    >>> recording = measure_recording("tone.wav")
    >>> recording.sample_rate, recording.channels, recording.frames, recording.clipped
    (44100, 1, 44100, 0)
    >>> f"{recording.level:.2f}"
    '0.50'
    """
    lowest, highest, peak, frames, clipped, finite = np.inf, -np.inf, 0.0, 0, 0, True
    levels: list[Frames] = []
    with open_audio(path) as file:
        rate, channels = file.sample_rate, file.channels
        window = rate // _WINDOWS_PER_SECOND
        for samples in read_blocks(file, _BLOCK_FRAMES // window * window):
            frames += len(samples)
            finite = finite and bool(np.isfinite(samples).all())
            mono = samples.mean(axis=1)
            lowest, highest = min(lowest, float(mono.min())), max(highest, float(mono.max()))
            peak = max(peak, float(samples.max()), -float(samples.min()))
            clipped += count_clipped(samples)
            if finite:
                levels.append(window_levels(mono, window))
        require_complete(path, declared=file.frames, read=frames)
    digest = content_digest(path)
    if not frames or not finite:
        return Recording(rate, channels, frames, 0.0, 0.0, 0.0, clipped, finite, digest)
    level = (highest - lowest) / 2
    return Recording(rate, channels, frames, level, peak, _sound(levels), clipped, finite, digest)


def content_digest(path: Path | str) -> str:
    """Return the BLAKE2b digest of a file's content, 32 hexadecimal digits.

    Raises:
        DataError: The file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Check its permissions and the disk.") from error
    return digest.hexdigest()


def count_clipped(samples: Frames) -> int:
    """Return the number of samples that exceed full scale or are flat at full scale.

    Three equal samples in a row at full scale count, because no sound wave has a flat peak.

    Args:
        samples: Audio, [samples] or [samples, channels]; full scale is 1.
    """
    loud = np.abs(samples)
    flat = (loud[1:] >= 0.99) & (samples[1:] == samples[:-1])
    return int((loud > 1).sum()) + int((flat[1:] & flat[:-1]).sum())


def sound_share(audio: Frames, sample_rate: int) -> float:
    """Return the share of a recording, from 0 to 1, that is within 26 dB of its loudest moment.

    Args:
        audio: Mono audio, [samples].
        sample_rate: Sample rate in Hz.
    """
    return _sound([window_levels(audio, sample_rate // _WINDOWS_PER_SECOND)])


def describe_sound(share: float) -> str:
    """Return a clause for messages that says what share of a recording, from 0 to 1, contains sound."""
    return f"{share:.0%} of the recording is within {_SOUND_BELOW_LOUDEST_DB} dB of its loudest moment"


def window_levels(mono: Frames, window: int) -> Frames:
    """Return half the range of the samples in each complete window."""
    windows = mono[: len(mono) // window * window].reshape(-1, window)
    return np.ptp(windows, axis=1) / 2


def _sound(levels: Sequence[Frames]) -> float:
    """Return the share of windows that contain sound; `levels` has one array of window levels per block."""
    joined = np.concatenate(levels)
    loudest = joined.max(initial=0)
    if not len(joined):
        return 1.0
    return float((joined > loudest * 10 ** (-_SOUND_BELOW_LOUDEST_DB / 20)).mean())


def require_complete(path: Path | str, *, declared: int | None, read: int) -> None:
    """Raise DataError if the file has fewer samples than its header declares."""
    if declared is not None and read != declared:
        raise DataError(
            f"{path} is truncated: its header declares {declared:,} samples, but the file has {read:,}. Copy it again, "
            "or export it again from its source."
        )
