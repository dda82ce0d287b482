"""Read human speech with texts from Debian packages: Tux Paint's words, a game's dialogues and telephone prompts.

The packages are not installed: `apt-get download` fetches them and `dpkg -x` unpacks them into a folder. They have
licenses of their own (GPL-2, CC-BY-SA and others), so the project contains no copies.
"""

from __future__ import annotations

import gzip
import hashlib
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
#: Vocabulary of an XTTS release, for mini bases.
RELEASED_VOCAB = Path(os.environ.get("XTTS_EXTEND_TEST_DATA", Path(__file__).parents[2] / "shared/data")) / (
    "xtts_vocab.json"
)
_STAMPS = Path("usr/share/tuxpaint/stamps")
_GAME = Path("usr/share/games/fillets-ng")
_PROMPTS = Path("usr/share/asterisk/sounds")
_READER = Path("usr/share/festival/voices/russian/msu_ru_nsh_clunits")
_DOCUMENTS = Path("usr/share/doc")
#: Digests of names below this are for tests only, of 256.
_HELD_OUT = {"cs": 118, "bg": 154, "fr": 154}
# dialogId("vit-hs-klid1", "font_statue", "English") and, on the next line, dialogStr("the file's language")
_LUA_STRING = r'"((?:[^"\\]|\\.)*)"'
_DIALOGUE = re.compile(rf"dialogId\({_LUA_STRING},\s*{_LUA_STRING},\s*{_LUA_STRING}\)\s*dialogStr\({_LUA_STRING}\)")


@dataclass(frozen=True)
class Recording:
    """An audio file and its text."""

    file: Path
    text: str


@dataclass(frozen=True)
class Corpus:
    """All recordings of a language, and the number of audio files without a text."""

    recordings: list[Recording]
    without_text: int

    def share(self, count: int) -> list[Recording]:
        """Return up to `count` evenly spaced recordings, or all of them if `count` is 0."""
        total = len(self.recordings)
        if not 0 < count < total:
            return self.recordings
        return [self.recordings[number * total // count] for number in range(count)]


def unpack(folder: Path, packages: Sequence[str] = PACKAGES, *, download: bool) -> None:
    """Unpack the packages into a folder unless they are there; exit if some are missing and `download` is false."""
    missing = [package for package in packages if not (folder / _DOCUMENTS / package).is_dir()]
    if not missing:
        return
    if not download:
        sys.exit(f"Packages missing in {folder}: {', '.join(missing)}. Pass --download to fetch them.")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)
    for archive in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg", "-x", archive, folder], check=True)
        archive.unlink()


def read_corpus(packages: Path, language: str) -> Corpus:
    """Return the recordings of a language, ordered by name.

    "cs" and "nl" are dialogues, "ru_reader" is a Russian reader, and "fr_prompts" are French telephone prompts; others,
    such as "el", are words and short sentences.
    """
    if language == "ru_reader":
        return read_reader(packages)
    if language.endswith("_prompts"):
        return read_prompts(packages, language.removesuffix("_prompts"))
    return read_dialogues(packages, language) if language in ("cs", "nl") else read_stamps(packages, language)


def read_reader(packages: Path) -> Corpus:
    """Return the recordings `wav/ru_0001.wav`, whose texts are lines `( ru_0001 "…" )`; a plus marks the stress."""
    lines = (packages / _READER / "etc/txt.done.data").read_text(encoding="utf-8")
    texts = {name: text.replace("+", "") for name, text in re.findall(r'\(\s*(\S+)\s+"(.*)"\s*\)', lines)}
    files = sorted((packages / _READER / "wav").glob("*.wav"))
    recordings = [Recording(file, texts[file.stem]) for file in files if file.stem in texts]
    return Corpus(recordings, len(files) - len(recordings))


def music_files(packages: Path, *, held_out: bool) -> list[Path]:
    """Return the game's music: every other file is held out for tests."""
    return sorted((packages / _GAME / "music").glob("*.ogg"))[int(held_out) :: 2]


def is_held_out(recording: Recording, language: str) -> bool:
    """Return whether a recording is for tests only: 46 % of the Czech, 60 % of the Bulgarian and French, by name."""
    name = f"{recording.file.parent.parent.name}/{recording.file.stem}"
    return hashlib.sha256(name.encode()).digest()[0] < _HELD_OUT.get(language, 0)


def read_stamps(packages: Path, language: str) -> Corpus:
    """Return the recordings `NAME_desc_el.ogg`, whose text is the line `el.utf8=…` of `NAME.txt`."""
    ending = f"_desc_{language}.ogg"
    recordings, without_text = [], 0
    for file in sorted((packages / _STAMPS).rglob(f"*{ending}")):
        texts = file.with_name(file.name.removesuffix(ending) + ".txt")
        lines = texts.read_text(encoding="utf-8").splitlines() if texts.is_file() else []
        spoken = [line.partition("=")[2] for line in lines if line.startswith(f"{language}.utf8=")]
        if spoken and spoken[0].strip():
            recordings.append(Recording(file, spoken[0]))
        else:
            without_text += 1
    return Corpus(recordings, without_text)


def read_dialogues(packages: Path, language: str) -> Corpus:
    """Return the recordings `sound/LEVEL/cs/ID.ogg`, whose texts are in `script/LEVEL/dialogs_cs.lua`."""
    folder, recordings = packages / _GAME, []
    for script in sorted(folder.glob(f"script/*/dialogs_{language}.lua")):
        sounds = folder / "sound" / script.parent.name / language
        for name, _, _, text in _DIALOGUE.findall(script.read_text(encoding="utf-8")):
            file = sounds / f"{name}.ogg"
            if file.is_file():
                recordings.append(Recording(file, re.sub(r"\\(.)", r"\1", text)))
    files = set(folder.glob(f"sound/*/{language}/*.ogg"))
    return Corpus(recordings, len(files - {recording.file for recording in recordings}))


def read_prompts(packages: Path, language: str) -> Corpus:
    """Return the recordings `it_IT_m_Carlo/NAME.g722`, converted to WAV; the texts are in `core-sounds-it.txt.gz`."""
    (folder,) = (packages / _PROMPTS).glob(f"{language}_*")
    document = packages / _DOCUMENTS / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    recordings = []
    for line in gzip.decompress(document.read_bytes()).decode("utf-8-sig").splitlines():
        name, _, text = line.partition(":")
        file = folder / f"{name}.g722"
        # Descriptions of tones are in brackets.
        if file.is_file() and any(map(str.isalpha, text)) and not set(text) & set("[("):
            recordings.append(Recording(_as_wav(file), text.strip()))
    return Corpus(recordings, len(list(folder.rglob("*.g722"))) - len(recordings))


def _as_wav(file: Path) -> Path:
    """Convert a G.722 file, which has no header that identifies it, and return the path of the WAV file."""
    wav = file.with_suffix(".wav")
    if not wav.is_file():
        with av.open(str(file), format="g722") as container:
            frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
            rate = container.streams.audio[0].rate
        with soundfile.SoundFile(wav, "w", samplerate=rate, channels=1, subtype="PCM_16") as output:
            for samples in frames:
                output.write(samples[0])
    return wav
