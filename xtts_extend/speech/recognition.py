"""Speech recognition and the character error rate.

A recognizer is any callable that maps audio to text. `load_recogniser` returns a pipeline of the transformers library,
which coqui-tts already requires. It runs wav2vec2, MMS and Whisper; many of the languages that people add to XTTS are
supported only by the first two.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torchaudio

from xtts_extend.errors import ConfigError

#: A function that takes audio, float32 (samples,) in [-1, 1], and its sample rate in Hz, and returns the text.
Recogniser: TypeAlias = Callable[[npt.NDArray[np.float32], int], str]
#: Sample rate in Hz that transformers' recognizers expect.
_RATE = 16000


def load_recogniser(model: str, language: str) -> Recogniser:
    """Load a speech recognizer with transformers.

    Args:
        model: A folder or a Hugging Face model ID, for example "openai/whisper-small" or "facebook/mms-1b-all".
        language: Language code for models that take one, for example "am" for Whisper and "amh" for MMS (ISO 639-3).

    Raises:
        ConfigError: The model cannot be loaded, is not a speech recognizer, or does not support the language.
    """
    import torch
    from transformers import pipeline

    try:
        recognise: Any = pipeline(
            "automatic-speech-recognition", model=model, device=0 if torch.cuda.is_available() else -1
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"transformers cannot load --asr {model} as a speech recognition model: {error}. Choose a different model."
        ) from error
    if getattr(recognise.model.config, "adapter_attn_dim", None):
        # MMS has a separate adapter and alphabet for each language. The default is English.
        try:
            recognise.tokenizer.set_target_lang(language)
            recognise.model.load_adapter(language)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--asr {model} does not support the language {language!r}: {error}. Its language codes have three "
                "letters (ISO 639-3). Pass the correct code with --asr-language, for example amh."
            ) from error
    options: dict[str, Any] = {}
    if recognise.type == "seq2seq_whisper":
        options["generate_kwargs"] = {"language": language, "task": "transcribe"}

    def to_text(audio: npt.NDArray[np.float32], rate: int) -> str:
        resampled = torchaudio.functional.resample(torch.from_numpy(audio), rate, _RATE).numpy()
        return str(recognise({"raw": resampled, "sampling_rate": _RATE}, **options)["text"])

    return to_text


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
