"""Locate the recording between the tags of a file, and read parts of a file as if they were a separate file.

Music players put tags before and after the recording, in any container. Most decoders recognize only some of them and
treat the others as damaged audio.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Offsets of the first byte and of the byte after the last one.
Span: TypeAlias = tuple[int, int]


class Spans(io.RawIOBase):
    """A read-only file that consists of parts of another open file."""

    def __init__(self, file: BinaryIO, spans: Sequence[Span]) -> None:
        self._file, self._spans, self._position = file, spans, 0
        self._starts = [0, *accumulate(end - start for start, end in spans)]
        self.size = self._starts[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._position >= self.size:
            return 0
        index = bisect_right(self._starts, self._position) - 1
        remaining = self._starts[index + 1] - self._position
        self._file.seek(self._spans[index][1] - remaining)
        content = self._file.read(min(remaining, memoryview(buffer).nbytes))
        memoryview(buffer)[: len(content)] = content
        self._position += len(content)
        return len(content)


def content_span(file: BinaryIO, total: int) -> Span:
    """Return the span of a file's content, without ID3, APE and Lyrics3 tags; `total` is its size in bytes."""
    start, end = 0, total
    while size := id3_size(_read_at(file, start, 10)):
        start += size
    if start > total:
        return 0, total
    while (size := _tag_before(file, end)) and end - size >= start:
        end -= size
    return start, end


def id3_size(head: bytes) -> int:
    """Return the size in bytes of the ID3v2 tag that begins with these ten bytes, or 0 if there is none."""
    if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF:
        return 0
    return 10 + _synchsafe_int(head[6:10]) + 10 * (head[5] >> 4 & 1)


def _tag_before(file: BinaryIO, end: int) -> int:
    """Return the size in bytes of the tag that ends at `end`, or 0 if there is none."""
    tail = _read_at(file, max(end - 128, 0), min(end, 128))
    if len(tail) == 128 and tail.startswith(b"TAG"):
        return 128
    if tail[-32:-24] == b"APETAGEX":
        size, _, flags = struct.unpack("<3I", tail[-20:-8])
        return int(size) + 32 * (flags >> 31)
    if tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
        return int(tail[-15:-9]) + 15
    if tail[-10:-7] == b"3DI":
        return _synchsafe_int(tail[-4:]) + 20
    return 0


def _synchsafe_int(size: bytes) -> int:
    """Decode an integer with seven bits per byte, which ID3 uses so that no byte looks like the start of a frame."""
    return sum((byte & 0x7F) << 7 * index for index, byte in enumerate(reversed(size)))


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
