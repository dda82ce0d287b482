"""Speech of mini models, and judges of it, which are plugs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from TTS.tts.models.xtts import Xtts

from xtts_extend.data.audio import load_audio
from xtts_extend.demo import texts
from xtts_extend.demo.dvae_speech import DvaeSpeech
from xtts_extend.demo.speech import SAMPLE_RATE, SPEAKERS, make_corpus
from xtts_extend.model.codec import Codec
from xtts_extend.model.voice import make_voice
from xtts_extend.speech.plugs import load_plug
from xtts_extend.speech.recognition import character_errors, load_recogniser


@dataclass(frozen=True)
class Judged:
    """What judges find in some sentences.

    Attributes:
        error_rate: Character error rate of what the recognizer hears.
        control: The same with the text of the next sentence: what a recognizer that hears nothing would reach.
        similarity: Mean cosine similarity to the voice that each sentence should have; None without a judge of voices.
        other_voice: The same for the next voice.
    """

    error_rate: float
    control: float
    similarity: float | None = None
    other_voice: float | None = None


@dataclass(frozen=True)
class Judge:
    """A recognizer and, optionally, a judge of voices.

    Attributes:
        asr: The recognizer, as for `xtts-extend make-dataset --asr`; LANGUAGE in its name becomes the language's code.
        voices: `module:function` from audio, float32 [samples], and its rate to a vector of length 1.
    """

    asr: str
    voices: str | None = None

    def __call__(
        self, spoken: Sequence[Tensor], sentences: Sequence[str], references: Sequence[Path], language: str
    ) -> Judged:
        """Judge sentences.

        Args:
            spoken: Audio at 22,050 Hz, float32 [samples].
            sentences: The texts.
            references: Recordings of the voices that speak in turn.
            language: Language of the texts.
        """
        recognize = load_recogniser(self.asr.replace("LANGUAGE", language), language)
        heard = [recognize(audio.numpy(), SAMPLE_RATE) for audio in spoken]
        rates = _error_rate(sentences, heard), _error_rate([*sentences[1:], sentences[0]], heard)
        if self.voices is None:
            return Judged(*rates)
        embed = load_plug("--voices", self.voices)
        voices, found = (
            np.stack([embed(audio.numpy(), SAMPLE_RATE) for audio in audios]) for audios in (_load(references), spoken)
        )
        alike = found @ voices.T
        turns = np.arange(len(spoken))
        own, other = (alike[turns, (turns + ahead) % len(voices)].mean() for ahead in (0, 1))
        return Judged(*rates, float(own), float(other))


def _error_rate(sentences: Sequence[str], heard: Sequence[str]) -> float:
    counts = [character_errors(sentence, text) for sentence, text in zip(sentences, heard, strict=True)]
    return sum(wrong for wrong, _ in counts) / sum(characters for _, characters in counts)


def split_sentences(language: str, train: int, val: int, unseen: int) -> dict[str, list[str]]:
    """Return different sentences of a language by part: train, val and unseen, of which each has so many."""
    sentences = texts.sentences(language, train + val + unseen)
    return {"train": sentences[:train], "val": sentences[train : train + val], "unseen": sentences[train + val :]}


def manifest_of(folder: Path, language: str, part: str) -> Path:
    """Return the manifest of a part that `speak_parts` speaks."""
    return folder / "speech" / language / part / "metadata.csv"


def speak_parts(folder: Path, language: str, parts: Mapping[str, Sequence[str]]) -> None:
    """Speak the sentences of each part with espeak-ng unless that is done."""
    for part, sentences in parts.items():
        manifest = manifest_of(folder, language, part)
        if not manifest.is_file():
            make_corpus(sentences, language, manifest.parent)


def voice_references(manifest: Path) -> list[Path]:
    """Return the first recording of each voice of a corpus from `make_corpus`, whose voices take turns."""
    return sorted((manifest.parent / "wavs").iterdir())[: len(SPEAKERS)]


def speak_all(
    xtts: Xtts, speech: DvaeSpeech, sentences: Sequence[str], language: str, references: Sequence[Path]
) -> list[Tensor]:
    """Return sentences as audio at 22,050 Hz, float32 [samples], in the voices of the references in turn."""
    latents = [make_voice(xtts, [load_audio(file, SAMPLE_RATE)]).latents for file in references]
    return [
        speech.speak(xtts, sentence, language, latents[number % len(latents)], seed=number)
        for number, sentence in enumerate(sentences)
    ]


def recordings(manifest: Path, count: int) -> list[Tensor]:
    """Return the first recordings of a corpus from `make_corpus`, float32 [samples] at 22,050 Hz."""
    return _load(sorted((manifest.parent / "wavs").iterdir())[:count])


def _load(files: Sequence[Path]) -> list[Tensor]:
    return [load_audio(file, SAMPLE_RATE)[0] for file in files]


def through_codes(speech: DvaeSpeech, codec: Codec, audios: Sequence[Tensor]) -> list[Tensor]:
    """Return recordings as they sound through the codes of a base."""
    with torch.no_grad():
        return [speech.decode(codec.encode(audio[None])) for audio in audios]
