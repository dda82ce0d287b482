"""Files from a browser → files of a project. What exists is never overwritten, and nothing is written outside."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from xtts_extend.data.paths import AUDIO_SUFFIXES
from xtts_extend.errors import DataError, DiskFullError
from xtts_extend.files import atomic_path
from xtts_extend.page.browser_input import checked_name
from xtts_extend.page.project import DATA, TEXTS, VOICES, Project

#: Folder of uploaded recordings in `DATA`; the reader of manifests looks for recordings there.
_RECORDINGS = "wavs"
#: Files that systems add to archives.
_CLUTTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
_BLOCK = 1 << 20


def store_data(project: Project, files: Iterable[tuple[Path, str]], limit_bytes: int) -> list[str]:
    """Move uploaded manifests and recordings into a project; unpack zip archives.

    Args:
        project: The project.
        files: Path of each uploaded file and its name as the browser gave it.
        limit_bytes: Largest content of an archive.

    Returns:
        The names of the new files, seen from the project's data folder.

    Raises:
        ConfigError: A name cannot be used.
        DataError: A file is of no known kind, exists already, or is a damaged or too large archive.
        DiskFullError, MachineError: A file cannot be written.
    """
    stored = []
    for path, name in files:
        checked_name(name)
        if name.lower().endswith(".zip"):
            stored += _unpack(project.folder / DATA, path, name, limit_bytes)
        else:
            folder = (_RECORDINGS,) if _is_audio(name) else ()
            with path.open("rb") as source:
                stored.append(_write(project.folder / DATA, (*folder, name), source))
    return stored


def store_voices(project: Project, files: Iterable[tuple[Path, str]]) -> list[str]:
    """Move uploaded reference recordings into a project, and return their names; raises what `store_data` raises."""
    stored = []
    for path, name in files:
        checked_name(name)
        if not _is_audio(name):
            raise DataError(f"'{name}' is not a recording. Choose a file such as voice.wav.")
        with path.open("rb") as source:
            stored.append(_write(project.folder / VOICES, (name,), source))
    return stored


def _is_audio(name: str) -> bool:
    return Path(name).suffix.lower() in AUDIO_SUFFIXES


def _write(folder: Path, parts: Sequence[str], source: IO[bytes], limit_bytes: int | None = None) -> str:
    """Write one file, and return its name seen from the folder."""
    name = "/".join(parts)
    if not _is_audio(parts[-1]) and Path(parts[-1]).suffix.lower() not in TEXTS:
        raise DataError(
            f"'{name}' is neither a recording nor a table of texts. Upload recordings, tables such as train.csv, or "
            "zip archives of them."
        )
    target = folder.joinpath(*parts)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"'{name}' would be stored outside of the project, because a folder on its way is a link.")
    if target.exists() or target.is_symlink():
        raise DataError(f"'{name}' exists already and is not overwritten. Rename the new file.")
    size = 0
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        while block := source.read(_BLOCK):
            size += len(block)
            if limit_bytes is not None and size > limit_bytes:
                raise DataError(f"'{name}' is larger than its archive says. Make the archive again.")
            file.write(block)
    return name


def _unpack(folder: Path, path: Path, name: str, limit_bytes: int) -> list[str]:
    """Unpack an archive after all of its names and sizes were checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(member, _parts(member, name)) for member in archive.infolist() if not _is_clutter(member)]
            size = sum(member.file_size for member, _ in members)
            if size > limit_bytes:
                raise DataError(
                    f"'{name}' unpacks to {size / 1e9:.1f} GB, and up to {limit_bytes / 1e9:.1f} GB are allowed. Split "
                    f"it, or copy its files into {folder}."
                )
            if size > shutil.disk_usage(folder).free:
                raise DiskFullError(f"'{name}' unpacks to {size / 1e9:.1f} GB, which the disk has no room for.")
            stored = []
            for member, parts in members:
                with archive.open(member) as source:
                    stored.append(_write(folder, parts, source, member.file_size))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"'{name}' is not a zip archive that can be unpacked: {error}. Make it again.") from error
    if not stored:
        raise DataError(f"'{name}' has no files in it.")
    return stored


def _is_clutter(member: zipfile.ZipInfo) -> bool:
    return member.is_dir() or any(part in _CLUTTER for part in member.filename.split("/"))


def _parts(member: zipfile.ZipInfo, archive: str) -> list[str]:
    """Return the checked parts of a member's name."""
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"'{archive}' has a link in it ({member.filename}). Only files are unpacked.")
    return [checked_name(part) for part in member.filename.split("/")]
