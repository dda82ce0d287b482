"""Listings of folders: what can be used, and why the rest cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file or folder of a project.

    Attributes:
        name: Path relative to the listed folder, with slashes.
        path: Absolute path.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Listing:
    """Entries of a folder, sorted by name, and a sentence for each entry that cannot be used.

    Attributes:
        entries: Entries that can be used.
        skipped: Why each of the other entries cannot be used.
    """

    entries: list[Entry] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def list_folder(folder: Path, check: Callable[[Path], str | None], prefix: str = "") -> Listing:
    """List a folder.

    Args:
        folder: Folder to list. Hidden entries are left out.
        check: Returns an empty string for a usable entry, the reason for an unusable one, None for one to ignore.
        prefix: Prefix of the entries' names.
    """
    found = Listing()
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        found.skipped.append(f"{folder} cannot be listed: {error.strerror}.")
        return found
    for path in paths:
        try:
            path.name.encode()
            problem = check(path)
            if problem is None and path.is_symlink() and not path.exists():
                problem = "is a broken link"
            elif problem == "" and not os.access(path, os.R_OK):
                problem = "cannot be read: permission denied"
        except UnicodeEncodeError:
            problem = "has a name that is not valid Unicode. Rename it"
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        if problem == "":
            found.entries.append(Entry(prefix + path.name, path))
        elif problem:
            found.skipped.append(f"{ascii(path.name) if 'Unicode' in problem else prefix + path.name} {problem}.")
    return found
