"""Read the declared size of the audio in formats used by samplers, sound cards and MATLAB.

libsndfile ignores the declared size and reads these files to the end.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

#: Bytes per sample, keyed by the data type digit of a MAT4 matrix.
_MAT4_BYTES = (8, 4, 4, 2, 2, 1)


def declared_audio(file: BinaryIO, head: bytes, total: int) -> tuple[int, int] | None:
    """Return the declared offset and size, in bytes, of a file's audio, or None if the file is in a different format.

    Args:
        file: Open file.
        head: First 64 bytes of the file.
        total: Size of the file in bytes.
    """
    if head[:20] == b"Creative Voice File\x1a":
        return _voc(file, head, total)
    if head[:4] == b"2BIT":
        stereo, bits, frames = *struct.unpack(">HH", head[12:16]), int.from_bytes(head[26:30], "big")
        return 128, frames * bits // 8 * (2 if stereo else 1)
    if head[:2] == b"\x01\x04" and len(head) == 64 and head[21] < 2 and head[42:44] == b"\0\0":
        return 42, 2 * int.from_bytes(head[30:34], "little") * (1 + head[21])
    if head[:14] == b"ALawSoundFile*":
        return 32, int.from_bytes(head[18:22], "big")
    if head[20:30] == b"samplerate":
        return _mat4(file, "<" if head[4] else ">")
    if head[:10] == b"MATLAB 5.0":
        return _mat5(file)
    return None


def _voc(file: BinaryIO, head: bytes, total: int) -> tuple[int, int]:
    """Read a Creative Voice File. Its blocks have a type and a 3-byte size; the last has type 0 and no size."""
    start = position = int.from_bytes(head[20:22], "little")
    while position < total:
        file.seek(position)
        block = file.read(4)
        if not 0 < block[0] < 10:
            break
        position += 4 + int.from_bytes(block[1:], "little")
    return start, position - start


def _mat4(file: BinaryIO, order: str) -> tuple[int, int]:
    """Read a MAT4 file, which has two matrices: the sample rate, and the samples as channels × frames."""
    start = size = 0
    for _ in range(2):
        file.seek(start + size)
        kind, rows, columns, _, name = struct.unpack(order + "5I", file.read(20).ljust(20, b"\0"))
        start, size = start + size + 20 + name, rows * columns * _MAT4_BYTES[min(kind // 10 % 10, 5)]
    return start, size


def _mat5(file: BinaryIO) -> tuple[int, int]:
    """Read a MAT5 file: a 128-byte header that ends with the byte order, and two elements with a type and a size."""
    file.seek(126)
    order = "<" if file.read(2) == b"IM" else ">"
    start, size = 128, 0
    for _ in range(2):
        file.seek(start + size)
        start, size = start + size + 8, struct.unpack(order + "4xI", file.read(8).ljust(8, b"\0"))[0]
    return start, size
