"""Check the pages of Ogg files, which contain Opus, Vorbis, FLAC or Speex audio.

Decoders silently skip a damaged page, so the audio after it is played too early.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

from xtts_extend.errors import DataError

_FIRST, _LAST = 2, 4
#: Every byte with its bits reversed, because Ogg computes zlib's CRC-32 with the opposite bit order.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_COPY = "Copy or download it again, or export it again from its source."


def check_ogg(path: str, file: BinaryIO, total: int) -> int:
    """Check every page of an Ogg file and return the byte offset at which the last page ends.

    Args:
        path: Path of the file, for messages.
        file: Open file.
        total: Size of the file in bytes.

    Raises:
        DataError: A page is damaged, the last page of a stream is missing, or several files are joined into one.
    """
    position, in_audio = 0, False
    # Whether the last page of each stream was read.
    ended: dict[bytes, bool] = {}
    while position + 27 <= total:
        file.seek(position)
        header = file.read(27)
        if header[:4] != b"OggS":
            if not all(ended.values()):
                raise DataError(f"{path} is damaged or truncated: no Ogg page begins at byte {position:,}. {_COPY}")
            break
        sizes = file.read(header[26])
        content = file.read(sum(sizes))
        flags, stream, checksum = header[5], header[14:18], header[22:26]
        if flags & _FIRST and in_audio:
            raise DataError(
                f"{path} consists of several files joined into one. Most programs play only the first; another file "
                f"begins at byte {position:,}. Join recordings with `sox FIRST SECOND JOINED.wav`, or list each of "
                "them in the manifest."
            )
        if len(content) == sum(sizes) and _checksum(header[:22] + bytes(4) + header[26:] + sizes + content) != checksum:
            raise DataError(f"{path} is damaged: the Ogg page at byte {position:,} has the wrong checksum. {_COPY}")
        position += 27 + len(sizes) + sum(sizes)
        in_audio = not flags & _FIRST
        ended[stream] = bool(flags & _LAST)
    if position > total or not all(ended.values()):
        raise DataError(f"{path} is truncated: the last page of an Ogg stream is missing. {_COPY}")
    return position


def _checksum(page: bytes) -> bytes:
    """Return the checksum of a page whose checksum bytes are zero: a CRC-32 with initial value 0."""
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return value.to_bytes(4, "big").translate(_REVERSED)
