"""Detect damaged checkpoints by the CRC-32 checksum that torch.save stores for each record (each tensor).

torch.load does not check these checksums. Checkpoints of the stock Trainer have them too.
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
#: Number of threads. Fewer would be enough for the computation, but disks are faster when several blocks are requested
#: at once.
_THREADS = 4


def require_intact(path: Path) -> None:
    """Read a file to the end and compare each record with its checksum.

    Files written by PyTorch versions before 1.6 have no checksums, so a warning is logged instead.

    Raises:
        DamagedError: A byte was changed, or the file cannot be read. The message names the first damaged record.
    """
    try:
        with path.open("rb") as file:
            if is_legacy(file.read(32)):
                warn_once(
                    f"{path} was written by a PyTorch version older than 1.6, whose format has no checksums. "
                    "Continuing without checking it for damage."
                )
                return
        with zipfile.ZipFile(path) as archive, ThreadPoolExecutor(_THREADS) as pool:
            names = archive.namelist()
            damaged = sorted(itertools.chain(*pool.map(partial(_damaged, path), range(_THREADS))))
    # Damage to the archive's directory can make zipfile raise any of these.
    except (OSError, RuntimeError, ValueError, OverflowError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path} is damaged: {error}. Use a different file.") from error
    if damaged:
        raise DamagedError(
            f"{path} is damaged: checksum mismatch in {len(damaged)} of {len(names)} records (first: "
            f"{names[damaged[0]]}). Use a different file."
        )


def _damaged(path: Path, first: int) -> list[int]:
    """Check every `_THREADS`-th record, starting at `first`, and return the indices of the damaged ones."""
    with zipfile.ZipFile(path) as archive:
        records = list(enumerate(archive.infolist()))[first::_THREADS]
        return [index for index, record in records if not _is_intact(archive, record)]


def _is_intact(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Return whether a record has the length and checksum that the archive's directory lists.

    A compressed record counts as damaged, because torch.save never compresses records.
    """
    if record.compress_type != zipfile.ZIP_STORED:
        return False
    try:
        with archive.open(record) as content:
            return sum(map(len, iter(partial(content.read, _BLOCK), b""))) == record.file_size
    except (zipfile.BadZipFile, EOFError):
        return False
