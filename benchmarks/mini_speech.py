"""What benchmarks/understood.py and benchmarks/judged.py share: judges from outside, and speech of mini models.

A judge is a plug, `module:function`: a recognizer as for `xtts-extend make-dataset --asr`, and a function from audio,
float32 [samples], and its rate to an embedding of the voice, such as `mini_speech:resemblyzer`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchaudio
from torch import Tensor
from TTS.tts.models.xtts import Xtts

from xtts_extend.data.audio import load_audio
from xtts_extend.demo.dvae_speech import DvaeSpeech
from xtts_extend.demo.speech import SAMPLE_RATE, SPEAKERS
from xtts_extend.model.voice import make_voice
from xtts_extend.speech.plugs import load_plug
from xtts_extend.speech.recognition import character_errors, load_recogniser

Samples = npt.NDArray[np.float32]


@functools.cache
def _resemblyzer() -> tuple[Any, Any]:
    from resemblyzer import VoiceEncoder, preprocess_wav

    return VoiceEncoder("cpu", verbose=False), preprocess_wav


def resemblyzer(audio: Samples, rate: int) -> Samples:
    """Return the embedding of a voice by Resemblyzer, of length 1."""
    encoder, preprocess = _resemblyzer()
    at_16k = torchaudio.functional.resample(torch.from_numpy(audio), rate, 16000).numpy()
    return np.asarray(encoder.embed_utterance(preprocess(at_16k)), dtype=np.float32)


@dataclass(frozen=True)
class Judged:
    """What judges find in some sentences.

    Attributes:
        error_rate: Character error rate of what the recognizer hears.
        control: The same with the text of the next sentence: what a recognizer that hears nothing would reach.
        similarity: Mean cosine of the voice with a recording of the same voice; None without a judge of voices.
        other_similarity: The same with recordings of the other voices.
    """

    error_rate: float
    control: float
    similarity: float | None
    other_similarity: float | None


class Judges:
    """A recognizer and, if there is one, a judge of voices.

    Args:
        asr: The recognizer; LANGUAGE in its name becomes the language's code.
        voices: A function from audio and rate to an embedding, as `module:function`; None for no judge of voices.
        references: A recording of each voice.
    """

    def __init__(self, asr: str, voices: str | None, references: Sequence[Path]) -> None:
        self._asr = asr
        self._embed: Callable[[Samples, int], Samples] | None = load_plug("--voices", voices) if voices else None
        audios = [load_audio(file, SAMPLE_RATE)[0].numpy() for file in references]
        self._references = [self._embed(audio, SAMPLE_RATE) for audio in audios] if self._embed else []

    def judge(self, spoken: Sequence[Tensor], sentences: Sequence[str], language: str) -> Judged:
        """Judge sentences.

        Args:
            spoken: Audio at 22,050 Hz, float32 [samples]; the first is in the first reference's voice, and so on.
            sentences: The texts.
            language: Their language.
        """
        recognize = load_recogniser(self._asr.replace("LANGUAGE", language), language)
        heard = [recognize(audio.numpy(), SAMPLE_RATE) for audio in spoken]
        own, others = self._similarities(spoken)
        return Judged(_error_rate(sentences, heard), _error_rate([*sentences[1:], sentences[0]], heard), own, others)

    def _similarities(self, spoken: Sequence[Tensor]) -> tuple[float, float] | tuple[None, None]:
        if self._embed is None:
            return None, None
        own, others = [], []
        for number, audio in enumerate(spoken):
            cosines = np.stack(self._references) @ self._embed(audio.numpy(), SAMPLE_RATE)
            voice = number % len(cosines)
            own.append(float(cosines[voice]))
            others.append(float(np.delete(cosines, voice).mean()))
        return float(np.mean(own)), float(np.mean(others))


def _error_rate(sentences: Sequence[str], heard: Sequence[str]) -> float:
    counts = [character_errors(sentence, text) for sentence, text in zip(sentences, heard, strict=True)]
    return sum(wrong for wrong, _ in counts) / sum(characters for _, characters in counts)


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
    files = sorted((manifest.parent / "wavs").iterdir())[:count]
    return [load_audio(file, SAMPLE_RATE)[0] for file in files]


def through_codes(speech: DvaeSpeech, xtts_codec: Any, audios: Sequence[Tensor]) -> list[Tensor]:
    """Return recordings as they sound through the codes of a base."""
    with torch.no_grad():
        return [speech.decode(xtts_codec.encode(audio[None])) for audio in audios]
