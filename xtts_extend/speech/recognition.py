"""Speech recognition and the character error rate.

A recognizer is any callable that maps audio to text. `load_recogniser` returns a function of the user, or a pipeline
of the transformers library, which coqui-tts already requires. It runs wav2vec2, MMS and Whisper; many of the languages
that people add to XTTS are supported only by the first two.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torchaudio

from xtts_extend.errors import ConfigError
from xtts_extend.speech.hub_models import LOADING_ERRORS, load_language_adapter, loading_error
from xtts_extend.speech.plugs import is_plug, load_plug

#: A function that takes audio, float32 (samples,) in [-1, 1], and its sample rate in Hz, and returns the text.
Recogniser: TypeAlias = Callable[[npt.NDArray[np.float32], int], str]
#: Sample rate in Hz that transformers' recognizers expect.
_RATE = 16000
_WHISPER_WINDOW_S = 30
#: Length in seconds of the longest audio that a recognizer or an aligner gets at once.
LONGEST_S = 60


def load_recogniser(model: str, language: str) -> Recogniser:
    """Load a speech recognizer.

    Args:
        model: A folder or a Hugging Face model ID, for example "openai/whisper-small" or "facebook/mms-1b-all"; or
            "module:function", the name of a function from audio, float32 [samples] with up to 60 s, and its sample
            rate in Hz to the text. The function is imported from the current folder or an installed package.
        language: Language code for models that take one, for example "am" for Whisper, and "am" or "amh" for MMS.

    Raises:
        ConfigError: The model or function cannot be loaded, is not a speech recognizer, or does not support the
            language. The returned function raises it if the user's function fails or does not return a string.
    """
    return _plugged(model) if is_plug(model) else _transformers_recogniser(model, language)


def _plugged(name: str) -> Recogniser:
    function = load_plug("--asr", name)

    def to_text(audio: npt.NDArray[np.float32], rate: int) -> str:
        text = function(audio, rate)
        if not isinstance(text, str):
            raise ConfigError(
                f"--asr {name} returned {type(text).__name__}; expected a string with the text of the audio. "
                "Fix the function."
            )
        return text

    return to_text


def _transformers_recogniser(model: str, language: str) -> Recogniser:
    import torch
    from transformers import pipeline

    try:
        recognise: Any = pipeline(
            "automatic-speech-recognition", model=model, device=0 if torch.cuda.is_available() else -1
        )
    except LOADING_ERRORS as error:
        raise loading_error("--asr", model, "speech recognition", error) from error
    load_language_adapter(recognise.model, recognise.tokenizer, language, "--asr", model)
    is_whisper = recognise.type == "seq2seq_whisper"

    def to_text(audio: npt.NDArray[np.float32], rate: int) -> str:
        resampled = torchaudio.functional.resample(torch.from_numpy(audio), rate, _RATE).numpy()
        options: dict[str, Any] = {}
        if is_whisper:
            options["generate_kwargs"] = {"language": language, "task": "transcribe"}
            # Whisper reads more than one window only if it predicts time stamps.
            options["return_timestamps"] = len(resampled) > _WHISPER_WINDOW_S * _RATE
        return str(recognise({"raw": resampled, "sampling_rate": _RATE}, **options)["text"])

    return to_text


def transcribe(recognise: Recogniser, audio: npt.NDArray[np.float32], rate: int) -> str:
    """Return the text of audio of any length. Audio longer than 60 s is split at quiet places.

    Args:
        recognise: The recognizer.
        audio: Mono audio, [samples].
        rate: Sample rate in Hz.
    """
    return " ".join(recognise(part, rate) for part in split_at_quiet(audio, rate))


def split_at_quiet(audio: npt.NDArray[np.float32], rate: int) -> list[npt.NDArray[np.float32]]:
    """Split audio into parts of 30 to 60 s, each ending in the quietest tenth of a second there; the rest is last.

    Args:
        audio: Mono audio, [samples]. Audio of up to 60 s stays whole.
        rate: Sample rate in Hz.
    """
    parts = []
    window = rate // 10
    while len(audio) > LONGEST_S * rate:
        first = LONGEST_S * rate // 2
        candidates = audio[first : LONGEST_S * rate]
        levels = np.square(candidates[: len(candidates) // window * window].reshape(-1, window)).mean(axis=1)
        end = first + int(levels.argmin()) * window + window // 2
        parts.append(audio[:end])
        audio = audio[end:]
    return [*parts, audio]


def character_errors(spoken: str, heard: str) -> tuple[int, int]:
    """Return the edit distance between two texts and the number of characters in the first.

    Only letters, combining marks, digits and single spaces between words are compared, ignoring case.

    Args:
        spoken: The text that was spoken.
        heard: The recognizer's transcript.

    >>> character_errors("Hello, world!", "hello word")
    (1, 11)
    """
    expected, recognized = _comparable_text(spoken), _comparable_text(heard)
    return int(torchaudio.functional.edit_distance(expected, recognized)), len(expected)


def _comparable_text(text: str) -> str:
    kept = (
        character if unicodedata.category(character)[0] in "LMN" else " "
        for character in unicodedata.normalize("NFKC", text).casefold()
    )
    return " ".join("".join(kept).split())
