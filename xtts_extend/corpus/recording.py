"""Convert recordings of any format and length to working copies, and read parts of these copies.

A working copy is a mono FLAC file, which can be read exactly from any position. Compressed recordings cannot. All
functions read in blocks, so that memory use does not depend on the length of a recording. The original is only read.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from anyascii import anyascii

from xtts_extend.data.audio import (
    SILENCE_LEVEL,
    can_resample,
    content_digest,
    count_clipped,
    read_blocks,
    read_slice,
    require_complete,
    require_usable,
    resampled_length,
    window_levels,
)
from xtts_extend.data.audio_file import Frames, open_audio, open_own_flac
from xtts_extend.errors import DataError
from xtts_extend.files import atomic_path
from xtts_extend.progress import with_progress

#: Highest sample rate of a working copy in Hz. Speech has nothing above 20 kHz that a model at 24 kHz could learn.
HIGHEST_RATE = 48_000
#: Rates that working copies are resampled to later: of models that recognize speech, and of XTTS.
_LATER_RATES = (16_000, 22_050, 24_000)
_BLOCK_S = 10
_WINDOWS_PER_SECOND = 20
#: Power of a channel, relative to the loudest one, below which it counts as unused: a cable that was not plugged in.
_UNUSED_CHANNEL = 1e-4
#: The mean of n unrelated channels has at least 1/n² of the loudest one's power. Below this share of that, the channels
#: cancel each other, because one of them has the opposite sign.
_CANCELED = 0.8
#: Recordings with less sound than this share of their length count as silent; a few clicks are not speech.
_LITTLE_SOUND = 0.01
_LONGEST_SLUG = 40


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """A recording's format and measurements. Levels refer to the working copy; full scale is 1.

    Attributes:
        digest: BLAKE2b digest of the original file, 32 hexadecimal digits.
        source_rate: Sample rate of the original in Hz.
        channels: Number of channels of the original.
        channel_note: Sentence that says which channels are used and why, or "" if their mean is used.
        sample_rate: Sample rate of the working copy in Hz.
        frames: Number of samples of the working copy.
        level: Half the range of the samples.
        peak: Largest absolute value of a sample.
        clipped: Number of samples beyond or flat at full scale.
        sound_s: Seconds of sound: windows of 50 ms with a level of at least -60 dB.
    """

    digest: str
    source_rate: int
    channels: int
    channel_note: str
    sample_rate: int
    frames: int
    level: float
    peak: float
    clipped: int
    sound_s: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate

    @property
    def is_silent(self) -> bool:
        """Whether at least 99 % of the recording is below -60 dB."""
        return self.sound_s < _LITTLE_SOUND * self.duration_s


def recording_id(path: Path | str, digest: str) -> str:
    """Return a recording's id: its file name in ASCII letters and digits, and the beginning of its digest.

    >>> recording_id("ስብከት 3 [ዓርብ].mp3", "3fa2c1d05b7e9f40")
    'sbket-3-arb-3fa2c1d0'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", anyascii(Path(path).stem).lower())[:_LONGEST_SLUG].strip("-")
    return f"{slug or 'recording'}-{digest[:8]}"


