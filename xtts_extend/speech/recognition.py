"""What was spoken, heard by a machine: speech recognition as a plug, and the character error rate.

The recogniser is any callable from audio to text. The one that comes along is transformers' pipeline, because
transformers is here already (coqui-tts needs it) and runs wav2vec2, MMS and Whisper alike: of the languages that people
add to XTTS, many are known to the former only.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torchaudio

from xtts_extend.errors import ConfigError

#: Audio, float32 (samples,) in [-1, 1], and its rate in Hz → text.
Recogniser: TypeAlias = Callable[[npt.NDArray[np.float32], int], str]
#: What recognisers of transformers are trained on, in Hz.
_RATE = 16000


def load_recogniser(model: str, language: str) -> Recogniser:
    """A recogniser of transformers: a folder, or a name on its hub.

    Args:
        model: for example a folder with wav2vec2, or "openai/whisper-small", or "facebook/mms-1b-all".
        language: told to models that take one: Whisper as "am", MMS as "amh" (ISO 639-3).

    Raises:
        ConfigError: there is no such model, it recognises no speech, or does not know the language.
    """
    import torch
    from transformers import pipeline

    try:
        recognise: Any = pipeline(
            "automatic-speech-recognition", model=model, device=0 if torch.cuda.is_available() else -1
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"--asr {model}: transformers cannot load it as a model for speech recognition: {error}"
        ) from error
    if getattr(recognise.model.config, "adapter_attn_dim", None):
        # MMS: an adapter and an alphabet for each language; English unless one is chosen
        try:
            recognise.tokenizer.set_target_lang(language)
            recognise.model.load_adapter(language)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--asr {model} does not know the language {language!r}: {error}. Its codes have three letters (ISO "
                "639-3); give the right one with --asr-language, for example amh."
            ) from error
    options: dict[str, Any] = {}
    if recognise.type == "seq2seq_whisper":
        options["generate_kwargs"] = {"language": language, "task": "transcribe"}

    def to_text(audio: npt.NDArray[np.float32], rate: int) -> str:
        at_rate = torchaudio.functional.resample(torch.from_numpy(audio), rate, _RATE).numpy()
        return str(recognise({"raw": at_rate, "sampling_rate": _RATE}, **options)["text"])

    return to_text


def character_errors(spoken: str, heard: str) -> tuple[int, int]:
    """Edit distance of two texts, and the number of characters of the first.

    Compared is what can be heard: letters, marks and digits, in one case, words with single spaces between them.
    """
    expected, found = _comparable_text(spoken), _comparable_text(heard)
    return int(torchaudio.functional.edit_distance(expected, found)), len(expected)


def _comparable_text(text: str) -> str:
    kept = (
        character if unicodedata.category(character)[0] in "LMN" else " "
        for character in unicodedata.normalize("NFKC", text).casefold()
    )
    return " ".join("".join(kept).split())
