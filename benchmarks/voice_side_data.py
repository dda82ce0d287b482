"""Shared data of the voice side benchmark: a base model trained on human speech, new languages and unseen voices.

A mini base with a released vocabulary is trained on recordings in six languages, and its DVAE on some of them. Files in
the folder are reused.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from human_data import (
    PACKAGES,
    RELEASED_VOCAB,
    Recording,
    read_corpus,
    read_dialogues,
    read_prompts,
    read_stamps,
    unpack,
)
from retention_data import slices, train_base

from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.demo.mini_base import AUDIO_CODES, make_mini_base
from xtts_extend.demo.mini_dvae import log_mels, mel_statistics, train_dvae
from xtts_extend.files import atomic_write
from xtts_extend.model.codec import make_dvae
from xtts_extend.setup.encode import encode
from xtts_extend.text.extend import extend_vocabulary

_PROMPTED = ("en", "es", "fr", "it", "ru")
OLD = (*_PROMPTED, "cs")
#: New languages, each recorded by one or two speakers.
NEW = ("bg", "el")
_PACKAGES = [
    *PACKAGES,
    "fillets-ng-data-nl",
    *(f"asterisk-core-sounds-{language}{form}" for language in _PROMPTED for form in ("", "-g722")),
]
_STAMPS = ("ro", "ca", "da", "be")
#: Number of recordings of each old language with one speaker, of the one with several, and to train the DVAE.
_SINGLE_SPEAKER, _SEVERAL_SPEAKERS, _DVAE = 200, 500, 150
_DECODER_STEPS = 50
_BASE_STEPS = 400
#: Every n-th recording of a new language is in the validation set.
_VALIDATION = 10
#: Shortest and longest usable recording in seconds, longest text in characters, and length of a reference in seconds.
_DURATION_S, _MAX_CHARACTERS, _REFERENCE_S = (0.55, 11.0), 180, 6.0
#: Conditioning length in seconds; most recordings of the new languages are this short.
SLICES = slices(1.0, 2.0)


@dataclass(frozen=True)
class Voice:
    """A speaker who is in the training data of neither the base model nor a run.

    Attributes:
        name: Name in messages.
        references: Recordings from which the voice is made.
        others: Other recordings of the same speaker.
    """

    name: str
    references: list[Path]
    others: list[Path]


@dataclass(frozen=True)
class Data:
    """The folder with everything that the runs share."""

    folder: Path

    @property
    def packages(self) -> Path:
        return self.folder / "packages"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def codes(self) -> Path:
        return self.folder / "codes"

    def vocab(self, language: str) -> Path:
        return self.folder / f"vocab-{language}.json"

    def manifest(self, language: str, part: str) -> str:
        return f"{self.folder / f'{language}-{part}.csv'}:{language}"

    def prepare(self, languages: Sequence[str], *, download: bool) -> None:
        """Make what is missing: manifests, codes, vocabularies, and a base model with trained DVAE and GPT."""
        unpack(self.packages, _PACKAGES, download=download)
        old = {language: self._old(language) for language in OLD}
        for language, recordings in old.items():
            self._write(language, "train", recordings)
        raw = self.folder / "base-untrained"
        if not raw.exists():
            self._make_untrained(raw, [recording.file for recordings in old.values() for recording in recordings])
        encode([self.manifest(language, "train") for language in OLD], raw, self.codes)
        for language in languages:
            recordings = list(_usable(read_corpus(self.packages, language).recordings))
            held_out = recordings[::_VALIDATION]
            self._write(language, "train", [recording for recording in recordings if recording not in held_out])
            self._write(language, "val", held_out)
            text = self.folder / f"{language}.txt"
            text.write_text("".join(f"{recording.text}\n" for recording in recordings), encoding="utf-8")
            extend_vocabulary(raw / "vocab.json", language, self.vocab(language), texts=[text], size=500)
            parts = [self.manifest(language, part) for part in ("train", "val")]
            encode(parts, raw, self.codes, vocab=self.vocab(language))
        if not self.base.exists():
            flags = [f"--train-manifest={self.manifest(language, 'train')}" for language in OLD]
            flags += [f"--codes={self.codes}", "--language=en", "--coqpit.run_eval=false", *SLICES]
            train_base(raw, self.base, flags, _BASE_STEPS)

    def _old(self, language: str) -> list[Recording]:
        read, count = (read_dialogues, _SEVERAL_SPEAKERS) if language == "cs" else (read_prompts, _SINGLE_SPEAKER)
        usable = list(_usable(read(self.packages, language).recordings))
        return random.Random(0).sample(usable, min(count, len(usable)))

    def _write(self, language: str, part: str, recordings: Sequence[Recording]) -> None:
        rows = "".join(f"{recording.file}|{recording.text}\n" for recording in recordings)
        (self.folder / f"{language}-{part}.csv").write_text(f"audio_file|text\n{rows}", encoding="utf-8")

    def _make_untrained(self, raw: Path, recordings: Sequence[Path]) -> None:
        """Make a base model whose DVAE is trained on human speech and whose GPT is untrained."""
        partial = raw.with_name(f"{raw.name}-partial")
        shutil.rmtree(partial, ignore_errors=True)
        make_mini_base(partial, vocab=RELEASED_VOCAB)
        torch.manual_seed(0)
        mels, dvae = log_mels(random.Random(0).sample(recordings, _DVAE)), make_dvae(AUDIO_CODES)
        mel_stats = mel_statistics(mels)
        report = train_dvae(dvae, mels / mel_stats[:, None], decoder_steps=_DECODER_STEPS)
        print(f"DVAE: {report.codes_used} codes in use, {report.missed_variance:.0%} of the mel variance lost.")
        torch.save(dvae.state_dict(), partial / "dvae.pth")
        torch.save(mel_stats, partial / "mel_stats.pth")
        content = load_pickled(partial / "model.pth", map_location="cpu")
        content["model"]["mel_stats"] = mel_stats
        # The tensors are read from the old file, so it must not be overwritten in place.
        with atomic_write(partial / "model.pth") as file:
            torch.save(content, file)
        partial.rename(raw)

    def voices(self) -> list[Voice]:
        """Return the voices: two fish of the Dutch game, and the speakers of four more languages of Tux Paint."""
        dutch = read_dialogues(self.packages, "nl").recordings
        people = {
            f"nl {fish}": [recording for recording in dutch if f"-{fish}-" in recording.file.name]
            for fish in ("m", "v")
        }
        people |= {language: read_stamps(self.packages, language).recordings for language in _STAMPS}
        return [
            _voice(name, [recording.file for recording in _usable(recordings)]) for name, recordings in people.items()
        ]


def _usable(recordings: Sequence[Recording]) -> Iterator[Recording]:
    """Yield the recordings of usable length, without those whose text or content is a duplicate."""
    seen: set[str] = set()
    shortest, longest = _DURATION_S
    for recording in recordings:
        keys = {recording.text, hashlib.sha256(recording.file.read_bytes()).hexdigest()}
        duration = soundfile.info(recording.file).duration
        if not keys & seen and shortest <= duration <= longest and len(recording.text) <= _MAX_CHARACTERS:
            yield recording
        seen |= keys


def _voice(name: str, files: Sequence[Path]) -> Voice:
    """Return a voice with some seconds of reference and as many of other recordings, drawn at random."""
    shuffled = random.Random(0).sample(files, len(files))
    parts: list[list[Path]] = [[], []]
    for part in parts:
        while sum(soundfile.info(file).duration for file in part) < _REFERENCE_S:
            part.append(shuffled.pop())
    return Voice(name, *parts)
