"""Files appear under their name complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from xtts_extend.errors import MachineError

logger = logging.getLogger("trainer")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` complete and flushed to the disk, or not at all.

    Raises:
        MachineError: the disk is full, or the folder vanished or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write of its zip archive as a RuntimeError whose cause is not kept
        temporary.unlink(missing_ok=True)
        reason = "the disk is full" if getattr(error, "errno", None) == errno.ENOSPC else str(error)
        raise MachineError(
            f"{path} could not be written: {reason}. What was there before is untouched. "
            "Make room or mend the folder, then start the same command again."
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; file systems that cannot (network and FUSE mounts) get a warning."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        logger.warning("%s: the folder's entries cannot be flushed to the disk here (%s).", folder, error.strerror)
    finally:
        os.close(descriptor)
