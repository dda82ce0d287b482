"""Whether every byte of a file is as it was written: the CRC-32 that torch.save keeps of each record (each tensor).

torch.load does not look at it. Checkpoints of the stock Trainer have it too.
"""

from __future__ import annotations

import mmap
import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xtts_extend.errors import CheckpointError

_LOCAL_HEADER = 30


def require_sound(path: Path) -> None:
    """Read a whole file on all cores and compare each record with its checksum.

    Raises:
        CheckpointError: a byte was changed, or the file cannot be read; the first damaged record is named.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
            sums = list(pool.map(lambda record: _checksum(view, record), records))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Use another file.") from error
    damaged = [record.filename for record, found in zip(records, sums, strict=True) if found != record.CRC]
    if damaged:
        raise CheckpointError(
            f"{path} is damaged: {len(damaged)} of {len(records)} records are not what was written (the first: "
            f"{damaged[0]}). Use another file."
        )


def _checksum(content: memoryview, record: zipfile.ZipInfo) -> int:
    """CRC-32 of a stored record; torch.save compresses nothing."""
    names = record.header_offset + _LOCAL_HEADER
    lengths = content[names - 4 : names]
    start = names + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
    with content[start : start + record.file_size] as stored:
        if record.compress_type != zipfile.ZIP_STORED or len(stored) < record.file_size:
            raise ValueError(f"record {record.filename} is not where the archive says")
        return zlib.crc32(stored)
