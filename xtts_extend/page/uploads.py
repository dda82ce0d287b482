"""Store files from a browser in a project. No file is overwritten, and none is written outside the project."""

from __future__ import annotations

import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from xtts_extend.corpus.sources import RECORDING_SUFFIXES
from xtts_extend.data.paths import AUDIO_SUFFIXES
from xtts_extend.errors import DataError, DiskFullError
from xtts_extend.files import atomic_path
from xtts_extend.page.browser_input import checked_name
from xtts_extend.page.project import DATA, RECORDINGS, TEXTS, VOICES, Project
from xtts_extend.page.sources_view import TEXT_SUFFIXES

#: Folder in `DATA` for uploaded recordings, where the manifest reader looks for them.
_WAVS = "wavs"
#: Files that operating systems add to archives.
_CLUTTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
_BLOCK = 1 << 20
#: Maximum number of files in an archive. Each is flushed to disk, so a larger number would take too long.
_MOST_FILES = 50_000
#: Exceptions raised by reading a damaged, encrypted or unsupported archive.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
)


@dataclass(frozen=True)
class _Place:
    """Where uploaded files are stored.

    Attributes:
        folder: Folder that all files are stored below.
        suffixes: File extensions that are accepted, in lower case.
        expected: What is wrong with other files and what to upload instead, following a file's name.
    """

    folder: Path
    suffixes: Sequence[str]
    expected: str


def store_data(project: Project, files: Iterable[tuple[Path, str]], limit_bytes: int) -> list[str]:
    """Move uploaded manifests and recordings into a project; unpack zip archives.

    Args:
        project: The project.
        files: Path of each uploaded file, and its name in the browser.
        limit_bytes: Maximum size of an archive's contents.

    Returns:
        The names of the new files, relative to the project's data folder.

    Raises:
        ConfigError: A name cannot be used.
        DataError: A file has an unknown type, already exists, or is an archive that is damaged or too large.
        DiskFullError, MachineError: A file cannot be written.
    """
    place = _Place(
        project.folder / DATA,
        (*AUDIO_SUFFIXES, *TEXTS),
        "is neither a recording nor a table of texts. Upload recordings, tables such as train.csv, or zip archives of "
        "them.",
    )
    return _store(place, files, limit_bytes, folder_of_audio=(_WAVS,))


def store_recordings(project: Project, files: Iterable[tuple[Path, str]], limit_bytes: int) -> list[str]:
    """Move uploaded long recordings and their texts into a project; unpack zip archives.

    Returns:
        The names of the new files, relative to the project's folder of recordings.

    Raises the same errors as `store_data`.
    """
    place = _Place(
        project.folder / RECORDINGS,
        (*RECORDING_SUFFIXES, *TEXT_SUFFIXES),
        "is neither a recording nor a text that can belong to one. Upload recordings, subtitles such as talk.srt, "
        "transcripts such as talk.txt, or zip archives of them.",
    )
    return _store(place, files, limit_bytes)


def store_voices(project: Project, files: Iterable[tuple[Path, str]]) -> list[str]:
    """Move uploaded reference recordings into a project, and return their names.

    Raises the same errors as `store_data`.
    """
    place = _Place(project.folder / VOICES, AUDIO_SUFFIXES, "is not a recording. Choose a file such as voice.wav.")
    return _store(place, files, None)


def _store(
    place: _Place, files: Iterable[tuple[Path, str]], limit_bytes: int | None, folder_of_audio: Sequence[str] = ()
) -> list[str]:
    """Move uploaded files to their place, and return their names below its folder.

    Args:
        place: Where they are stored.
        files: Path of each uploaded file, and its name in the browser.
        limit_bytes: Maximum size of an archive's contents; None if archives are not accepted.
        folder_of_audio: Folder for recordings, relative to the place's folder; those in archives keep their own.
    """
    stored = []
    for path, name in files:
        checked_name(name)
        if limit_bytes is not None and name.lower().endswith(".zip"):
            stored += _unpack(place, path, name, limit_bytes)
        else:
            parts = (*folder_of_audio, name) if _is_audio(name) else (name,)
            with _open(path, name) as source:
                _write(_target(place, parts), source)
            stored.append("/".join(parts))
    return stored


