"""Speak with model folders through stock coqui-tts; run as a script, it never imports xtts_extend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

#: A sentence in each of XTTS's languages.
SENTENCES = {
    "ar": "مرحبا يا عالم.",
    "cs": "Dobrý den, světe.",
    "de": "Guten Tag, schöne Welt.",
    "en": "Hello there, world.",
    "es": "Hola a todos, mundo.",
    "fr": "Bonjour à tous.",
    "hi": "नमस्ते दुनिया।",
    "hu": "Jó napot, világ.",
    "it": "Buongiorno a tutti.",
    "ja": "こんにちは世界。",
    "ko": "안녕하세요 세계.",
    "nl": "Goedendag wereld.",
    "pl": "Dzień dobry, świecie.",
    "pt": "Bom dia, mundo.",
    "ru": "Добрый день, мир.",
    "tr": "Merhaba dünya.",
    "zh": "你好，世界。",
}
#: Language → modules that coqui's cleaning needs besides coqui-tts.
EXTRAS = {"ja": ("cutlet", "unidic_lite"), "zh": ("pypinyin",)}
WAYS = ("inference", "inference_stream", "synthesize")
SPEAKER = "untrained"


def load(folder: Path) -> Any:
    """Load a model folder as in stock's documentation."""
    config = XttsConfig()
    config.load_json(folder / "config.json")
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=folder, eval=True)
    return model


def voice(model: Any) -> list[torch.Tensor]:
    """Return conditioning latents and speaker embedding in the type of the model's weights."""
    dtype = next(model.gpt.parameters()).dtype
    return [tensor.to(dtype) for tensor in model.speaker_manager.speakers[SPEAKER].values()]


def speak(model: Any, text: str, language: str, way: str = "inference", **settings: Any) -> np.ndarray:
    """Return the waveform of a text, always with the same seed."""
    torch.manual_seed(5)
    if way == "synthesize":
        return model.synthesize(text, language=language, speaker=SPEAKER, **settings)["wav"]
    if way == "inference":
        return model.inference(text, language, *voice(model), **settings)["wav"]
    chunks = model.inference_stream(text, language, *voice(model), stream_chunk_size=10, **settings)
    return torch.cat(list(chunks)).cpu().numpy()


def main() -> None:
    """Write the waveforms of all sentences. Arguments: OUTPUT LANGUAGE,LANGUAGE,… FOLDER…"""
    output, languages, *folders = sys.argv[1:]
    waveforms = {}
    for folder in folders:
        model = load(Path(folder))
        for language in languages.split(","):
            for way in WAYS:
                waveforms[f"{folder} {language} {way}"] = speak(model, SENTENCES[language], language, way)
    assert not any(name.split(".")[0] == "xtts_extend" for name in sys.modules)
    np.savez(output, **waveforms)


if __name__ == "__main__":
    main()
