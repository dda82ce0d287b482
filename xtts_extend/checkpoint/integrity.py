"""Whether every byte of a file is as it was written: the CRC-32 that torch.save keeps of each record (each tensor).

torch.load does not look at it. Checkpoints of the stock Trainer have it too.
"""

from __future__ import annotations

import itertools
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from xtts_extend.checkpoint.formats import is_legacy
from xtts_extend.errors import DamagedError
from xtts_extend.notices import warn_once

_BLOCK = 1 << 20
#: More than the two that compute: disks give more when several blocks are asked for at a time.
_THREADS = 4


def require_intact(path: Path) -> None:
    """Read a whole file and compare each record with its checksum. A file of torch before 1.6 has none, which is said.

    Raises:
        DamagedError: a byte was changed, or the file cannot be read; the first damaged record is named.
    """
    try:
        with path.open("rb") as file:
            if is_legacy(file.read(32)):
                warn_once(
                    f"{path} is in the format of torch before 1.6, which keeps no checksums: whether its bytes are as "
                    "they were written is not known."
                )
                return
        with zipfile.ZipFile(path) as archive, ThreadPoolExecutor(_THREADS) as pool:
            names = archive.namelist()
            damaged = sorted(itertools.chain(*pool.map(partial(_damaged, path), range(_THREADS))))
    # a changed byte in the archive's directory can ask zipfile for anything
    except (OSError, RuntimeError, ValueError, OverflowError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path} is damaged: {error}. Use another file.") from error
    if damaged:
        raise DamagedError(
            f"{path} is damaged: {len(damaged)} of {len(names)} records are not what was written (the first: "
            f"{names[damaged[0]]}). Use another file."
        )


def _damaged(path: Path, first: int) -> list[int]:
    """The places of damaged records among all, of every `_THREADS`-th one; a thread has the file open for itself."""
    with zipfile.ZipFile(path) as archive:
        records = list(enumerate(archive.infolist()))[first::_THREADS]
        return [place for place, record in records if not _is_intact(archive, record)]


def _is_intact(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Whether a record's bytes have the length and the checksum of the directory; torch.save compresses nothing."""
    if record.compress_type != zipfile.ZIP_STORED:
        return False
    try:
        with archive.open(record) as content:
            return sum(map(len, iter(partial(content.read, _BLOCK), b""))) == record.file_size
    except (zipfile.BadZipFile, EOFError):
        return False
