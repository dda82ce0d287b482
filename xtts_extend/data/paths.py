"""Find the recordings that a manifest names, even if their paths were written for a different system or tool."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger("trainer")

#: File extensions of recordings. For a name without one, the first that yields an existing file is used.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".aac", ".aif", ".aiff", ".webm", ".wma", ".oga",
    ".mka", ".mkv", ".mov", ".3gp", ".amr", ".au", ".caf", ".w64", ".rf64", ".wave", ".sph",
)  # fmt: skip
#: Folders that are searched for recordings, relative to the manifest.
FOLDERS = ("", "wavs", "wav", "clips", "audio")
_QUOTATION_MARKS = "\"'“”„«»‘’"
_BY_LAST_PARTS = "by the last components of a path that does not exist"


class _Match(NamedTuple):
    """A file, and how its path differs from the name in the manifest."""

    location: str
    differences: tuple[str, ...]


def find_recordings(names: Sequence[str], manifest: Path) -> list[str | None]:
    """Return the paths of recordings, relative to their manifest's folder, or None for each name without a file.

    Each name is first looked up unchanged, in the manifest's folder and in `FOLDERS`. If it is not found, spaces and
    quotation marks around it are removed, backslashes become slashes, case and Unicode normalization are ignored, and
    a file extension is added or replaced. An absolute path is also looked up by its last components, unless two names
    would then resolve to the same file.

    The log says how many paths differ from the names in the manifest, and in what way, and warns about names that share
    a file. Each folder is listed only once, so looking up a name requires no system calls.

    Args:
        names: Names as in the manifest.
        manifest: Path of the manifest.
    """
    finder = _Finder(os.path.dirname(os.path.abspath(manifest)))
    locations: list[str | None] = []
    inexact: Counter[tuple[str, ...]] = Counter()
    by_last_parts: dict[int, tuple[str, ...]] = {}
    for index, name in enumerate(names):
        match = finder.find(name)
        locations.append(match and match.location)
        if match is not None and match.differences:
            inexact[match.differences] += 1
            if _BY_LAST_PARTS in match.differences:
                by_last_parts[index] = match.differences
    if by_last_parts:
        owners = Counter(location for location, _ in set(zip(locations, names, strict=True)))
        for index, differences in by_last_parts.items():
            if owners[locations[index]] > 1:
                locations[index] = None
                inexact[differences] -= 1
    if inexact:
        _warn_of_shared(names, locations, manifest)
    counts: Counter[str] = Counter()
    for differences, count in inexact.items():
        counts.update(dict.fromkeys(differences, count))
    if summary := ", ".join(f"{count} {difference}" for difference, count in counts.most_common() if count):
        logger.info(" > %s: Found recordings whose paths differ from those in the manifest: %s.", manifest, summary)
    return locations


def _warn_of_shared(names: Sequence[str], locations: Sequence[str | None], manifest: Path) -> None:
    """Warn about different names that resolve to the same file."""
    repeated = {location for location, count in Counter(locations).items() if count > 1 and location is not None}
    owners: dict[str, dict[str, None]] = defaultdict(dict)
    for name, location in zip(names, locations, strict=True) if repeated else ():
        if location in repeated:
            owners[location][name] = None
    shared = [
        f"{' and '.join(map(repr, aliases))} ({location})" for location, aliases in owners.items() if len(aliases) > 1
    ]
    if shared:
        more = f", and {len(shared) - 5} more" if len(shared) > 5 else ""
        logger.warning(
            " ! %s: Different names resolve to the same file: %s%s. If they are different recordings, add the missing "
            "files or correct the names.",
            manifest,
            ", ".join(shared[:5]),
            more,
        )


def any_exists(names: Sequence[str], manifest: Path) -> bool:
    """Return whether the recording of at least one name exists.

    Args:
        names: Names as in the manifest.
        manifest: Path of the manifest.
    """
    finder = _Finder(os.path.dirname(os.path.abspath(manifest)))
    return any(finder.find(name) is not None for name in names)


def describe_search(name: str, manifest: str) -> str:
    """Describe where a name was looked up, as an example to show when all of a manifest's recordings are missing.

    Args:
        name: Name as in the manifest.
        manifest: Absolute path of the manifest.
    """
    return (
        f"For example, {name!r} was not found in {os.path.dirname(manifest)} or in its subfolders "
        f"({', '.join(FOLDERS[1:])}). The search tried the name without a file extension and with every extension from "
        f"{AUDIO_SUFFIXES[0]} to {AUDIO_SUFFIXES[-1]}, treated backslashes as slashes, and ignored case, quotation "
        "marks and differences in Unicode normalization. Put the recordings in one of these folders, or correct the "
        "names."
    )


class _Folder:
    """The files and subfolders in a folder. Both are empty if the folder does not exist."""

    def __init__(self, path: str) -> None:
        self.files: set[str] = set()
        self.folders: dict[str, list[str]] = defaultdict(list)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        self.folders[_case_folded(entry.name)].append(entry.name)
                    else:
                        self.files.add(entry.name)
        # A null character in the path raises ValueError.
        except (OSError, ValueError):
            pass

    @cached_property
    def _by_folded_name(self) -> dict[str, list[str]]:
        """The files, keyed by case-folded name."""
        return _grouped((_case_folded(name), name) for name in sorted(self.files))

    @cached_property
    def _by_folded_stem(self) -> dict[str, list[str]]:
        """The recordings, keyed by case-folded stem, in the order of `AUDIO_SUFFIXES`."""
        ranked = []
        for name in self.files:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in AUDIO_SUFFIXES:
                ranked.append((AUDIO_SUFFIXES.index(suffix.lower()), name, _case_folded(stem)))
        return _grouped((stem, name) for _, name, stem in sorted(ranked))

    def find(self, name: str) -> str | None:
        """Return the file with this name, ignoring case and Unicode normalization."""
        return _closest(self._by_folded_name.get(_case_folded(name), []), os.path.splitext(name)[0])

    def find_stem(self, stem: str) -> str | None:
        """Return the recording with this stem, ignoring case and Unicode normalization."""
        return _closest(self._by_folded_stem.get(_case_folded(stem), []), stem)


class _Candidate(NamedTuple):
    """A folder that may contain a recording.

    Attributes:
        prefix: Path relative to the manifest's folder, with a trailing slash.
        folder: Files and subfolders in this folder.
        differences: How this folder's path differs from the one in the recording's name.
    """

    prefix: str
    folder: _Folder
    differences: tuple[str, ...]


class _Finder:
    """A search for the recordings that a manifest names."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._listed: dict[str, _Folder] = {}
        self._candidates: dict[str, list[_Candidate]] = {}

    def find(self, name: str) -> _Match | None:
        head, slash, tail = name.rpartition("/")
        match = self._find(head or slash, tail)
        if match is None and "\\" in name:
            head, slash, tail = name.replace("\\", "/").rpartition("/")
            match = self._find(head or slash, tail)
            match = match and _Match(match.location, (*match.differences, "with backslashes treated as slashes"))
        bare = name.strip().strip(_QUOTATION_MARKS)
        if match is None and bare != name.strip():
            match = self.find(bare)
            match = match and _Match(match.location, (*match.differences, "without quotation marks"))
        return match

    def _find(self, head: str, tail: str) -> _Match | None:
        """Return the file `tail` in the folder `head`, trying different spellings of both."""
        candidates = self._candidates.get(head)
        if candidates is None:
            candidates = self._candidates[head] = list(self._candidate_folders(head))
        for candidate in candidates:
            if tail in candidate.folder.files:
                return _match(candidate, tail)
        stripped = tail.strip()
        spaces = ("without surrounding spaces",) if stripped != tail else ()
        for candidate in candidates:
            if stripped in candidate.folder.files:
                return _match(candidate, stripped, *spaces)
        stem, suffix = os.path.splitext(stripped)
        has_suffix = suffix.lower() in AUDIO_SUFFIXES
        for candidate in candidates if has_suffix else ():
            if file := candidate.folder.find(stripped):
                return _match(candidate, file, *spaces, _difference(stripped, file))
        for candidate in candidates:
            if file := candidate.folder.find_stem(stripped):
                return _match(candidate, file, *spaces, "with a file extension added")
        for candidate in candidates if has_suffix else ():
            if file := candidate.folder.find_stem(stem):
                return _match(candidate, file, *spaces, "with a different file extension")
        return None

    def _candidate_folders(self, head: str) -> Iterator[_Candidate]:
        """Yield the folders that `head`, the folder in a name, could refer to, if they contain files."""
        clean = head.strip()
        absolute = clean.startswith("/") or re.match(r"[A-Za-z]:(/|$)", clean)
        if absolute and (candidate := self._candidate(head, ())):
            yield candidate
        bases = () if absolute else FOLDERS
        for base in bases:
            if candidate := self._candidate(os.path.join(base, head), (f"in {base}/",) if base else ()):
                yield candidate
        parts = [part for part in clean.split("/") if part != "."]
        for base in bases if head else ():
            path = self._enter(base, parts)
            if path is not None and (candidate := self._candidate(path, ("in a folder with a different spelling",))):
                yield candidate
        parent = ("relative to the parent folder",)
        if head and not absolute and (candidate := self._candidate(os.path.join("..", head), parent)):
            yield candidate
        for start in range(1, len(parts) + 1) if absolute else ():
            for base in FOLDERS:
                path = self._enter(base, parts[start:])
                if path is not None and (candidate := self._candidate(path, (_BY_LAST_PARTS,))):
                    yield candidate

    def _candidate(self, path: str, differences: tuple[str, ...]) -> _Candidate | None:
        folder = self._list(path)
        return _Candidate(os.path.join(path, ""), folder, differences) if folder.files else None

    def _list(self, path: str) -> _Folder:
        if path not in self._listed:
            self._listed[path] = _Folder(os.path.join(self._root, path))
        return self._listed[path]

    def _enter(self, base: str, parts: Sequence[str]) -> str | None:
        """Follow `parts` down from `base` and return the resulting path, or None if a subfolder is missing.

        Case and Unicode normalization are ignored.
        """
        for part in parts:
            names = self._list(base).folders.get(_case_folded(part.strip()), [])
            name = ".." if part == ".." else _closest(names, part.strip())
            if name is None:
                return None
            base = os.path.join(base, name)
        return base


def _match(candidate: _Candidate, file: str, *differences: str) -> _Match:
    return _Match(candidate.prefix + file, candidate.differences + differences)


def _case_folded(name: str) -> str:
    return name.lower() if name.isascii() else _nfc(_nfc(name).casefold())


def _grouped(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        groups[key].append(name)
    return groups


def _closest(names: Sequence[str], start: str) -> str | None:
    """Return the only name or, if there are several, the first one that begins with `start` in the same case."""
    if len(names) == 1:
        return names[0]
    return next((name for name in names if _nfc(name).startswith(_nfc(start))), None)


def _difference(name: str, file: str) -> str:
    if _nfc(name) == _nfc(file):
        return "in a different Unicode normalization form"
    same_stem = _nfc(os.path.splitext(name)[0]) == _nfc(os.path.splitext(file)[0])
    return "with a file extension in a different case" if same_stem else "with letters in a different case"


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
