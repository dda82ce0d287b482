"""Where the recording lies in its file, and a part of a file read as if it were the whole.

Tags of music players stand before and behind the recording, in any container. Most decoders know only some of them, and
take the others for damaged audio.
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

#: From this byte to before that one.
Span: TypeAlias = tuple[int, int]


class Spans(io.RawIOBase):
    """Parts of an open file, read as one file."""

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
        place = bisect_right(self._starts, self._position) - 1
        left = self._starts[place + 1] - self._position
        self._file.seek(self._spans[place][1] - left)
        content = self._file.read(min(left, memoryview(buffer).nbytes))
        memoryview(buffer)[: len(content)] = content
        self._position += len(content)
        return len(content)


def content_span(file: BinaryIO, total: int) -> Span:
    """Where the content of a file of `total` bytes lies, between ID3, APE and Lyrics3 tags."""
    start, end = 0, total
    while size := id3_size(_at(file, start, 10)):
        start += size
    if start > total:
        return 0, total
    while (size := _tag_before(file, end)) and end - size >= start:
        end -= size
    return start, end


def id3_size(head: bytes) -> int:
    """Bytes of the ID3v2 tag that begins with these ten; 0 if none does."""
    if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF:
        return 0
    return 10 + _seven_bits(head[6:10]) + 10 * (head[5] >> 4 & 1)


def _tag_before(file: BinaryIO, end: int) -> int:
    """Bytes of the tag that ends here; 0 if none does."""
    tail = _at(file, max(end - 128, 0), min(end, 128))
    if len(tail) == 128 and tail.startswith(b"TAG"):
        return 128
    if tail[-32:-24] == b"APETAGEX":
        size, _, flags = struct.unpack("<3I", tail[-20:-8])
        return int(size) + 32 * (flags >> 31)
    if tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
        return int(tail[-15:-9]) + 15
    if tail[-10:-7] == b"3DI":
        return _seven_bits(tail[-4:]) + 20
    return 0


def _seven_bits(size: bytes) -> int:
    """A number whose bytes have seven bits, so that none looks like the beginning of a frame."""
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(size)))


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
