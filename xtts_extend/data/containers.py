"""Detect truncated, damaged and joined audio files, and files that are not audio, without decoding them.

Decoders are lenient. libsndfile silently accepts a truncated file and reads only the first of several joined files;
FFmpeg decodes as far as it can. Training would then pair a full text with only part of its audio. This module therefore
compares the lengths and end markers that a container declares with the file's actual content.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xtts_extend.data.ogg import check_ogg
from xtts_extend.data.old_containers import declared_audio
from xtts_extend.data.spans import Spans, content_span
from xtts_extend.errors import DataError

# A program that writes to a pipe does not know the size, so it writes a number near 2 or 4 GiB to a 32-bit field.
_UNKNOWN_SIZE = 0x7FFF0000
_COPY = "Copy or download it again, or export it again from its source."
_REPAIR = "To repair it, run `ffmpeg -i {name} fixed.wav`."
#: Plausible sample rates for speech, in Hz; a header with any other rate is damaged.
_PLAUSIBLE_RATES = range(4_000, 768_001)
#: Number of bytes after the audio in which to search for a second file.
_SEARCH_BYTES = 1 << 20
#: Number of bytes by which a declared size may be too large, because some writers include a header of up to this size.
_LONGEST_HEADER = 128
#: Initial bytes of audio files that are unlikely to occur elsewhere in such a file.
_AUDIO_START = re.compile(
    rb"RIF[FX]....WAVE|(?:RF|BW)64....WAVE|FORM....(?:AIF[FC]|8SVX|16SV)|riff\x2e\x91\xcf\x11|\.snd\x00\x00"
    rb"|caff\x00\x01\x00\x00|\x00\x00\x00.ftyp|fLaC[\x00\x80]\x00\x00\x22|OggS\x00\x02|NIST_1A\n"
    rb"|Creative Voice File\x1a|ALawSoundFile|MATLAB 5\.0|\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    re.DOTALL,
)
#: Magic numbers of formats that do not declare a size, mapped to the number of leading bytes that cannot occur in the
#: audio. If such files are joined, decoders read only the first one, or decode the next file's header as audio.
_MAGIC_NUMBERS = {
    b"TTA1": 6, b"FLV\x01": 9, b"#!AMR": 5, b"MAC ": 6, b"tBaK": 8, b"MPCK": 8, b"MP+": 4, b"DSD ": 12, b"FRM8": 8,
    b"2BIT": 12, b" paf": 12, b"fap ": 12, b"PVF": 16, b"\x64\xa3": 12, b"\0\1\xa3\x64": 12, b"\0\2\xa3\x64": 12,
    b"\xf0\x7e\x00\x01": 8, b"Extended Inst": 64, b"MATLAB 5.0 MAT": 14, b"\0\0\0\0\x01\0\0\0": 30,
    b"\0\0\x03\xe8": 30, b"\x01\x04": 42,
}  # fmt: skip

_RIFF = (b"RIFF", b"RF64", b"RIFX", b"BW64")

#: Initial bytes of non-audio files that end up among recordings, mapped to what they are and what to do about them.
_NOT_AUDIO = {
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` in its repository",
    b"/annex/objects/": "a git-annex pointer; run `git annex get` in its repository",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x00\x05\x16\x07": "the resource fork of a macOS file; omit files whose names begin with ._",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image (PNG)",
    b"\xff\xd8\xff": "an image (JPEG)",
    b"GIF8": "an image (GIF)",
    b"\x93NUMPY": "a NumPy array; write it to a WAV file",
    b"MThd": "a MIDI file, which has notes but no audio",
    b"SQLite format 3": "an SQLite database",
    b"PAR1": "a Parquet table; pass it as the manifest",
}


@dataclass(frozen=True)
class _Chunk:
    """A named part of a file: the offset of its content and the size that its header declares, in bytes."""

    name: bytes
    start: int
    declared: int


def require_intact_container(path: Path | str) -> None:
    """Raise DataError unless a file is as long as its headers declare and contains a single recording.

    Files in formats that do not declare a size pass this check; their decoders have to detect damage.

    Raises:
        DataError: The file is truncated or unfinished (the recorder crashed), consists of several files joined into
            one, lacks a required chunk, or is not audio. The message says which, and how to fix it.
    """
    try:
        with open(path, "rb") as file:
            span = content_span(file, os.fstat(file.fileno()).st_size)
            content = io.BufferedReader(Spans(file, [span]))
            _check(str(path), content, span[1] - span[0])
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions and the disk.") from error


def _check(path: str, file: BinaryIO, total: int) -> None:
    head = file.read(64)
    if len(head) < 12:
        if head:
            _require_audio_content(path, file, head, total)
        raise DataError(f"{path} cannot be read: it is empty or almost empty (size in bytes: {total}). {_COPY}")
    for magic_number in _magic_numbers(head):
        if (position := _find(file, magic_number, 1)) is not None:
            raise _joined_error(path, position)
    if head[:4] in _RIFF:
        _check_riff(path, file, total, head)
    elif head[:4] == b"FORM":
        _check_iff(path, file, total, head)
    elif head[:4] == b"riff" and head[24:28] == b"wave":
        _check_w64(path, file, total)
    elif head[:4] == b"caff":
        _check_caf(path, file, total)
    elif head[:4] in (b".snd", b"dns."):
        start, declared = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
        _require_audio(path, file, total, _Chunk(b"audio", start, declared))
        require_plausible_rate(path, int.from_bytes(head[16:20], "big" if head[:4] == b".snd" else "little"))
    elif head[:7] == b"NIST_1A":
        _check_nist(path, file, total)
    elif head[:4] == b"OggS":
        _require_single_recording(path, file, check_ogg(path, file, total))
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
        _check_mp4(path, file, total)
    elif head[:4] == b"\x1aE\xdf\xa3":
        _check_matroska(path, file, total)
    elif head[:4] == b"0&\xb2u":
        _check_asf(path, file, total)
    elif (declared_bytes := declared_audio(file, head, total)) is not None:
        _require_audio(path, file, total, _Chunk(b"audio", *declared_bytes))
    else:
        _require_audio_content(path, file, head, total)


def begins_like_audio(head: bytes) -> bool:
    """Return whether a file with these first bytes is probably audio or video, in one of the most common formats."""
    is_mpeg_stream = head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G"
    return bool(_AUDIO_START.match(head)) or head.startswith((b"ID3", b"\x1aE\xdf\xa3")) or is_mpeg_stream


def require_plausible_rate(path: Path | str, sample_rate: int) -> None:
    """Raise DataError unless `sample_rate`, in Hz, is plausible for a recording of speech."""
    if sample_rate not in _PLAUSIBLE_RATES:
        raise DataError(
            f"{path} cannot be read: its header declares a sample rate of {sample_rate:,} Hz. Expected "
            f"{_PLAUSIBLE_RATES.start:,} to {_PLAUSIBLE_RATES.stop - 1:,} Hz. Export it again at the correct rate."
        )


def _truncated_error(path: str, declared: int, available: int) -> DataError:
    return DataError(
        f"{path} is truncated: its header declares {declared:,} bytes of audio, but the file has {available:,}. {_COPY}"
    )


def _chunks(
    file: BinaryIO, total: int, position: int, layout: struct.Struct, *, pad: int, inclusive: bool = False
) -> Iterator[_Chunk]:
    """Yield the chunks of a file, starting at `position`; `inclusive` sizes include the name and size fields."""
    while position + layout.size <= total:
        file.seek(position)
        name, size = layout.unpack(file.read(layout.size))
        declared = size - layout.size if inclusive else size
        position += layout.size
        yield _Chunk(name, position, declared)
        if declared < 0:
            return
        position += declared + -declared % pad


def _require_audio(path: str, file: BinaryIO, total: int, chunk: _Chunk, unknown: int = _UNKNOWN_SIZE) -> None:
    """Raise DataError if the audio chunk's size does not match the file, or if another recording follows it."""
    available = total - chunk.start
    if chunk.declared < 0 or chunk.declared >= unknown:
        if (position := _find(file, b"WAVEfmt ", chunk.start)) is not None:
            raise _joined_error(path, position - 8)
        return
    # Some writers include the header in the size, or omit the last byte.
    if chunk.declared - available > min(chunk.start, _LONGEST_HEADER):
        raise _truncated_error(path, chunk.declared, max(available, 0))
    rest = _require_single_recording(path, file, chunk.start + chunk.declared)[:9]
    rest_bytes = available - chunk.declared
    # Chunk names are printable. A padding byte may precede them.
    is_chunk = rest[:3] in (b"ID3", b"TAG") or any(
        len(name) == 4 and name.isascii() and name.decode().isprintable() for name in (rest[:4], rest[1:5])
    )
    if rest_bytes > max(chunk.declared // 10, 64) and not is_chunk and (not chunk.declared or rest.strip(b"\0")):
        raise DataError(
            f"{path} is unfinished: its header declares {chunk.declared:,} bytes of audio, but {rest_bytes:,} more "
            f"follow. The recorder was stopped before it wrote the size. {_REPAIR.format(name=Path(path).name)}"
        )


def _joined_error(path: str, position: int) -> DataError:
    return DataError(
        f"{path} consists of several files joined into one. Most programs play only the first; another file begins at "
        f"byte {position:,}. Join recordings with `sox FIRST SECOND JOINED.wav`, or list each of them in the manifest."
    )


def _magic_numbers(head: bytes) -> list[bytes]:
    """Return the magic numbers that may occur only once in a file with this beginning."""
    if head.startswith(b"fLaC"):
        # The marker and the header of the first metadata block, which may also be the last.
        return [b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"]
    return [head[:size] for start, size in _MAGIC_NUMBERS.items() if head.startswith(start)]


def _find(file: BinaryIO, pattern: bytes, position: int) -> int | None:
    """Return the offset of the first occurrence of `pattern` at or after `position`, or None."""
    file.seek(position)
    overlap = b""
    while block := file.read(_SEARCH_BYTES):
        offset = (overlap + block).find(pattern)
        if offset >= 0:
            return position - len(overlap) + offset
        position += len(block)
        overlap = (overlap + block)[1 - len(pattern) :]
    return None


def _require_single_recording(path: str, file: BinaryIO, end: int) -> bytes:
    """Return the bytes after the end of the audio; raise DataError if another recording begins there."""
    file.seek(end)
    rest = file.read(_SEARCH_BYTES)
    if second := _AUDIO_START.search(rest):
        raise _joined_error(path, end + second.start())
    return rest


def _missing_chunk_error(path: str, name: str, purpose: str) -> DataError:
    return DataError(f"{path} is damaged: its {name} chunk, which {purpose}, is missing. {_COPY}")


def _check_riff(path: str, file: BinaryIO, total: int, head: bytes) -> None:
    """Check WAV, AVI, RF64 and BW64 files. RF64 and BW64 have a separate chunk for 64-bit sizes."""
    order = ">" if head[:4] == b"RIFX" else "<"
    kind = head[8:12]
    declared = struct.unpack(order + "I", head[4:8])[0] if len(head) >= 8 else 0
    if kind == b"AVI " and total - 8 < declared < _UNKNOWN_SIZE:
        raise _truncated_error(path, declared, total - 8)
    if kind == b"WEBP":
        raise DataError(f"{path} cannot be read: expected audio, got an image (WebP). Check the path.")
    if kind != b"WAVE":
        return
    long_size, has_format = None, False
    for chunk in _chunks(file, total, 12, struct.Struct(order + "4sI"), pad=2):
        if chunk.name == b"ds64":
            file.seek(chunk.start + 8)
            long_size = int.from_bytes(file.read(8), "little")
        elif chunk.name == b"fmt ":
            has_format = True
            file.seek(chunk.start + 4)
            require_plausible_rate(path, struct.unpack(order + "I", file.read(4).ljust(4, b"\0"))[0])
        elif chunk.name == b"data":
            if not has_format:
                raise _missing_chunk_error(path, "fmt", "declares the sample rate and format")
            if chunk.declared == 0xFFFFFFFF and long_size is not None:
                # A 64-bit size counts as unknown only if it is at or near the maximum value.
                _require_audio(path, file, total, _Chunk(b"data", chunk.start, long_size), unknown=1 << 62)
            else:
                _require_audio(path, file, total, chunk)
            return
        file.seek(chunk.start + max(chunk.declared, 0))
        if chunk.declared % 2 and file.read(4) in (b"fmt ", b"data"):
            raise DataError(
                f"{path} is damaged: its {chunk.name.decode('ascii', 'replace')} chunk has {chunk.declared} bytes, an "
                "odd number, and the padding byte is missing, so programs cannot find the next chunk. Export it again."
            )
    if not has_format:
        raise _missing_chunk_error(path, "fmt", "declares the sample rate and format")
    raise _missing_chunk_error(path, "data", "contains the audio")


def _check_iff(path: str, file: BinaryIO, total: int, head: bytes) -> None:
    """Check AIFF, AIFF-C and 8SVX files. In 8SVX files, the audio chunk has a different name."""
    audio, frames = {b"AIFF": b"SSND", b"AIFC": b"SSND"}.get(head[8:12], b"BODY"), 0
    has_format = audio == b"BODY"
    for chunk in _chunks(file, total, 12, struct.Struct(">4sI"), pad=2):
        if chunk.name == b"COMM":
            file.seek(chunk.start + 2)
            frames, has_format = int.from_bytes(file.read(4), "big"), True
        elif chunk.name == audio:
            # SSND begins with an offset and a block size.
            extra = 8 if audio == b"SSND" and chunk.declared >= 8 else 0
            _require_audio(path, file, total, _Chunk(audio, chunk.start + extra, chunk.declared - extra))
            frames = 0
    if not has_format:
        raise _missing_chunk_error(path, "COMM", "declares the sample rate and format")
    if frames:
        raise _missing_chunk_error(path, "SSND", "contains the audio")


def _check_w64(path: str, file: BinaryIO, total: int) -> None:
    for chunk in _chunks(file, total, 40, struct.Struct("<16sQ"), pad=8, inclusive=True):
        if chunk.name[:4] == b"data":
            content = _Chunk(chunk.name, chunk.start, max(chunk.declared, 0))
            return _require_audio(path, file, total, content, unknown=1 << 62)
    raise _missing_chunk_error(path, "data", "contains the audio")


def _check_caf(path: str, file: BinaryIO, total: int) -> None:
    for chunk in _chunks(file, total, 8, struct.Struct(">4sq"), pad=1):
        if chunk.name == b"data":
            return _require_audio(path, file, total, chunk, unknown=1 << 62)
    raise _missing_chunk_error(path, "data", "contains the audio")


def _check_nist(path: str, file: BinaryIO, total: int) -> None:
    """Check NIST SPHERE files. Each header line has a name, a type and a value; line 2 gives the header's size."""
    file.seek(0)
    lines = file.read(1024).decode("ascii", "replace").split("\n")
    values = {words[0]: words[2] for words in map(str.split, lines[2:]) if len(words) == 3}
    try:
        start = int(lines[1])
        declared = int(values["sample_count"]) * int(values["channel_count"]) * int(values["sample_n_bytes"])
    except (LookupError, ValueError):
        return
    if values.get("sample_coding", "pcm") in ("pcm", "ulaw", "alaw"):
        _require_audio(path, file, total, _Chunk(b"audio", start, declared))


def _check_mp4(path: str, file: BinaryIO, total: int) -> None:
    """Check MP4, M4A, MOV and 3GP files. They consist of boxes with a size and a name; `moov` is the audio's index."""
    position, names = 0, set()
    while position + 8 <= total:
        file.seek(position)
        size, name = struct.unpack(">I4s", file.read(8))
        start = 8
        if size == 1:
            size, start = int.from_bytes(file.read(8), "big"), 16
        elif size == 0:
            # A size of 0 means that the box extends to the end of the file.
            size = total - position
        if size < start:
            break
        if position + size > total:
            if name.isalnum():
                raise _truncated_error(path, size - start, total - position - start)
            _require_single_recording(path, file, position)
        if name in (b"ftyp", b"moov") and name in names:
            raise _joined_error(path, position)
        names.add(name)
        position += size
    if b"moov" not in names:
        raise DataError(
            f"{path} is truncated or unfinished: it has no index (moov), which recorders write last. {_COPY}"
        )


def _check_matroska(path: str, file: BinaryIO, total: int) -> None:
    """Check MKA, MKV and WebM files. Unless the file was recorded live, its segment declares a size."""
    file.seek(4)
    size, _ = _ebml_size(file)
    file.seek(size, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return
    size, unknown = _ebml_size(file)
    available = total - file.tell()
    if not unknown and available < size:
        raise _truncated_error(path, size, available)


def _ebml_size(file: BinaryIO) -> tuple[int, bool]:
    """Read a variable-length integer, and return it and whether it means that the size is unknown."""
    first = (file.read(1) or b"\x01")[0]
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & (0x7F >> (length - 1))]) + file.read(length - 1), "big")
    return value, value == (1 << 7 * length) - 1


