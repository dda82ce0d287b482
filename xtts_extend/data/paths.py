"""The names of recordings become files, in the spellings that other tools and systems leave behind."""

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

#: Of recordings; the first that fits is taken where a name has none.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".aac", ".aif", ".aiff", ".webm", ".wma", ".oga",
    ".mka", ".mkv", ".mov", ".3gp", ".amr", ".au", ".caf", ".w64", ".rf64", ".wave", ".sph",
)  # fmt: skip
#: Where recordings lie, seen from their manifest.
FOLDERS = ("", "wavs", "wav", "clips", "audio")
_QUOTATION_MARKS = "\"'“”„«»‘’"
_BY_LAST_PARTS = "by the last parts of a path that does not exist here"


class _Found(NamedTuple):
    location: str
    ways: tuple[str, ...]


def find_recordings(names: Sequence[str], manifest: Path) -> list[str | None]:
    """Where the recordings of a manifest lie, seen from its folder; None for a name of no file.

    A name counts as it stands, from the manifest's folder or from one of `FOLDERS` in it. Else with spaces and
    quotation marks around it removed, backslashes read as slashes, letters in another case or Unicode form, a suffix
    added or exchanged, and, of an absolute path, by its last parts, unless two names lead to one file so. What was read
    otherwise than it stands is logged once, with counts; names that lead to one file are named. Folders are listed once
    each, and no name costs a system call.
    """
    finder = _Finder(os.path.dirname(os.path.abspath(manifest)))
    locations: list[str | None] = []
    readings: Counter[tuple[str, ...]] = Counter()
    far: dict[int, tuple[str, ...]] = {}
    for place, name in enumerate(names):
        found = finder.find(name)
        locations.append(found and found.location)
        if found is not None and found.ways:
            readings[found.ways] += 1
            if _BY_LAST_PARTS in found.ways:
                far[place] = found.ways
    if far:
        owners = Counter(location for location, _ in set(zip(locations, names, strict=True)))
        for place, ways in far.items():
            if owners[locations[place]] > 1:
                locations[place] = None
                readings[ways] -= 1
    if readings:
        _warn_of_shared(names, locations, manifest)
    counts: Counter[str] = Counter()
    for ways, count in readings.items():
        counts.update(dict.fromkeys(ways, count))
    if said := ", ".join(f"{count} {way}" for way, count in counts.most_common() if count):
        logger.info(" > %s: recordings were found, though not exactly as named: %s", manifest, said)
    return locations


def _warn_of_shared(names: Sequence[str], locations: Sequence[str | None], manifest: Path) -> None:
    """Warn of names that are read as the file of another name, which may be another recording's."""
    several = {location for location, count in Counter(locations).items() if count > 1 and location is not None}
    owners: dict[str, dict[str, None]] = defaultdict(dict)
    for name, location in zip(names, locations, strict=True) if several else ():
        if location in several:
            owners[location][name] = None
    shared = [
        f"{' and '.join(map(repr, found))} are {location}" for location, found in owners.items() if len(found) > 1
    ]
    if shared:
        more = f", and so on for {len(shared) - 5} more files" if len(shared) > 5 else ""
        logger.warning(
            " ! %s: different names are read as one file: %s%s. If they are different recordings, one of each is "
            "missing. Correct its name.",
            manifest,
            ", ".join(shared[:5]),
            more,
        )


def any_exists(names: Sequence[str], manifest: Path) -> bool:
    """Whether a recording of one of these names is found."""
    finder = _Finder(os.path.dirname(os.path.abspath(manifest)))
    return any(finder.find(name) is not None for name in names)


def describe_search(name: str, manifest: str) -> str:
    """What to say of the first name where every recording of a manifest is missing."""
    return (
        f"{name!r}, for one, was looked for from {os.path.dirname(manifest)} and from {', '.join(FOLDERS[1:])} in it, "
        f"with any suffix from {AUDIO_SUFFIXES[0]} to {AUDIO_SUFFIXES[-1]} or none, in any case and Unicode form, and "
        "with backslashes as slashes and without quotation marks. Put the recordings there, or correct the names"
    )


class _Folder:
    """The files of a folder that exists, and ways to their names."""

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
        # A name with a null character is a ValueError.
        except (OSError, ValueError):
            pass

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        return _grouped((_case_folded(name), name) for name in sorted(self.files))

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        """Recordings by what stands before their suffix, in the order of `AUDIO_SUFFIXES`."""
        ranked = []
        for name in self.files:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in AUDIO_SUFFIXES:
                ranked.append((AUDIO_SUFFIXES.index(suffix.lower()), name, _case_folded(stem)))
        return _grouped((stem, name) for _, name, stem in sorted(ranked))

    def alike(self, name: str) -> str | None:
        """The file whose name differs in the case of letters and in Unicode form at most."""
        return _closest(self._alike.get(_case_folded(name), []), os.path.splitext(name)[0])

    def with_stem(self, stem: str) -> str | None:
        """The recording that is called so before its suffix."""
        return _closest(self._stems.get(_case_folded(stem), []), stem)


