"""Unpack tar and zip archives: nothing outside the target folder, no links or devices, and complete or not at all."""

from __future__ import annotations

import gzip
import logging
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO

from xtts_extend.errors import DataError
from xtts_extend.files import require_space, size_of, write_error
from xtts_extend.progress import with_progress

logger = logging.getLogger("trainer")

_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"
_EMPTY_ZIP = b"PK\x05\x06"
_USTAR_OFFSET, _TAR_BLOCK = 257, 512
#: The first file in a spreadsheet or text document, which are zip archives too.
_OFFICE = "[Content_Types].xml"
#: Files that operating systems add to archives.
_CLUTTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
#: An archive that unpacks to more than this many times its size, and to more than this size, is a zip bomb: audio can
#: hardly be compressed.
_LARGEST_RATIO, _LARGEST_BYTES = 100, 20 << 30
_BLOCK = 1 << 20
_MB = 1_000_000
_LISTED = 10
#: Exceptions raised by reading a damaged, encrypted or unsupported archive.
_DAMAGES = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, NotImplementedError,
    RuntimeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class _Member:
    """A file in an archive.

    Attributes:
        name: Name as stored, for messages.
        size: Size in bytes.
        content: Its bytes.
    """

    name: str
    size: int
    content: IO[bytes]


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or tar archive, compressed with gzip or not.

    Its content decides. Only if that is truncated does the name decide, so that it is reported as a damaged archive.
    """
    name = path.name.lower()
    try:
        with path.open("rb") as file:
            head = file.read(_TAR_BLOCK)
            if head.startswith((_ZIP, _EMPTY_ZIP)):
                is_office = head[30 : 30 + len(_OFFICE)] == _OFFICE.encode()
                return not is_office and (name.endswith(".zip") or zipfile.is_zipfile(file))
            if head.startswith(_GZIP):
                if name.endswith((".tar.gz", ".tgz")):
                    return True
                file.seek(0)
                with gzip.open(file) as unzipped:
                    head = unzipped.read(_TAR_BLOCK)
    # A null character in the path raises ValueError.
    except (OSError, EOFError, zlib.error, ValueError):
        return False
    return head[_USTAR_OFFSET : _USTAR_OFFSET + 5] == b"ustar"


def unpack(archive: Path, target: Path, *, progress: bool = True) -> None:
    """Unpack an archive to a new folder, which appears under its name only when it is complete.

    After an interruption, files that were completely unpacked are not written again. Links and devices are skipped with
    a warning. Files that macOS and Windows add, such as `__MACOSX`, are omitted.

    Args:
        archive: A .zip, .tar, .tar.gz or .tgz archive, recognized by its content.
        target: The folder. If it exists, nothing is done.
        progress: Whether to show progress.

    Raises:
        DataError: The archive is damaged or encrypted, contains no files, or contains a file that would be outside the
            target or that is absurdly large.
        DiskFullError, MachineError: A file cannot be written.
    """
    if target.is_dir():
        return
    partial = target.with_name(f".{target.name}.partial")
    unpacking = _Unpacking(archive, partial)
    total = archive.stat().st_size // _MB
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for _ in with_progress(_each_mb(unpacking.steps()), total, "MB unpacked", progress):
            pass
        if not unpacking.files:
            raise DataError(f"{archive} contains no files. Check that it is the right archive.")
        partial.replace(target)
    except DataError:
        unpacking.remove()
        raise
    except _DAMAGES as error:
        unpacking.remove()
        raise DataError(
            f"{archive} is damaged, incomplete or encrypted: {str(error).rstrip('.') or type(error).__name__}. Copy or "
            "download it again."
        ) from error
    except OSError as error:
        raise write_error(
            f"{archive} could not be unpacked to {partial}",
            error,
            "Free up disk space, or make sure that the folder is writable, then run the command again.",
        ) from error
    unpacking.warn_of_skipped()


def _each_mb(positions: Iterator[int]) -> Iterator[int]:
    """Yield the number of each megabyte that has been reached."""
    done = 0
    for position in positions:
        while done < position // _MB:
            done += 1
            yield done


class _Unpacking:
    """The unpacking of one archive.

    Args:
        archive: The archive.
        folder: Existing folder to unpack to.

    Attributes:
        files: Number of files that were unpacked, now or by an interrupted call.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        self._archive, self._folder = archive, folder
        # Outside the folder, so that it cannot be mistaken for a file of the archive.
        self._unfinished = folder.with_suffix(".file")
        self._size = archive.stat().st_size
        self._unpacked_bytes = self.files = 0
        self._skipped: list[str] = []
        self._written: set[Path] = set()

    def steps(self) -> Iterator[int]:
        """Unpack file by file, and yield how many bytes of the archive have been read."""
        with ExitStack() as stack:
            file = stack.enter_context(self._archive.open("rb"))
            head = file.read(4)
            file.seek(0)
            if head.startswith((_ZIP, _EMPTY_ZIP)):
                yield from self._unzip(stack.enter_context(zipfile.ZipFile(file)))
            else:
                stream = stack.enter_context(gzip.open(file)) if head.startswith(_GZIP) else file
                for _ in self._untar(stream):
                    yield file.tell()
                yield from self._finish(stream, file)

    def remove(self) -> None:
        """Remove what was unpacked."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._unfinished.unlink(missing_ok=True)

    def warn_of_skipped(self) -> None:
        """Log the links and devices that were not unpacked."""
        if self._skipped:
            more = f" and {len(self._skipped) - _LISTED:,} more" if len(self._skipped) > _LISTED else ""
            names = ", ".join(self._skipped[:_LISTED])
            logger.warning(" ! %s: Links and devices are not unpacked: %s%s.", self._archive, names, more)

    def _unzip(self, archive: zipfile.ZipFile) -> Iterator[int]:
        members = [member for member in archive.infolist() if not member.is_dir()]
        self._require_sane(sum(member.file_size for member in members))
        read = 0
        for member in members:
            name = _zip_name(member)
            read += member.compress_size
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                self._skipped.append(name)
                continue
            with archive.open(member) as content:
                self._write(_Member(name, member.file_size, content))
            yield read

    def _untar(self, stream: BufferedIOBase) -> Iterator[None]:
        # As a stream, because seeking back in gzip would decompress everything again.
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                # Otherwise, the list of members would grow without limit.
                archive.members = []  # type: ignore[attr-defined]
                if entry.isdir():
                    continue
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is None:
                    self._skipped.append(entry.name)
                    continue
                self._require_sane(self._unpacked_bytes + entry.size, entry.name)
                self._write(_Member(entry.name, entry.size, content))
                yield

    def _finish(self, stream: BufferedIOBase, file: IO[bytes]) -> Iterator[int]:
        """Read the rest, in which a truncated archive or a wrong checksum shows."""
        if isinstance(stream, gzip.GzipFile):
            while stream.read(_BLOCK):
                yield file.tell()
            return
        file.seek(-min(_TAR_BLOCK, self._size), os.SEEK_END)
        if any(file.read()):
            raise tarfile.ReadError("the end-of-archive marker is missing")

    def _require_sane(self, total: int, name: str | None = None) -> None:
        """Raise an error if the contents, in bytes, are out of proportion or do not fit on the disk."""
        what = f"{self._archive}{f' (at {name!r})' if name else ''}"
        if total > max(_LARGEST_RATIO * self._size, _LARGEST_BYTES):
            raise DataError(
                f"{what} has {self._size / 1e9:,.3g} GB and would unpack to at least {total / 1e9:,.3g} GB, which no "
                "archive of recordings does. Check where it comes from."
            )
        # A resumed unpacking already takes some of the space.
        needed = total - self._unpacked_bytes if name else total - size_of(self._folder)
        require_space(self._folder, needed, what)

    def _write(self, member: _Member) -> None:
        self._unpacked_bytes += member.size
        parts = _safe_parts(member.name, self._archive)
        if not parts or any(part in _CLUTTER or part.startswith("._") for part in parts):
            return
        self.files += 1
        path = self._folder.joinpath(*parts)
        # In a tar archive, a later file replaces an earlier one of the same name.
        if path not in self._written and path.is_file() and path.stat().st_size == member.size:
            self._written.add(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._unfinished.open("wb") as file:
            shutil.copyfileobj(member.content, file, _BLOCK)
            written = file.tell()
        if written != member.size:
            raise EOFError(f"{member.name} has {written:,} bytes; expected {member.size:,}")
        self._unfinished.replace(path)
        self._written.add(path)


def _safe_parts(name: str, archive: Path) -> tuple[str, ...]:
    """Return the parts of a member's path.

    Raises:
        DataError: The path is absolute, leads out of the folder, or cannot be a path.
    """
    plain = name.replace("\\", "/")
    parts = tuple(part for part in PurePosixPath(plain).parts if part != ".")
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in parts or "\0" in name:
        raise DataError(
            f"{archive} contains {name!r}, which would be written outside its folder. Nothing of it is used. Check "
            "where the archive comes from."
        )
    return parts


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Return a member's name. Many programs write UTF-8 without setting its flag."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename
