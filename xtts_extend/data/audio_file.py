"""Open audio files with libsndfile if it reads them exactly, and with FFmpeg otherwise.

The choice depends only on the file, so every caller gets the same samples.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from xtts_extend.data.containers import require_intact_container, require_plausible_rate
from xtts_extend.data.mp3 import require_all_frames
from xtts_extend.data.spans import Span, Spans, content_span
from xtts_extend.errors import DataError

Frames = npt.NDArray[np.float32]

#: FFmpeg formats that may be opened. Others, such as playlists, would make FFmpeg open other files.
_FFMPEG_FORMATS = (
    "aac,ac3,eac3,adx,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,flac,flv,iff,loas,matroska,mov,mp3,mpc,mpc8,mpeg,"
    "mpegts,nistsphere,ogg,rm,tak,tta,voc,w64,wav,wv"
)
#: Lossless FFmpeg formats that declare the number of samples in the header and store checksums of the data.
_COUNTED_FORMATS = ("ape", "tta", "tak", "wv")
#: Prefixes of the libsndfile subtypes that decode to the same samples after a seek.
_EXACT_SUBTYPES = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW", "ALAC")
#: Minimum total size, in bytes, of the frames in an mp3 file (about two frames). In files of other formats, a
#: smaller number of bytes can look like mp3 frames by chance.
_MIN_MP3_BYTES = 3000
#: libsndfile subtypes and FFmpeg sample formats with more than 16 bits per sample. FFmpeg decodes compressed audio to
#: other floating-point formats, but such audio has no more than 16 exact bits.
_MORE_THAN_16_BITS = (
    "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32", "s32", "s32p", "s64", "s64p", "dbl", "dblp",
)  # fmt: skip
_SKIP_BLOCK_FRAMES = 1 << 16
_AGAIN = "Copy it again, or export it again from its source."


class AudioFile(Protocol):
    """A recording that is open for reading.

    Attributes:
        sample_rate: Sample rate in Hz.
        channels: Number of channels.
        frames: Number of samples per channel declared in the header, or None if it is unknown until the end of the file
            is reached.
        duration_s: Length in seconds that the file declares, which may be inexact, or 0 if it declares none.
        bits: Bits per sample that an integer copy needs: 16, or 24 if the file has more.
    """

    sample_rate: int
    channels: int
    frames: int | None
    duration_s: float
    bits: int

    def read(self, frames: int | None = None) -> Frames:
        """Read up to `frames` frames, or all that remain if it is None, and return them as [frames, channels].

        Raises:
            DataError: The file is damaged or truncated.
        """

    def skip(self, frames: int) -> None:
        """Skip the next `frames` frames."""

    def __enter__(self) -> AudioFile: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_audio(path: Path | str) -> AudioFile:
    """Open a recording. Use the result as a context manager, so that the file is closed.

    Args:
        path: Audio file in a format that libsndfile or FFmpeg reads.

    Raises:
        DataError: The file is missing, damaged, truncated, or not audio, or its sample rate is implausible.
    """
    if not os.path.isfile(path):
        if os.path.isdir(path):
            raise DataError(f"{path} is a folder. Expected an audio file.")
        raise DataError(f"{path}: no such file. Check the path.")
    require_intact_container(path)
    file: AudioFile
    try:
        sound = soundfile.SoundFile(path)
    # soundfile raises TypeError for names that end in .raw, because it expects a sample rate for headerless data.
    except (soundfile.SoundFileError, TypeError) as error:
        file = _FFmpegFile(path, libsndfile_error=str(error).removeprefix(f"Error opening {str(path)!r}: "))
    else:
        if _is_exact(sound):
            file = _SoundFile(path, sound)
        else:
            sound.close()
            file = _FFmpegFile(path)
    try:
        require_plausible_rate(path, file.sample_rate)
    except DataError:
        file.__exit__(None, None, None)
        raise
    return file


def open_own_flac(path: Path | str) -> AudioFile:
    """Open a FLAC file that this package wrote, without the checks of `open_audio`, which read the entire file.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        return _SoundFile(path, soundfile.SoundFile(path))
    except soundfile.SoundFileError as error:
        raise DataError(f"{path} cannot be read ({error}). Delete it and run the command again.") from error


def _is_exact(file: soundfile.SoundFile) -> bool:
    """Return whether libsndfile knows the length of the file and reads the same samples from any position.

    soundfile seeks to the current position after each read, which resets the decoders of mp3, Opus and ADPCM, so that
    the samples that follow differ. It does not seek in formats that do not support seeking (GSM, G.721).
    """
    # A FLAC file that was written to a pipe has no length in its header.
    return file.frames < 1 << 62 and (not file.seekable() or file.subtype.startswith(_EXACT_SUBTYPES))


