"""Write files and folders atomically: each appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from filelock import FileLock, Timeout

from xtts_extend.errors import ConfigError, DataError, DiskFullError, MachineError

logger = logging.getLogger("trainer")

#: The Linux ioctl that clones a file by sharing its blocks, on btrfs, XFS and other file systems (linux/fs.h).
_FICLONE = 0x40049409
_COPY_BUFFER_BYTES = 1 << 24
_PROBES, _BETWEEN_PROBES_S = 5, 0.02
#: If several threads probed at the same time, another process might never get the lock.
_one_probe = threading.Lock()


def cache_folder() -> Path:
    """Return this package's folder in the user's cache: `xtts_extend` in $XDG_CACHE_HOME or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xtts_extend"


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file, reading it again only if it has changed since the last call.

    Args:
        path: The file.
        algorithm: Name of the digest in hashlib.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        status = path.stat()
        return _digest(path, algorithm, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, algorithm: str, *identity: int) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes; 0 if there is neither."""
    if path.is_dir():
        return sum(Path(parent, name).stat().st_size for parent, _, names in os.walk(path) for name in names)
    return path.stat().st_size if path.exists() else 0


def write_error(what: str, error: OSError, advice: str) -> MachineError:
    """Return the error for a file that could not be written.

    Args:
        what: What failed, as the beginning of a sentence.
        error: The reason.
        advice: What to do, as sentences.
    """
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full" if is_full else error
    return (DiskFullError if is_full else MachineError)(f"{what}: {reason}. {advice}")


def require_space(folder: Path, size_bytes: int, what: str) -> None:
    """Raise DiskFullError unless there is space for this many bytes on the disk of a folder, which may not exist.

    Args:
        folder: The folder.
        size_bytes: Number of bytes that are still to be written.
        what: What needs the space, for the message.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if size_bytes > (free := shutil.disk_usage(existing).free):
        raise DiskFullError(
            f"{what} needs {size_bytes / 1e9:,.3g} GB more on the disk of {folder}, which has {free / 1e9:,.3g} GB "
            "free. Free up disk space, or use a folder on another disk, then run the command again."
        )


