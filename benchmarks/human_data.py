"""Recordings of people with their texts, from Debian packages: Greek and Bulgarian words, a Czech game's dialogues.

The packages are installed nowhere: `apt-get download` fetches them and `dpkg -x` unpacks them into a folder. Their
licences are their own (GPL-2 and others), so nothing of them is copied into the project.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("tuxpaint-stamps-default", "fillets-ng-data", "fillets-ng-data-cs")
_STAMPS = Path("usr/share/tuxpaint/stamps")
_GAME = Path("usr/share/games/fillets-ng")
#: dialogId("vit-hs-klid1", "font_statue", "in English") and, on the next line, dialogStr("in the file's language")
_LUA_STRING = r'"((?:[^"\\]|\\.)*)"'
_DIALOGUE = re.compile(rf"dialogId\({_LUA_STRING},\s*{_LUA_STRING},\s*{_LUA_STRING}\)\s*dialogStr\({_LUA_STRING}\)")


@dataclass(frozen=True)
class Recording:
    """A file and what is said in it."""

    file: Path
    text: str


@dataclass(frozen=True)
class Corpus:
    """All recordings of a language, and how many files have no text beside them."""

    recordings: list[Recording]
    without_text: int

    def share(self, count: int) -> list[Recording]:
        """Up to `count` recordings, evenly spread; all of them when `count` is 0."""
        total = len(self.recordings)
        if not 0 < count < total:
            return self.recordings
        return [self.recordings[number * total // count] for number in range(count)]


def unpack(packages: Path, *, download: bool) -> None:
    """Make sure that the packages are unpacked in a folder; exits with what to do when they are missing."""
    if (packages / _STAMPS).is_dir() and (packages / _GAME / "sound").is_dir():
        return
    if not download:
        sys.exit(f"{packages} does not hold the packages {', '.join(PACKAGES)}. Give --download to fetch 271 MB.")
    packages.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=packages, check=True)
    for archive in sorted(packages.glob("*.deb")):
        subprocess.run(["dpkg", "-x", archive, packages], check=True)
        archive.unlink()


def read_corpus(packages: Path, language: str) -> Corpus:
    """The recordings of "el" or "bg" (words and short sentences) or "cs" (dialogues), in the order of their names."""
    return _dialogues(packages / _GAME, language) if language == "cs" else _stamps(packages / _STAMPS, language)


def _stamps(folder: Path, language: str) -> Corpus:
    """`NAME_desc_el.ogg` says the line `el.utf8=…` of `NAME.txt`."""
    ending = f"_desc_{language}.ogg"
    recordings, without_text = [], 0
    for file in sorted(folder.rglob(f"*{ending}")):
        texts = file.with_name(file.name.removesuffix(ending) + ".txt")
        lines = texts.read_text(encoding="utf-8").splitlines() if texts.is_file() else []
        said = [line.partition("=")[2] for line in lines if line.startswith(f"{language}.utf8=")]
        if said and said[0].strip():
            recordings.append(Recording(file, said[0]))
        else:
            without_text += 1
    return Corpus(recordings, without_text)


def _dialogues(folder: Path, language: str) -> Corpus:
    """`sound/LEVEL/cs/ID.ogg` says the dialogue ID of `script/LEVEL/dialogs_cs.lua`."""
    recordings = []
    for script in sorted(folder.glob(f"script/*/dialogs_{language}.lua")):
        sounds = folder / "sound" / script.parent.name / language
        for name, _, _, said in _DIALOGUE.findall(script.read_text(encoding="utf-8")):
            file = sounds / f"{name}.ogg"
            if file.is_file():
                recordings.append(Recording(file, re.sub(r"\\(.)", r"\1", said)))
    files = set(folder.glob(f"sound/*/{language}/*.ogg"))
    return Corpus(recordings, len(files - {recording.file for recording in recordings}))