class _Place(NamedTuple):
    """A folder that a name may lie in: its path with a slash, seen from the manifest's, and how it was found."""

    prefix: str
    folder: _Folder
    ways: tuple[str, ...]


class _Finder:
    def __init__(self, root: str) -> None:
        self._root = root
        self._listed: dict[str, _Folder] = {}
        self._places: dict[str, list[_Place]] = {}

    def find(self, name: str) -> _Found | None:
        head, slash, tail = name.rpartition("/")
        found = self._find(head or slash, tail)
        if found is None and "\\" in name:
            head, slash, tail = name.replace("\\", "/").rpartition("/")
            found = self._find(head or slash, tail)
            found = found and _Found(found.location, (*found.ways, "with backslashes as slashes"))
        bare = name.strip().strip(_QUOTATION_MARKS)
        if found is None and bare != name.strip():
            found = self.find(bare)
            found = found and _Found(found.location, (*found.ways, "without quotation marks around them"))
        return found

    def _find(self, head: str, tail: str) -> _Found | None:
        places = self._places.get(head)
        if places is None:
            places = self._places[head] = list(self._places_of(head))
        for place in places:
            if tail in place.folder.files:
                return _found(place, tail)
        spelled = tail.strip()
        spaces = ("without spaces around them",) if spelled != tail else ()
        for place in places:
            if spelled in place.folder.files:
                return _found(place, spelled, *spaces)
        stem, suffix = os.path.splitext(spelled)
        has_suffix = suffix.lower() in AUDIO_SUFFIXES
        for place in places if has_suffix else ():
            if file := place.folder.alike(spelled):
                return _found(place, file, *spaces, _difference(spelled, file))
        for place in places:
            if file := place.folder.with_stem(spelled):
                return _found(place, file, *spaces, "with a suffix added")
        for place in places if has_suffix else ():
            if file := place.folder.with_stem(stem):
                return _found(place, file, *spaces, "with another suffix")
        return None

    def _places_of(self, head: str) -> Iterator[_Place]:
        """The folders that exist of those in which a name with this head may lie."""
        clean = head.strip()
        absolute = clean.startswith("/") or re.match(r"[A-Za-z]:(/|$)", clean)
        if absolute and (place := self._place(head, ())):
            yield place
        bases = () if absolute else FOLDERS
        for base in bases:
            if place := self._place(os.path.join(base, head), (f"in {base}/",) if base else ()):
                yield place
        parts = [part for part in clean.split("/") if part != "."]
        for base in bases if head else ():
            path = self._enter(base, parts)
            if path is not None and (place := self._place(path, ("in a folder spelled otherwise",))):
                yield place
        if head and not absolute and (place := self._place(os.path.join("..", head), ("seen from the parent folder",))):
            yield place
        for start in range(1, len(parts) + 1) if absolute else ():
            for base in FOLDERS:
                path = self._enter(base, parts[start:])
                if path is not None and (place := self._place(path, (_BY_LAST_PARTS,))):
                    yield place

    def _place(self, path: str, ways: tuple[str, ...]) -> _Place | None:
        folder = self._list(path)
        return _Place(os.path.join(path, ""), folder, ways) if folder.files else None

    def _list(self, path: str) -> _Folder:
        if path not in self._listed:
            self._listed[path] = _Folder(os.path.join(self._root, path))
        return self._listed[path]

    def _enter(self, base: str, parts: Sequence[str]) -> str | None:
        """The folder that these parts lead to from `base`, whatever the case and Unicode form of their letters."""
        for part in parts:
            alike = self._list(base).folders.get(_case_folded(part.strip()), [])
            name = ".." if part == ".." else _closest(alike, part.strip())
            if name is None:
                return None
            base = os.path.join(base, name)
        return base


def _found(place: _Place, file: str, *ways: str) -> _Found:
    return _Found(place.prefix + file, place.ways + ways)


def _case_folded(name: str) -> str:
    return name.lower() if name.isascii() else _nfc(_nfc(name).casefold())


def _grouped(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        groups[key].append(name)
    return groups


def _closest(names: Sequence[str], start: str) -> str | None:
    """Of names that are alike the first with this start in the same case; or the only one."""
    if len(names) == 1:
        return names[0]
    return next((name for name in names if _nfc(name).startswith(_nfc(start))), None)


def _difference(name: str, file: str) -> str:
    if _nfc(name) == _nfc(file):
        return "in another Unicode form"
    same_stem = _nfc(os.path.splitext(name)[0]) == _nfc(os.path.splitext(file)[0])
    return "with a suffix in another case" if same_stem else "with letters in another case"


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