def _check_asf(path: str, file: BinaryIO, total: int) -> None:
    """Check WMA and WMV files, which consist of objects with a GUID and a size."""
    for chunk in _chunks(file, total, 0, struct.Struct("<16sQ"), pad=1, inclusive=True):
        if chunk.name[:4] == b"6&\xb2u":
            if total - chunk.start < chunk.declared:
                raise _truncated_error(path, chunk.declared, total - chunk.start)
            _require_single_recording(path, file, chunk.start + chunk.declared)
            return
    raise DataError(f"{path} is truncated: it ends before its audio begins. {_COPY}")


def _require_audio_content(path: str, file: BinaryIO, head: bytes, total: int) -> None:
    """Raise DataError if the file is an archive, an image, text or null bytes instead of audio."""
    for start, kind in _NOT_AUDIO.items():
        if head.startswith(start):
            raise DataError(f"{path} cannot be read: expected audio, got {kind}.")
    if not head.strip(b"\0") and not file.read(1 << 20).strip(b"\0"):
        raise DataError(f"{path} cannot be read: it begins with null bytes, like an unfinished download. {_COPY}")
    file.seek(0)
    if b"\0" in file.read(1 << 20):
        return
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore")
    # Only the beginning was read, so the last character may be incomplete.
    readable = len(text.encode()) >= min(total, 64) - 6
    if readable and text.strip() and all(letter.isprintable() or letter.isspace() for letter in text):
        first_line = text.strip().splitlines()[0][:50]
        is_web_page = text.strip()[:5].lower() in ("<!doc", "<html") or "<head" in text.lower()
        kind = "a web page" if is_web_page else "text"
        hint = " The download may have failed, or it may require a login." if is_web_page else ""
        raise DataError(
            f"{path} cannot be read: expected audio, got {kind} that begins with {first_line!r}.{hint} {_COPY}"
        )