def convert_recording(path: Path | str, flac: Path, progress: bool = True) -> RecordingInfo:
    """Write a recording's working copy and measure it.

    The copy is mono and has the recording's sample rate, unless that is above 48 kHz or so odd that it cannot be
    resampled exactly later; then it has 48 kHz. It has 16 bits, or 24 if the original has more. A recording with
    several channels is decoded twice, because the first pass decides which channels to use: usually their mean, but
    not if a channel is unused or if they cancel each other.

    Args:
        path: Audio file, or video file with an audio track, in a format that libsndfile or FFmpeg reads.
        flac: File to write. It appears when it is complete.
        progress: Whether to show progress on standard error.

    Raises:
        DataError: The recording is missing, empty, damaged, truncated or not audio, has no audio track, or has samples
            that are NaN, infinite or far beyond full scale.
        MachineError: The copy cannot be written.
    """
    digest = content_digest(path) if Path(path).is_file() else ""
    with open_audio(path) as file:
        source_rate, channels, bits = file.sample_rate, file.channels, file.bits
    weights, note = _channel_weights(path, progress) if channels > 1 else (np.ones(1, np.float32), "")
    rate = source_rate
    if rate > HIGHEST_RATE or not all(can_resample(rate, later) for later in _LATER_RATES):
        rate = HIGHEST_RATE
    window = rate // _WINDOWS_PER_SECOND
    lowest, highest, clipped, frames, sound = 0.0, 0.0, 0, 0, 0
    with atomic_path(flac) as temporary, _FlacWriter(temporary, rate, bits) as writer:
        mono = (block @ weights for block in _checked_blocks(path, "converted", progress))
        for block in _even_blocks(_resampled(mono, source_rate, rate), _BLOCK_S * rate):
            frames += len(block)
            lowest, highest = min(lowest, float(block.min())), max(highest, float(block.max()))
            clipped += count_clipped(block)
            sound += int((window_levels(block, window) >= SILENCE_LEVEL).sum())
            writer.write(block)
        if not frames:
            raise DataError(f"{path} has no samples. Record it again, or export it again from its source.")
    return RecordingInfo(
        digest=digest,
        source_rate=source_rate,
        channels=channels,
        channel_note=note,
        sample_rate=rate,
        frames=frames,
        level=(highest - lowest) / 2,
        peak=max(highest, -lowest),
        clipped=clipped,
        sound_s=sound / _WINDOWS_PER_SECOND,
    )


def read_span(flac: Path, start_s: float, end_s: float, sample_rate: int) -> Frames:
    """Read a part of a working copy, without reading the rest.

    Args:
        flac: Working copy.
        start_s: Start of the part in seconds. What lies outside the recording is omitted.
        end_s: End of the part in seconds.
        sample_rate: Sample rate of the result in Hz.

    Returns:
        float32 [samples] in [-1, 1].

    Raises:
        DataError: The file is missing or damaged.
    """
    with open_own_flac(flac) as file:
        length = resampled_length(file.frames or 0, file.sample_rate, sample_rate)
        start = min(max(round(start_s * sample_rate), 0), length)
        end = min(max(round(end_s * sample_rate), start), length)
        if start == end:
            return np.zeros(0, dtype=np.float32)
        return read_slice(file, flac, sample_rate, start, end)[0].numpy()


def stream_copy(flac: Path, sample_rate: int, block_samples: int) -> Iterator[Frames]:
    """Yield a whole working copy in blocks of float32 [block_samples]; the last one may be shorter.

    Args:
        flac: Working copy.
        sample_rate: Sample rate of the blocks in Hz.
        block_samples: Number of samples of a block.

    Raises:
        DataError: The file is missing or damaged.
    """
    with open_own_flac(flac) as file:
        blocks = (block[:, 0] for block in read_blocks(file, _BLOCK_S * file.sample_rate))
        yield from _even_blocks(_resampled(blocks, file.sample_rate, sample_rate), block_samples)