@contextlib.contextmanager
def locked_folder(folder: Path, waiting: str) -> Iterator[None]:
    """Hold the lock of a folder, which is created if needed. If another process holds it, wait.

    Args:
        folder: The folder.
        waiting: What is logged before waiting.

    Raises:
        ConfigError: The folder or one of its parents is a file.
        MachineError: The folder is not writable.
    """
    require_creatable(folder)
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(" > %s", waiting)
            lock.acquire()
    except OSError as error:
        raise MachineError(
            f"Cannot write to {folder}: {error.strerror}. Make the folder writable, or choose a different folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def atomic_path(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`. When the block succeeds, flush the file and rename it to `path`.

    The folder is created if needed.

    Args:
        path: The file to write.
        partial: Temporary path in the same folder that is kept when the block fails, so that a later call can append to
            it. By default, the temporary file is removed.

    Raises:
        ConfigError: `path` is a folder, or one of its parents is a file.
        MachineError: The disk is full, or the folder is not writable.
    """
    require_creatable(path.parent)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; expected a file. Pass the name of a file.")
    temporary = partial or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(
            f"{path} could not be written",
            error,
            "Existing files are unchanged. Free up disk space, or make sure that the folder is writable, then try "
            "again.",
        ) from error
    finally:
        if partial is None:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Work like `atomic_path`, but yield an open binary file."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            yield file
        except RuntimeError as error:
            # With this message, torch reports that writing its zip archive failed, but not why.
            is_full = shutil.disk_usage(path.parent).free < 1 << 20
            raise OSError(errno.ENOSPC if is_full else errno.EIO, str(error)) from error


def append_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Append entries to a file of JSON lines, and flush it to disk. Only one process may append to a file.

    Raises:
        MachineError: The disk is full, or the folder is missing or not writable.
    """
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()
    try:
        with path.open("a+b") as file:
            # A process that was killed while it wrote left half a line.
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                lines = lines if file.read() == b"\n" else b"\n" + lines
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(
            f"{path} could not be written",
            error,
            "Free up disk space, or make sure that the folder is writable, then run the command again.",
        ) from error


def read_appended(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file that `append_lines` wrote. Incomplete lines are skipped.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            yield entry


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` when the block succeeds, and removed otherwise.

    Raises:
        ConfigError: `path` exists and is not an empty folder, or one of its parents is a file.
        MachineError: The folder cannot be created, or the disk is full.
    """
    path = path.absolute()
    require_new_folder(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for sibling in path.parent.iterdir():
            match = re.fullmatch(rf"\.{re.escape(path.name)}\.partial-(\d+)", sibling.name)
            if match and not psutil.pid_exists(int(match.group(1))):
                shutil.rmtree(sibling)
        partial.mkdir()
        yield partial
        partial.replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise MachineError(
            f"{path} could not be written: {reason}. The partial folder was removed. Free up disk space, or choose a "
            "different folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file that other processes may append to as well, and flush it to disk.

    If the file ends in an incomplete line, which a killed process or a full disk left, the new line starts after it.

    Args:
        path: The file, which is created if needed.
        line: The line, without a line break.

    Raises:
        MachineError: The file cannot be written.
    """
    content = line + b"\n"
    try:
        # Each write appends all of its bytes at once, so lines of different processes do not mix.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if size := os.fstat(descriptor).st_size:
                os.lseek(descriptor, size - 1, os.SEEK_SET)
                content = content if os.read(descriptor, 1) == b"\n" else b"\n" + content
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MachineError(
            f"{path} could not be written: {error.strerror}. This change was lost, but earlier ones are intact. Free "
            "disk space, or make the folder writable, then make the change again."
        ) from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, using a copy-on-write clone if the file system supports it.

    Raises:
        OSError: The source cannot be read, or the target cannot be written.
    """
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            # Not available on Windows.
            import fcntl

            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except (ImportError, OSError):
            shutil.copyfileobj(reader, writer, _COPY_BUFFER_BYTES)


def is_locked(path: Path) -> bool:
    """Return whether any process holds a file's `FileLock`. Nothing is created or written.

    A process that tries to acquire the lock during the probe still gets it, because a probe takes microseconds and
    `FileLock` tries again until its timeout.
    """
    try:
        # Opening a named pipe would block.
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        with _one_probe:
            return _is_locked(file)
    finally:
        os.close(file)


def _is_locked(file: int) -> bool:
    """Return whether a file is locked through a different file handle, by briefly taking the lock."""
    if sys.platform == "win32":
        import msvcrt

        # Windows has only exclusive locks here, so another process's probe may be in the way.
        for _ in range(_PROBES):
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(_BETWEEN_PROBES_S)
            else:
                msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
                return False
        return True
    import fcntl

    try:
        # The lock is shared, so that probes do not see each other.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        # Without support for locks in the file system (ENOSYS), `FileLock` creates and removes the file instead.
        return error.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOSYS)
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def require_new_folder(path: Path) -> None:
    """Raise an error if `path` exists and is not an empty folder.

    Raises:
        ConfigError: `path` is a file or a non-empty folder, or one of its parents is a file.
    """
    require_creatable(path.absolute().parent)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path} already exists. Choose a different folder, or remove this one first.")


def require_creatable(folder: Path) -> None:
    """Raise ConfigError if the folder cannot be created because it or one of its parents is a file."""
    for parent in (folder, *folder.parents):
        if parent.exists():
            if not parent.is_dir():
                raise ConfigError(f"{parent} is a file; expected a folder. Choose a different path.")
            return


def _sync_folder(folder: Path) -> None:
    """Flush a rename to disk, or log a warning if the file system cannot do this (network and FUSE mounts)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        logger.warning(" > The directory entries of %s cannot be flushed to disk (%s).", folder, error.strerror)
