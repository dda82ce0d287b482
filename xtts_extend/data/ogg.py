"""The pages of an Ogg file: Opus, Vorbis, and FLAC or Speex in Ogg.

Decoders skip a damaged page without a word, and what follows is heard too early.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

from xtts_extend.errors import DataError

_FIRST, _LAST = 2, 4
#: Every byte with its bits reversed: the checksum is that of zlib, of bits in the opposite order.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_COPY = "Copy or download it again, or write it again from its source."


def check_ogg(path: str, file: BinaryIO, total: int) -> int:
    """Read every page of a file of `total` bytes, and return where the last one ends.

    Raises:
        DataError: A page is damaged, the one that marks the end is missing, or several files are joined into one.
    """
    position, in_audio = 0, False
    # whether the page that marks the end of a stream was there
    ended: dict[bytes, bool] = {}
    while position + 27 <= total:
        file.seek(position)
        header = file.read(27)
        if header[:4] != b"OggS":
            if not all(ended.values()):
                raise DataError(f"{path} is damaged or truncated: no Ogg page begins at byte {position}. {_COPY}")
            break
        sizes = file.read(header[26])
        content = file.read(sum(sizes))
        flags, stream, checksum = header[5], header[14:18], header[22:26]
        if flags & _FIRST and in_audio:
            raise DataError(
                f"{path} is several files joined into one, of which programs play the first alone: another one begins "
                f"at byte {position}. Join recordings after decoding them, with ffmpeg or sox, or name each of them."
            )
        if len(content) == sum(sizes) and _checksum(header[:22] + bytes(4) + header[26:] + sizes + content) != checksum:
            raise DataError(f"{path} is damaged: the Ogg page at byte {position} does not have its checksum. {_COPY}")
        position += 27 + len(sizes) + sum(sizes)
        in_audio = not flags & _FIRST
        ended[stream] = bool(flags & _LAST)
    if position > total or not all(ended.values()):
        raise DataError(f"{path} is truncated: it ends without the page that marks the end of an Ogg stream. {_COPY}")
    return position


def _checksum(page: bytes) -> bytes:
    """The four bytes of a page's checksum, which were 0 when it was computed: a CRC-32 that begins with 0."""
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return value.to_bytes(4, "big").translate(_REVERSED)