def _is_audio(name: str) -> bool:
    return Path(name).suffix.lower() in AUDIO_SUFFIXES


def _target(place: _Place, parts: Sequence[str]) -> Path:
    """Return the path of a new file below a place's folder.

    Raises:
        DataError: It has an unknown type, already exists, or would be outside the folder.
    """
    name = "/".join(parts)
    if Path(name).suffix.lower() not in place.suffixes:
        raise DataError(f"'{name}' {place.expected}")
    target = place.folder.joinpath(*parts)
    if not target.parent.resolve().is_relative_to(place.folder.resolve()):
        raise DataError(f"'{name}' would be stored outside the project, because a folder in its path is a link.")
    if target.exists() or target.is_symlink():
        raise DataError(f"'{name}' already exists and will not be overwritten. Rename the new file.")
    return target


def _open(path: Path, name: str) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"'{name}' can no longer be read: {error.strerror}. Upload it again.") from error


def _write(target: Path, source: IO[bytes]) -> None:
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def _unpack(place: _Place, path: Path, archive_name: str, limit_bytes: int) -> list[str]:
    """Unpack an archive completely or not at all, after checking all of its names and sizes."""
    stored: list[Path] = []
    try:
        with _open(path, archive_name) as file, zipfile.ZipFile(file) as archive:
            members = _members(place, archive, archive_name, limit_bytes)
            for member, target in members.items():
                # No more data is read from a member than the archive says that it contains.
                with archive.open(member) as source:
                    _write(target, source)
                stored.append(target)
    except BaseException as error:
        for target in stored:
            target.unlink(missing_ok=True)
        if isinstance(error, _DAMAGES):
            raise DataError(
                f"'{archive_name}' is not a zip archive that can be unpacked: {error}. Create it again."
            ) from error
        raise
    return [target.relative_to(place.folder).as_posix() for target in stored]


def _members(
    place: _Place, archive: zipfile.ZipFile, archive_name: str, limit_bytes: int
) -> dict[zipfile.ZipInfo, Path]:
    """Return the path of each file in an archive.

    Raises:
        ConfigError: A name cannot be used.
        DataError: There are no files, too many files, two files with the same name, or a file that cannot be stored.
        DiskFullError: The disk does not have enough space for them.
    """
    members = [member for member in archive.infolist() if not _is_clutter(member)]
    if not members:
        raise DataError(f"'{archive_name}' contains no files.")
    if len(members) > _MOST_FILES:
        raise DataError(
            f"'{archive_name}' contains {len(members):,} files, but at most {_MOST_FILES:,} are allowed. Split it, or "
            f"copy its files into {place.folder}."
        )
    size = sum(member.file_size for member in members)
    if size > limit_bytes:
        raise DataError(
            f"'{archive_name}' unpacks to {size / 1e9:.1f} GB, but at most {limit_bytes / 1e9:.1f} GB are allowed. "
            f"Split it, or copy its files into {place.folder}."
        )
    if size > shutil.disk_usage(place.folder).free:
        raise DiskFullError(f"'{archive_name}' unpacks to {size / 1e9:.1f} GB, but the disk has too little free space.")
    targets = {member: _target(place, _parts(member, archive_name)) for member in members}
    # Some file systems ignore case.
    if len({str(target).casefold() for target in targets.values()}) < len(targets):
        raise DataError(f"'{archive_name}' contains several files with the same name. Create it again.")
    return targets


def _is_clutter(member: zipfile.ZipInfo) -> bool:
    return member.is_dir() or any(part in _CLUTTER for part in member.filename.split("/"))


def _parts(member: zipfile.ZipInfo, archive: str) -> list[str]:
    """Return the checked parts of an archive member's name."""
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"'{archive}' contains a symbolic link ({member.filename}). Only regular files are unpacked.")
    return [checked_name(part) for part in member.filename.split("/")]
