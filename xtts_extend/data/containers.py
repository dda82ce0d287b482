"""What the frame of an audio file says: whether all of it is there, and what a file is that holds no audio.

Decoders are lenient. libsndfile shortens a truncated file without a word and reads the first of several joined ones;
FFmpeg decodes as far as it gets. The text of a recording would then go on where its audio ends, so the lengths and end
marks of the containers are compared with the file here, without decoding it.
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

# A program that writes to a pipe cannot know the size and leaves a number near 2 or 4 GiB in a header of 32 bits.
_UNKNOWN_SIZE = 0x7FFF0000
_COPY = "Copy or download it again, or write it again from its source."
_CONVERT = "`ffmpeg -i {name} fixed.wav` makes a whole file of it."
#: Sample rates in Hz outside of which no speech is recorded; a header with another one is damaged.
_RATES = range(4_000, 768_001)

#: How far behind the audio another file is looked for.
_LOOK_BEHIND = 1 << 20
#: Bytes that a size may count too many: what stands before the audio, without long chunks of text.
_LONGEST_HEADER = 128
#: How recordings begin, as far as nothing else looks like it.
_ANOTHER = re.compile(
    rb"RIF[FX]....WAVE|(?:RF|BW)64....WAVE|FORM....(?:AIF[FC]|8SVX|16SV)|riff\x2e\x91\xcf\x11|\.snd\x00\x00"
    rb"|caff\x00\x01\x00\x00|\x00\x00\x00.ftyp|fLaC[\x00\x80]\x00\x00\x22|OggS\x00\x02|NIST_1A\n"
    rb"|Creative Voice File\x1a|ALawSoundFile|MATLAB 5\.0|\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    re.DOTALL,
)
#: Beginnings of files that state no size, and how many bytes of them cannot be audio. Decoders read the first of joined
#: ones, or take the next header for audio.
_BEGIN_ONCE = {
    b"TTA1": 6, b"FLV\x01": 9, b"#!AMR": 5, b"MAC ": 6, b"tBaK": 8, b"MPCK": 8, b"MP+": 4, b"DSD ": 12, b"FRM8": 8,
    b"2BIT": 12, b" paf": 12, b"fap ": 12, b"PVF": 16, b"\x64\xa3": 12, b"\0\1\xa3\x64": 12, b"\0\2\xa3\x64": 12,
    b"\xf0\x7e\x00\x01": 8, b"Extended Inst": 64, b"MATLAB 5.0 MAT": 14, b"\0\0\0\0\x01\0\0\0": 30,
    b"\0\0\x03\xe8": 30, b"\x01\x04": 42,
}  # fmt: skip

_RIFF = (b"RIFF", b"RF64", b"RIFX", b"BW64")

#: How files begin that are saved as recordings by mistake, and what to do.
_NO_AUDIO = {
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` where it comes from",
    b"/annex/objects/": "a git-annex pointer; run `git annex get` where it comes from",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x00\x05\x16\x07": "the resource fork of a Mac file, not its sound; leave files that begin with ._ out",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"\x93NUMPY": "a NumPy array; write it as a wav",
    b"MThd": "a MIDI file, which holds notes and no sound",
    b"SQLite format 3": "a database (SQLite)",
    b"PAR1": "a Parquet table; give it as the manifest",
}


@dataclass(frozen=True)
class _Chunk:
    """A named part of a file: where its content starts, and how many bytes the header states."""

    name: bytes
    start: int
    stated: int


def require_whole_container(path: Path | str) -> None:
    """Compare what a file's header states with the file.

    Containers that state nothing pass: their decoder has to know.

    Raises:
        DataError: The file is truncated, several files joined into one, without a part that it needs, unfinished (its
            recorder died), or no audio; the message says which, and what to do.
    """
    try:
        with open(path, "rb") as file:
            span = content_span(file, os.fstat(file.fileno()).st_size)
            content = io.BufferedReader(Spans(file, [span]))
            _check(str(path), content, span[1] - span[0])
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions and its disk.") from error


def _check(path: str, file: BinaryIO, total: int) -> None:
    head = file.read(64)
    if len(head) < 12:
        if head:
            _require_audio_content(path, file, head, total)
        raise DataError(f"{path} cannot be read: it is empty, or nearly so ({total} bytes). {_COPY}")
    for beginning in _magic_numbers(head):
        if (position := _find(file, beginning, 1)) is not None:
            raise _joined(path, position)
    if head[:4] in _RIFF:
        _check_riff(path, file, total, head)
    elif head[:4] == b"FORM":
        _check_iff(path, file, total, head)
    elif head[:4] == b"riff" and head[24:28] == b"wave":
        _check_w64(path, file, total)
    elif head[:4] == b"caff":
        _check_caf(path, file, total)
    elif head[:4] in (b".snd", b"dns."):
        start, stated = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
        _require_audio(path, file, total, _Chunk(b"audio", start, stated))
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
    elif (stated_bytes := declared_audio(file, head, total)) is not None:
        _require_audio(path, file, total, _Chunk(b"audio", *stated_bytes))
    else:
        _require_audio_content(path, file, head, total)


def require_plausible_rate(path: Path | str, sample_rate: int) -> None:
    """Raise DataError for a sample rate in Hz that no recording of speech has."""
    if sample_rate not in _RATES:
        raise DataError(
            f"{path} cannot be read: its header says {sample_rate} Hz, expected {_RATES.start} to {_RATES.stop - 1}. "
            "Write it again from its source, with the right sample rate."
        )


def _truncated(path: str, stated: int, held: int) -> DataError:
    return DataError(f"{path} is truncated: its header promises {stated} bytes of audio, it holds {held}. {_COPY}")


def _chunks(
    file: BinaryIO, total: int, position: int, layout: struct.Struct, *, pad: int, inclusive: bool = False
) -> Iterator[_Chunk]:
    """The chunks of a file from `position` on: a name and a size, which includes both of them if `inclusive`."""
    while position + layout.size <= total:
        file.seek(position)
        name, size = layout.unpack(file.read(layout.size))
        stated = size - layout.size if inclusive else size
        position += layout.size
        yield _Chunk(name, position, stated)
        if stated < 0:
            return
        position += stated + -stated % pad


def _require_audio(path: str, file: BinaryIO, total: int, chunk: _Chunk, unknown: int = _UNKNOWN_SIZE) -> None:
    """Compare the chunk that holds the audio with the file, and look at what follows it."""
    held = total - chunk.start
    if chunk.stated < 0 or chunk.stated >= unknown:
        if (position := _find(file, b"WAVEfmt ", chunk.start)) is not None:
            raise _joined(path, position - 8)
        return
    # some writers count the header as well, or have a byte less than they say
    if chunk.stated - held > min(chunk.start, _LONGEST_HEADER):
        raise _truncated(path, chunk.stated, max(held, 0))
    follows, left = _require_single_recording(path, file, chunk.start + chunk.stated)[:9], held - chunk.stated
    # a chunk's name is printable; there may be a byte of padding before it
    named = follows[:3] in (b"ID3", b"TAG") or any(
        len(name) == 4 and name.isascii() and name.decode().isprintable() for name in (follows[:4], follows[1:5])
    )
    if left > max(chunk.stated // 10, 64) and not named and (not chunk.stated or follows.strip(b"\0")):
        raise DataError(
            f"{path} is unfinished: its header says {chunk.stated} bytes of audio, and {left} more follow. The "
            f"recorder was stopped before it wrote the size. {_CONVERT.format(name=Path(path).name)}"
        )


def _joined(path: str, position: int) -> DataError:
    return DataError(
        f"{path} is several files joined into one, of which programs play the first alone: another one begins at byte "
        f"{position}. Join recordings with `sox FIRST SECOND JOINED.wav`, or name each of them."
    )


def _magic_numbers(head: bytes) -> list[bytes]:
    """What may not come again in a file that begins so, if it states no size."""
    if head.startswith(b"fLaC"):
        # the marker, and the header of the block that comes first, which may be the last
        return [b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"]
    return [head[:size] for start, size in _BEGIN_ONCE.items() if head.startswith(start)]


def _find(file: BinaryIO, mark: bytes, position: int) -> int | None:
    """Where these bytes are in a file, from `position` on."""
    file.seek(position)
    before = b""
    while block := file.read(_LOOK_BEHIND):
        found = (before + block).find(mark)
        if found >= 0:
            return position - len(before) + found
        position += len(block)
        before = (before + block)[1 - len(mark) :]
    return None


def _require_single_recording(path: str, file: BinaryIO, end: int) -> bytes:
    """What follows the end of the audio, where no other file may begin."""
    file.seek(end)
    behind = file.read(_LOOK_BEHIND)
    if another := _ANOTHER.search(behind):
        raise _joined(path, end + another.start())
    return behind


def _missing_chunk(path: str, name: str, meaning: str) -> DataError:
    return DataError(f"{path} has no {name} chunk, which {meaning}: its header is damaged. {_COPY}")


def _check_riff(path: str, file: BinaryIO, total: int, head: bytes) -> None:
    """WAV, RF64 and BW64, whose sizes of 64 bits are in a chunk of their own, and AVI."""
    order = ">" if head[:4] == b"RIFX" else "<"
    kind = head[8:12]
    stated = struct.unpack(order + "I", head[4:8])[0] if len(head) >= 8 else 0
    if kind == b"AVI " and total - 8 < stated < _UNKNOWN_SIZE:
        raise _truncated(path, stated, total - 8)
    if kind == b"WEBP":
        raise DataError(f"{path} cannot be read: it is a picture (WebP), not a recording. Check the path.")
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
                raise _missing_chunk(path, "fmt", "states the sample rate and format")
            if chunk.stated == 0xFFFFFFFF and long_size is not None:
                # in 64 bits only all ones, or nearly so, are unknown
                _require_audio(path, file, total, _Chunk(b"data", chunk.start, long_size), unknown=1 << 62)
            else:
                _require_audio(path, file, total, chunk)
            return
        file.seek(chunk.start + max(chunk.stated, 0))
        if chunk.stated % 2 and file.read(4) in (b"fmt ", b"data"):
            raise DataError(
                f"{path} is damaged: its {chunk.name.decode('ascii', 'replace')} chunk has {chunk.stated} bytes, and "
                "not the one more that an odd number needs. Programs do not find what follows. Write it again from "
                "its source."
            )
    if not has_format:
        raise _missing_chunk(path, "fmt", "states the sample rate and format")
    raise _missing_chunk(path, "data", "holds the audio")


def _check_iff(path: str, file: BinaryIO, total: int, head: bytes) -> None:
    """AIFF and AIFF-C; 8SVX has another chunk of audio."""
    audio, frames = {b"AIFF": b"SSND", b"AIFC": b"SSND"}.get(head[8:12], b"BODY"), 0
    has_format = audio == b"BODY"
    for chunk in _chunks(file, total, 12, struct.Struct(">4sI"), pad=2):
        if chunk.name == b"COMM":
            file.seek(chunk.start + 2)
            frames, has_format = int.from_bytes(file.read(4), "big"), True
        elif chunk.name == audio:
            # SSND begins with an offset and a block size
            extra = 8 if audio == b"SSND" and chunk.stated >= 8 else 0
            _require_audio(path, file, total, _Chunk(audio, chunk.start + extra, chunk.stated - extra))
            frames = 0
    if not has_format:
        raise _missing_chunk(path, "COMM", "states the sample rate and format")
    if frames:
        raise _missing_chunk(path, "SSND", "holds the audio")


def _check_w64(path: str, file: BinaryIO, total: int) -> None:
    for chunk in _chunks(file, total, 40, struct.Struct("<16sQ"), pad=8, inclusive=True):
        if chunk.name[:4] == b"data":
            content = _Chunk(chunk.name, chunk.start, max(chunk.stated, 0))
            return _require_audio(path, file, total, content, unknown=1 << 62)
    raise _missing_chunk(path, "data", "holds the audio")


def _check_caf(path: str, file: BinaryIO, total: int) -> None:
    for chunk in _chunks(file, total, 8, struct.Struct(">4sq"), pad=1):
        if chunk.name == b"data":
            return _require_audio(path, file, total, chunk, unknown=1 << 62)
    raise _missing_chunk(path, "data", "holds the audio")


def _check_nist(path: str, file: BinaryIO, total: int) -> None:
    """NIST SPHERE: lines of a name, a type and a value, in a header whose size is the second line."""
    file.seek(0)
    lines = file.read(1024).decode("ascii", "replace").split("\n")
    values = {words[0]: words[2] for words in map(str.split, lines[2:]) if len(words) == 3}
    try:
        start = int(lines[1])
        stated = int(values["sample_count"]) * int(values["channel_count"]) * int(values["sample_n_bytes"])
    except (LookupError, ValueError):
        return
    if values.get("sample_coding", "pcm") in ("pcm", "ulaw", "alaw"):
        _require_audio(path, file, total, _Chunk(b"audio", start, stated))


def _check_mp4(path: str, file: BinaryIO, total: int) -> None:
    """MP4, M4A, MOV and 3GP: boxes of a size and a name; without `moov`, nobody knows where the audio is."""
    position, names = 0, set()
    while position + 8 <= total:
        file.seek(position)
        size, name = struct.unpack(">I4s", file.read(8))
        start = 8
        if size == 1:
            size, start = int.from_bytes(file.read(8), "big"), 16
        elif size == 0:
            # to the end of the file
            size = total - position
        if size < start:
            break
        if position + size > total:
            if name.isalnum():
                raise _truncated(path, size - start, total - position - start)
            _require_single_recording(path, file, position)
        if name in (b"ftyp", b"moov") and name in names:
            raise _joined(path, position)
        names.add(name)
        position += size
    if b"moov" not in names:
        raise DataError(
            f"{path} is truncated or unfinished: it has no index (moov), which recorders write at the end. {_COPY}"
        )


def _check_matroska(path: str, file: BinaryIO, total: int) -> None:
    """MKA, MKV and WebM: the segment states its size, unless it was recorded live."""
    file.seek(4)
    size, _ = _ebml_size(file)
    file.seek(size, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return
    size, unknown = _ebml_size(file)
    held = total - file.tell()
    if not unknown and held < size:
        raise _truncated(path, size, held)


def _ebml_size(file: BinaryIO) -> tuple[int, bool]:
    """A number whose first byte says how many bytes it has, and whether it stands for an unknown size."""
    first = (file.read(1) or b"\x01")[0]
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & (0x7F >> (length - 1))]) + file.read(length - 1), "big")
    return value, value == (1 << 7 * length) - 1


def _check_asf(path: str, file: BinaryIO, total: int) -> None:
    """WMA and WMV: objects of a GUID and a size."""
    for chunk in _chunks(file, total, 0, struct.Struct("<16sQ"), pad=1, inclusive=True):
        if chunk.name[:4] == b"6&\xb2u":
            if total - chunk.start < chunk.stated:
                raise _truncated(path, chunk.stated, total - chunk.start)
            _require_single_recording(path, file, chunk.start + chunk.stated)
            return
    raise DataError(f"{path} is truncated: it ends before its audio. {_COPY}")


def _require_audio_content(path: str, file: BinaryIO, head: bytes, total: int) -> None:
    """Name what is no recording: an archive, a picture, a page of text."""
    for start, what in _NO_AUDIO.items():
        if head.startswith(start):
            raise DataError(f"{path} cannot be read: it is {what}, expected audio.")
    if not head.strip(b"\0") and not file.read(1 << 20).strip(b"\0"):
        raise DataError(f"{path} cannot be read: it begins with zeros, as an unfinished download does. {_COPY}")
    file.seek(0)
    if b"\0" in file.read(1 << 20):
        return
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore")
    # a character that the beginning cuts off is left out
    readable = len(text.encode()) >= min(total, 64) - 6
    if readable and text.strip() and all(letter.isprintable() or letter.isspace() for letter in text):
        first = text.strip().splitlines()[0][:50]
        web = text.strip()[:5].lower() in ("<!doc", "<html") or "<head" in text.lower()
        what = "a web page" if web else "text"
        why = "; the download may have failed, or need a login" if web else ""
        raise DataError(f"{path} cannot be read: it is {what} that begins with {first!r}, not audio{why}. {_COPY}")
