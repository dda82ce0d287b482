"""Whether every byte of a file is as it was written: the CRC-32 that torch.save keeps of each record (each tensor).

torch.load does not look at it. Checkpoints of the stock Trainer have it too.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xtts_extend.errors import DamagedError

_LOCAL_HEADER = 30
_BLOCK = 1 << 24
#: More than the two that compute: disks give more when several blocks are asked for at a time.
_THREADS = 4


def require_sound(path: Path) -> None:
    """Read a whole file and compare each record with its checksum.

    Raises:
        DamagedError: a byte was changed, or the file cannot be read; the first damaged record is named.
    """
    try:
        with zipfile.ZipFile(path) as archive, ThreadPoolExecutor(_THREADS) as pool:
            records = archive.infolist()
            sums = list(pool.map(lambda record: _checksum(path, record), records))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error}. Use another file.") from error
    damaged = [record.filename for record, found in zip(records, sums, strict=True) if found != record.CRC]
    if damaged:
        raise DamagedError(
            f"{path} is damaged: {len(damaged)} of {len(records)} records are not what was written (the first: "
            f"{damaged[0]}). Use another file."
        )


class Verification:
    """`require_sound` in the background, while other things are got ready; it also brings the file into memory."""

    def __init__(self, path: Path) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="checksums")
        self._result = pool.submit(require_sound, path)
        pool.shutdown(wait=False)

    def require_sound(self) -> None:
        """Wait for the end of it.

        Raises:
            DamagedError: the file is damaged.
        """
        self._result.result()


def _checksum(path: Path, record: zipfile.ZipInfo) -> int:
    """CRC-32 of a stored record; torch.save compresses nothing."""
    with path.open("rb", buffering=0) as file:
        file.seek(record.header_offset)
        header = file.read(_LOCAL_HEADER)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        file.seek(names, os.SEEK_CUR)
        checksum, left = 0, record.file_size
        while left and (block := file.read(min(_BLOCK, left))):
            checksum = zlib.crc32(block, checksum)
            left -= len(block)
    if left or record.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"record {record.filename} is not where the archive says")
    return checksum