def _checked_blocks(path: Path | str, purpose: str, progress: bool) -> Iterator[Frames]:
    """Yield a recording in blocks of [frames, channels], and raise DataError if it is unusable or truncated."""
    with open_audio(path) as file:
        expected = -(-file.duration_s // _BLOCK_S)
        unit = f"{_BLOCK_S}-second parts of {Path(path).name} {purpose}"
        blocks = with_progress(read_blocks(file, _BLOCK_S * file.sample_rate), int(expected), unit, progress)
        frames = 0
        for block in blocks:
            require_usable(path, block)
            frames += len(block)
            yield block
        require_complete(path, declared=file.frames, read=frames)


def _channel_weights(path: Path | str, progress: bool) -> tuple[Frames, str]:
    """Return each channel's weight in the mono copy, and a sentence that says why unless all have the same."""
    products: npt.NDArray[np.float64] | None = None
    for block in _checked_blocks(path, "compared by channel", progress):
        product = block.astype(np.float64).T @ block
        products = product if products is None else products + product
    if products is None:
        return np.ones(1, np.float32), ""
    powers = products.diagonal()
    loudest = int(powers.argmax())
    used = powers >= _UNUSED_CHANNEL * powers[loudest]
    weights = used / used.sum()
    numbers = " and ".join(str(channel + 1) for channel in np.flatnonzero(used))
    if weights @ products @ weights < _CANCELED * powers[loudest] / used.sum() ** 2:
        only = np.arange(len(powers)) == loudest
        return only.astype(np.float32), (
            f"Only channel {loudest + 1} of {len(powers)} is used, because the channels cancel each other: they have "
            "opposite signs."
        )
    if used.all():
        return weights.astype(np.float32), ""
    return weights.astype(np.float32), (
        f"Only channel{'s' if used.sum() > 1 else ''} {numbers} of {len(powers)} "
        f"{'are' if used.sum() > 1 else 'is'} used, because the rest is silent."
    )


def _resampled(blocks: Iterator[Frames], from_rate: int, to_rate: int) -> Iterator[Frames]:
    """Yield mono blocks at a different sample rate."""
    if from_rate == to_rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block))
    yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _even_blocks(blocks: Iterator[Frames], samples: int) -> Iterator[Frames]:
    """Yield the same samples in blocks of equal length; the last one may be shorter."""
    kept: list[Frames] = []
    available = 0
    for block in blocks:
        kept.append(block)
        available += len(block)
        if available < samples:
            continue
        joined = np.concatenate(kept)
        whole = available // samples * samples
        yield from joined[:whole].reshape(-1, samples)
        kept, available = [joined[whole:]], available - whole
    if available:
        yield np.concatenate(kept)


class _FlacWriter:
    """Writes a mono FLAC file so that integer samples of the original stay exact.

    All methods raise OSError if the disk is full or the file cannot be written.
    """

    def __init__(self, path: Path, sample_rate: int, bits: int) -> None:
        self._path = path
        self._scale = 1 << bits - 1
        # libsndfile takes 24-bit samples as the upper bits of 32-bit integers.
        self._type, self._shift = (np.int16, 0) if bits == 16 else (np.int32, 8)
        self._frames = 0
        try:
            self._file = soundfile.SoundFile(path, "w", sample_rate, channels=1, format="FLAC", subtype=f"PCM_{bits}")
        except soundfile.SoundFileError as error:
            raise self._failure(str(error)) from error

    def write(self, mono: Frames) -> None:
        """Append samples in [-1, 1]; values outside are clipped."""
        scaled = np.rint(mono.astype(np.float64) * self._scale).clip(-self._scale, self._scale - 1)
        try:
            self._file.write(scaled.astype(self._type) << self._shift)
        except soundfile.SoundFileError as error:
            raise self._failure(str(error)) from error
        self._frames += len(mono)

    def __enter__(self) -> _FlacWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        # libsndfile does not report a failure to write the last samples, which happens when it closes the file.
        if exception[0] is None and self._frames and not self._is_complete():
            raise self._failure("the last samples are missing")

    def _is_complete(self) -> bool:
        try:
            with soundfile.SoundFile(self._path) as file:
                file.seek(self._frames - 1)
                return len(file.read(2)) == 1
        except soundfile.SoundFileError:
            return False

    def _failure(self, reason: str) -> OSError:
        """Return the likely reason, which libsndfile does not say."""
        is_full = shutil.disk_usage(self._path.parent).free < 1 << 20
        return OSError(errno.ENOSPC if is_full else errno.EIO, reason)