class _SoundFile:
    """An audio file that libsndfile reads."""

    def __init__(self, path: Path | str, file: soundfile.SoundFile) -> None:
        self._path, self._file = path, file
        self.sample_rate, self.channels = int(file.samplerate), int(file.channels)
        self.frames: int | None = int(file.frames)
        self.duration_s = file.frames / file.samplerate
        self.bits = 24 if file.subtype in _MORE_THAN_16_BITS else 16

    def read(self, frames: int | None = None) -> Frames:
        wanted = int(self._file.frames) if frames is None else frames
        try:
            return self._file.read(wanted, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise DataError(f"{self._path} is damaged or truncated ({error}). {_AGAIN}") from error

    def skip(self, frames: int) -> None:
        if not self._file.seekable():
            self.read(frames)
            return
        try:
            self._file.seek(frames, os.SEEK_CUR)
        except soundfile.SoundFileError as error:
            raise DataError(f"{self._path} is damaged or truncated ({error}). {_AGAIN}") from error

    def __enter__(self) -> _SoundFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


class _FFmpegFile:
    """An audio file that FFmpeg decodes from beginning to end, because FFmpeg cannot seek exactly in all formats."""

    def __init__(self, path: Path | str, libsndfile_error: str = "") -> None:
        """Open the file.

        Args:
            path: Audio file.
            libsndfile_error: Reason why libsndfile could not open the file, to include in the error message.

        Raises:
            DataError: FFmpeg cannot open the file either, or the file has no audio or is a truncated mp3 file.
        """
        # Imported here because most recordings do not need it.
        import av

        self._path, self._errors = path, av.FFmpegError
        # Pass an open file: FFmpeg would treat some paths as URLs and would guess the format from the file extension.
        self._content = open(path, "rb")  # noqa: SIM115
        self._container: Any = None
        try:
            self._container = self._open_content(path)
            stream = self._container.streams.best("audio")
            # A stream with an unknown codec has no sample rate either, so this check comes first.
            if stream is not None and stream.codec_context is None:
                raise DataError(
                    f"{path} cannot be read: its codec is unknown. Convert it to WAV with the program that created it."
                )
            if stream is None or not stream.rate or not stream.channels:
                raise DataError(f"{path} cannot be read: it has no audio track. Check the path, or record it again.")
            stream.codec_context.thread_count = 1
            if self._container.format.name in _COUNTED_FORMATS:
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            # The rate comes from the decoded audio, because an HE-AAC header declares only half the rate.
            self.sample_rate, self.channels = 0, 0
            self._decoded = self._decode(stream)
            self._buffered = next(self._decoded, np.zeros((0, stream.channels), dtype=np.float32))
            self.sample_rate, self.channels = self.sample_rate or stream.rate, self._buffered.shape[1]
        # PyAV raises ValueError if FFmpeg was built without the codec.
        except (av.FFmpegError, ValueError) as error:
            self.__exit__()
            reasons = "; ".join(reason for reason in (libsndfile_error, _reason(error)) if reason)
            raise DataError(
                f"{path} cannot be read: it is not audio in a format that libsndfile or FFmpeg supports, or its header "
                f"is damaged ({reasons}). Copy it again, or convert its source to WAV. If it contains raw samples, add "
                "a header: `ffmpeg -f s16le -ar RATE -ac 1 -i IN OUT.wav`."
            ) from error
        except DataError:
            self.__exit__()
            raise
        counted = self._container.format.name in _COUNTED_FORMATS and stream.duration
        self.frames: int | None = round(stream.duration * stream.time_base * stream.rate) if counted else None
        self.duration_s = (self._container.duration or 0) / av.time_base
        # The format is unknown if no audio could be decoded.
        sample_format = stream.codec_context.format
        self.bits = 24 if sample_format is not None and sample_format.name in _MORE_THAN_16_BITS else 16

    def _open_content(self, path: Path | str) -> Any:
        import av

        try:
            container = self._open([content_span(self._content, os.path.getsize(path))])
            is_mp3 = container.format.name == "mp3"
        except av.FFmpegError:
            # FFmpeg does not recognize an mp3 file that begins with junk.
            frames = require_all_frames(path)
            if sum(end - start for start, end in frames) < _MIN_MP3_BYTES:
                raise
            return self._open(frames)
        if is_mp3 and (frames := require_all_frames(path)):
            # FFmpeg would decode tags and junk around the frames as damaged frames.
            container.close()
            container = self._open(frames)
        return container

    def _open(self, spans: Sequence[Span]) -> Any:
        import av

        options = {"format_whitelist": _FFMPEG_FORMATS}
        return av.open(Spans(self._content, spans), options=options, metadata_errors="ignore")

    def _decode(self, stream: Any) -> Iterator[Frames]:
        import av

        floats = av.AudioResampler(format="fltp")
        try:
            for packet in self._container.demux(stream):
                if packet.is_corrupt:
                    raise DataError(f"{self._path} is damaged or truncated: part of its audio is missing. {_AGAIN}")
                for frame in packet.decode():
                    if not self.sample_rate:
                        self.sample_rate, self.channels = frame.sample_rate, frame.layout.nb_channels
                    if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate, self.channels):
                        raise DataError(
                            f"{self._path} changes format partway through, from {self.sample_rate:,} Hz (number of "
                            f"channels: {self.channels}) to {frame.sample_rate:,} Hz (number of channels: "
                            f"{frame.layout.nb_channels}), so it consists of several files joined into one. "
                            "Convert them to the same format before joining them."
                        )
                    for samples in [frame] if frame.format.name == "fltp" else floats.resample(frame):
                        yield samples.to_ndarray().T
        except self._errors as error:
            raise DataError(f"{self._path} is damaged or truncated ({_reason(error)}). {_AGAIN}") from error

    def read(self, frames: int | None = None) -> Frames:
        blocks, available = [self._buffered], len(self._buffered)
        while frames is None or available < frames:
            block = next(self._decoded, None)
            if block is None:
                break
            blocks.append(block)
            available += len(block)
        joined = np.concatenate(blocks)
        count = available if frames is None else min(frames, available)
        self._buffered = joined[count:]
        return joined[:count]

    def skip(self, frames: int) -> None:
        while frames > 0 and (skipped := len(self.read(min(frames, _SKIP_BLOCK_FRAMES)))):
            frames -= skipped

    def __enter__(self) -> _FFmpegFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._container is not None:
            self._container.close()
        self._content.close()


def _reason(error: Exception) -> str:
    """Return FFmpeg's message without the error number and the file name."""
    return re.sub(r"^\[Errno -?\d+\] |: '[^']*'$", "", str(error)).strip(". ")
