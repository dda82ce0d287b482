"""Recordings of people with their texts, from Debian packages: Tux Paint's words, a game's dialogues, phone prompts.

The packages are installed nowhere: `apt-get download` fetches them and `dpkg -x` unpacks them into a folder. Their
licences are their own (GPL-2, CC-BY-SA and others), so nothing of them is copied into the project.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import soundfile

PACKAGES = ("tuxpaint-stamps-default", "fillets-ng-data", "fillets-ng-data-cs")
#: What an XTTS release knows, for mini bases.
RELEASED_VOCAB = Path(os.environ.get("XTTS_EXTEND_TEST_DATA", Path(__file__).parents[2] / "shared/data")) / (
    "xtts_vocab.json"
)
_STAMPS = Path("usr/share/tuxpaint/stamps")
_GAME = Path("usr/share/games/fillets-ng")
_PROMPTS = Path("usr/share/asterisk/sounds")
_DOCUMENTS = Path("usr/share/doc")
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


def unpack(folder: Path, packages: Sequence[str] = PACKAGES, *, download: bool) -> None:
    """Make sure that packages are unpacked in a folder; exits with what to do when some are missing."""
    missing = [package for package in packages if not (folder / _DOCUMENTS / package).is_dir()]
    if not missing:
        return
    if not download:
        sys.exit(f"{folder} does not hold the packages {', '.join(missing)}. Give --download to fetch them.")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)
    for archive in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg", "-x", archive, folder], check=True)
        archive.unlink()


def read_corpus(packages: Path, language: str) -> Corpus:
    """The recordings of "el" or "bg" (words and short sentences) or "cs" (dialogues), in the order of their names."""
    return read_dialogues(packages, language) if language == "cs" else read_stamps(packages, language)


def read_stamps(packages: Path, language: str) -> Corpus:
    """`NAME_desc_el.ogg` says the line `el.utf8=…` of `NAME.txt`."""
    ending = f"_desc_{language}.ogg"
    recordings, without_text = [], 0
    for file in sorted((packages / _STAMPS).rglob(f"*{ending}")):
        texts = file.with_name(file.name.removesuffix(ending) + ".txt")
        lines = texts.read_text(encoding="utf-8").splitlines() if texts.is_file() else []
        said = [line.partition("=")[2] for line in lines if line.startswith(f"{language}.utf8=")]
        if said and said[0].strip():
            recordings.append(Recording(file, said[0]))
        else:
            without_text += 1
    return Corpus(recordings, without_text)


def read_dialogues(packages: Path, language: str) -> Corpus:
    """`sound/LEVEL/cs/ID.ogg` says the dialogue ID of `script/LEVEL/dialogs_cs.lua`."""
    folder, recordings = packages / _GAME, []
    for script in sorted(folder.glob(f"script/*/dialogs_{language}.lua")):
        sounds = folder / "sound" / script.parent.name / language
        for name, _, _, said in _DIALOGUE.findall(script.read_text(encoding="utf-8")):
            file = sounds / f"{name}.ogg"
            if file.is_file():
                recordings.append(Recording(file, re.sub(r"\\(.)", r"\1", said)))
    files = set(folder.glob(f"sound/*/{language}/*.ogg"))
    return Corpus(recordings, len(files - {recording.file for recording in recordings}))


def read_prompts(packages: Path, language: str) -> Corpus:
    """`it_IT_m_Carlo/NAME.g722` says the line `NAME: …` of `core-sounds-it.txt.gz`; written as wav where it lies."""
    (folder,) = (packages / _PROMPTS).glob(f"{language}_*")
    document = packages / _DOCUMENTS / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    recordings = []
    for line in gzip.decompress(document.read_bytes()).decode("utf-8-sig").splitlines():
        name, _, said = line.partition(":")
        file = folder / f"{name}.g722"
        # tones stand in brackets
        if file.is_file() and any(map(str.isalpha, said)) and not set(said) & set("[("):
            recordings.append(Recording(_as_wav(file), said.strip()))
    return Corpus(recordings, len(list(folder.rglob("*.g722"))) - len(recordings))


def _as_wav(file: Path) -> Path:
    """G.722 has no header by which it could be recognised."""
    wav = file.with_suffix(".wav")
    if not wav.is_file():
        with av.open(str(file), format="g722") as container:
            frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
            rate = container.streams.audio[0].rate
        with soundfile.SoundFile(wav, "w", samplerate=rate, channels=1, subtype="PCM_16") as output:
            for samples in frames:
                output.write(samples[0])
    return wav
