"""Recordings as frames of samples, whichever library reads them: libsndfile what it reads exactly, FFmpeg the rest.

Which one reads a file depends on the file alone, so that all who read it get the same samples.
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

from xtts_extend.data.containers import require_plausible_rate, require_whole_container
from xtts_extend.data.mp3 import require_all_frames
from xtts_extend.data.spans import Span, Spans, content_span
from xtts_extend.errors import DataError

Frames = npt.NDArray[np.float32]

#: What FFmpeg may take a file for: formats with audio. Others open further files, playlists for example.
_FFMPEG_FORMATS = (
    "aac,ac3,eac3,adx,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,flac,flv,iff,loas,matroska,mov,mp3,mpc,mpc8,mpeg,"
    "mpegts,nistsphere,ogg,rm,tak,tta,voc,w64,wav,wv"
)
#: Of them, those without loss, whose header states how many samples there are, and which have checksums.
_COUNTED = ("ape", "tta", "tak", "wv")
_EXACT = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW", "ALAC")
#: Bytes of frames of an mp3 that no other file has by chance: those of two.
_NO_CHANCE = 3000
_SKIPPED_AT_ONCE = 1 << 16
_AGAIN = "Copy it again, or write it again from its source."


class AudioFile(Protocol):
    """An open recording.

    Attributes:
        sample_rate: In Hz.
        channels: How many.
        frames: Samples per channel as the header promises them, None where nobody knows before the end.
    """

    sample_rate: int
    channels: int
    frames: int | None

    def read(self, frames: int | None = None) -> Frames:
        """The next frames, [frames, channels], or all that are left; fewer at the end. DataError when damaged."""

    def skip(self, frames: int) -> None:
        """Leave out the next frames."""

    def __enter__(self) -> AudioFile: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_audio(path: Path | str) -> AudioFile:
    """Open a recording.

    Raises:
        DataError: The file is missing, is no recording, is truncated, or has a sample rate that no recording has.
    """
    if not os.path.isfile(path):
        what = "expected a recording, got a folder" if os.path.isdir(path) else "no such file; check the path"
        raise DataError(f"{path}: {what}")
    require_whole_container(path)
    file: AudioFile
    try:
        sound = soundfile.SoundFile(path)
    # soundfile answers a name that ends in .raw with a TypeError: it wants to be told the rate of headerless data.
    except (soundfile.SoundFileError, TypeError) as error:
        file = _FFmpegFile(path, tried=str(error).removeprefix(f"Error opening {str(path)!r}: "))
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


def _is_exact(file: soundfile.SoundFile) -> bool:
    """Whether libsndfile knows how long the file is, and gives the same samples wherever reading begins.

    soundfile seeks after each read, to where it is already. The decoders of mp3, Opus and ADPCM start anew then, and
    their next samples are others. Where nothing can seek (GSM, G.721), it does not try.
    """
    # of a FLAC file that was written to a pipe nobody knows the length
    return file.frames < 1 << 62 and (not file.seekable() or file.subtype.startswith(_EXACT))


class _SoundFile:
    """A file that libsndfile reads."""

    def __init__(self, path: Path | str, file: soundfile.SoundFile) -> None:
        self._path, self._file = path, file
        self.sample_rate, self.channels = int(file.samplerate), int(file.channels)
        self.frames: int | None = int(file.frames)

    def read(self, frames: int | None = None) -> Frames:
        wanted = int(self._file.frames) if frames is None else frames
        try:
            return self._file.read(wanted, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise DataError(f"{self._path} is damaged or truncated: {error}") from error

    def skip(self, frames: int) -> None:
        if not self._file.seekable():
            self.read(frames)
            return
        try:
            self._file.seek(frames, os.SEEK_CUR)
        except soundfile.SoundFileError as error:
            raise DataError(f"{self._path} is damaged or truncated: {error}") from error

    def __enter__(self) -> _SoundFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


class _FFmpegFile:
    """A file that FFmpeg reads, from its beginning to its end: where it seeks to is not exact in all formats."""

    def __init__(self, path: Path | str, tried: str = "") -> None:
        """Open the file.

        Args:
            path: of the file.
            tried: what libsndfile said of it.

        Raises:
            DataError: FFmpeg does not know it either, it has no audio, or it is a truncated mp3.
        """
        # imported here, because not all recordings need it
        import av

        self._path, self._errors = path, av.FFmpegError
        # an open file: a name could be a protocol's, and its suffix would count
        self._content = open(path, "rb")  # noqa: SIM115
        self._container: Any = None
        try:
            self._container = self._open_content(path)
            stream = self._container.streams.best("audio")
            # of a codec that it does not know a stream has no rate
            if stream is not None and stream.codec_context is None:
                raise DataError(f"{path} cannot be read: its codec is unknown. Convert it to wav where it was made.")
            if stream is None or not stream.rate or not stream.channels:
                raise DataError(f"{path} cannot be read: it has no audio track. Check the path, or record it again.")
            stream.codec_context.thread_count = 1
            if self._container.format.name in _COUNTED:
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            # what comes out decides: of HE-AAC a header states half the rate
            self.sample_rate, self.channels = 0, 0
            self._decoded = self._decode(stream)
            self._waiting = next(self._decoded, np.zeros((0, stream.channels), dtype=np.float32))
            self.sample_rate, self.channels = self.sample_rate or stream.rate, self._waiting.shape[1]
        # a codec that FFmpeg was built without is a ValueError
        except (av.FFmpegError, ValueError) as error:
            self.__exit__()
            reasons = "; ".join(reason for reason in (tried, _reason(error)) if reason)
            raise DataError(
                f"{path} cannot be read: it is not audio in a format that libsndfile or FFmpeg knows, or its header is "
                f"damaged ({reasons}). Copy it again, or convert it to wav from its source. Raw samples need a header: "
                "`ffmpeg -f s16le -ar RATE -ac 1 -i IN OUT.wav`."
            ) from error
        except DataError:
            self.__exit__()
            raise
        counted = self._container.format.name in _COUNTED and stream.duration
        self.frames: int | None = round(stream.duration * stream.time_base * stream.rate) if counted else None

    def _open_content(self, path: Path | str) -> Any:
        import av

        try:
            container = self._open([content_span(self._content, os.path.getsize(path))])
            is_mp3 = container.format.name == "mp3"
        except av.FFmpegError:
            # junk in front of an mp3 hides what it is
            frames = require_all_frames(path)
            if sum(end - start for start, end in frames) < _NO_CHANCE:
                raise
            return self._open(frames)
        if is_mp3 and (frames := require_all_frames(path)):
            # what stands around them would be taken for damaged ones
            container.close()
            container = self._open(frames)
        return container

    def _open(self, spans: Sequence[Span]) -> Any:
        import av

        options = {"format_whitelist": _FFMPEG_FORMATS}
        return av.open(Spans(self._content, spans), options=options, metadata_errors="ignore")

    def _decode(self, stream: Any) -> Iterator[Frames]:
        import av

        # to float samples, of whatever the decoder gives
        floats = av.AudioResampler(format="fltp")
        try:
            for packet in self._container.demux(stream):
                if packet.is_corrupt:
                    raise DataError(f"{self._path} is damaged or truncated: a part of its audio is missing. {_AGAIN}")
                for frame in packet.decode():
                    if not self.sample_rate:
                        self.sample_rate, self.channels = frame.sample_rate, frame.layout.nb_channels
                    if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate, self.channels):
                        raise DataError(
                            f"{self._path} changes from {self.sample_rate} Hz and {self.channels} channels to "
                            f"{frame.sample_rate} Hz and {frame.layout.nb_channels}: it is several files joined into "
                            "one. Convert each of them to the same format before joining them."
                        )
                    for samples in [frame] if frame.format.name == "fltp" else floats.resample(frame):
                        yield samples.to_ndarray().T
        except self._errors as error:
            raise DataError(f"{self._path} is damaged or truncated: {_reason(error)}. {_AGAIN}") from error

    def read(self, frames: int | None = None) -> Frames:
        parts, held = [self._waiting], len(self._waiting)
        while frames is None or held < frames:
            part = next(self._decoded, None)
            if part is None:
                break
            parts.append(part)
            held += len(part)
        joined = np.concatenate(parts)
        count = held if frames is None else min(frames, held)
        self._waiting = joined[count:]
        return joined[:count]

    def skip(self, frames: int) -> None:
        while frames > 0 and (held := len(self.read(min(frames, _SKIPPED_AT_ONCE)))):
            frames -= held

    def __enter__(self) -> _FFmpegFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._container is not None:
            self._container.close()
        self._content.close()


def _reason(error: Exception) -> str:
    """FFmpeg's words, without the function that failed."""
    return re.sub(r"^\[Errno -?\d+\] |: '[^']*'$", "", str(error)).strip(". ")
