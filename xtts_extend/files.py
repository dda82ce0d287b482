"""Files and folders appear under their name complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import psutil

from xtts_extend.errors import ConfigError, DiskFullError, MachineError

logger = logging.getLogger("trainer")

#: Linux's request to share a file's blocks, which btrfs, XFS and others understand (linux/fs.h).
_FICLONE = 0x40049409
_BLOCK = 1 << 24


def cache_folder() -> Path:
    """Where the user's machine keeps what can be made again: xtts_extend below $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xtts_extend"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; the file appears under `path` flushed to the disk when the block ends well.

    The folder is made if need be.

    Raises:
        ConfigError: there can be no such file, because a folder has its name or a file that of its folder.
        MachineError: the disk is full, or the folder cannot be written to.
    """
    require_creatable(path.parent)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, and a file was to be written. Give the name of a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (DiskFullError if full else MachineError)(
            f"{path} could not be written: {'the disk is full' if full else error}. What was there before is "
            "untouched. Make room or mend the folder, then start again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """As `atomic_path`, with the file opened."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            yield file
        except RuntimeError as error:
            # torch reports a failed write of its zip archive so, and does not keep the cause
            full = shutil.disk_usage(path.parent).free < 1 << 20
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its name when the block ends well, and is removed otherwise.

    Raises:
        ConfigError: `path` exists and is not an empty folder.
        MachineError: there can be no folder, or no room in it.
    """
    path = path.absolute()
    require_new_folder(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.iterdir():
            found = re.fullmatch(rf"\.{re.escape(path.name)}\.partial-(\d+)", other.name)
            if found and not psutil.pid_exists(int(found.group(1))):
                shutil.rmtree(other)
        partial.mkdir()
        yield partial
        partial.replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise MachineError(
            f"{path} could not be written: {reason}. Nothing is left of it. Make room, or name another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; where the file system can, the copy shares the blocks of the original until one of them changes.

    Raises:
        OSError: of the file system.
    """
    with source.open("rb") as read, target.open("wb") as written:
        try:
            # not on Windows
            import fcntl

            fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
        except (ImportError, OSError):
            shutil.copyfileobj(read, written, _BLOCK)


def require_new_folder(path: Path) -> None:
    """There can be a new folder where nothing is, or an empty folder.

    Raises:
        ConfigError: something is there.
    """
    require_creatable(path.absolute().parent)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path} exists already. Name another folder, or remove this one first.")


def require_creatable(folder: Path) -> None:
    """A folder that does not exist yet can be made unless one of its parents is a file."""
    for parent in (folder, *folder.parents):
        if parent.exists():
            if not parent.is_dir():
                raise ConfigError(f"{parent} is a file, and a folder was expected there. Give another path.")
            return


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; file systems that cannot (network and FUSE mounts) get a warning."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        logger.warning("%s: the folder's entries cannot be flushed to the disk here (%s).", folder, error.strerror)
