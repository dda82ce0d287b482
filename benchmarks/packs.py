"""Measure language packs at the size of the published model: file size, loading, first use, switching and memory.

    python benchmarks/packs.py OUTPUT_FOLDER [LAYERS CHANNELS]

The base model has random weights. The packs change all of the GPT except the voice side and the old rows, as a run
that trains everything does. Each measurement runs in its own process. Files in the folder are reused.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

import xtts_extend
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.demo.mini_base import make_mini_base
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.model.voice import VOICE_PARTS
from xtts_extend.pack.file import digests, write_pack
from xtts_extend.pack.model_folder import ModelFolder
from xtts_extend.pack.pack_info import PackedVocabulary, PackInfo, Training
from xtts_extend.pack.route import routed
from xtts_extend.text.languages import cleaning_of, language_tag
from xtts_extend.text.vocabulary import append_entries, load_vocabulary, parse_vocabulary

LANGUAGES = ("am", "ti", "el")
#: Number of warm switches that are timed.
SWITCHES = 20


def make(output: Path, layers: int, channels: int) -> tuple[Path, Path]:
    """Make the base model and a model folder with packs unless they exist, and return both folders."""
    base, folder = output / "base", output / "model"
    if not base.exists():
        make_mini_base(base, layers=layers, channels=channels, heads=channels // 64)
    if (folder / "packs").exists():
        return base, folder
    folder.mkdir(exist_ok=True)
    for file in base.iterdir():
        (folder / file.name).symlink_to(file.absolute())
    weights = xtts_weights(load_checkpoint(base / "model.pth")[0]["model"])
    base_vocabulary, base_digests = load_vocabulary(base / "vocab.json"), digests(weights)
    for language in LANGUAGES:
        entries = append_entries(base_vocabulary, [language_tag(language)], [*"ሰላም"], [])
        vocabulary = parse_vocabulary(entries, base_vocabulary.path)
        tensors = {
            name: tensor + torch.randn_like(tensor) * 0.01
            for name, tensor in weights.items()
            if name.startswith("gpt.") and not name.removeprefix("gpt.").startswith(VOICE_PARTS)
        }
        for name in (f"gpt.{name}" for name in TOKEN_TENSORS):
            tensors[name] = tensors[name][-4:]
        cleaning, limit = cleaning_of(language)
        info = PackInfo(
            language=language,
            base=base_digests,
            vocabulary=PackedVocabulary.between(base_vocabulary, vocabulary),
            cleaning=cleaning,
            char_limit=limit,
            texts={},
            training=Training(steps=1),
            licence="",
            created="2026-01-01",
            dtype="float32",
            rank=None,
        )
        path = output / f"{language}.safetensors"
        write_pack(path, info, tensors)
        start = time.monotonic()
        ModelFolder(folder).add(path)
        print(f"pack add {language}: {path.stat().st_size / 1e6:.0f} MB, {time.monotonic() - start:.1f} s", flush=True)
        path.unlink()
    return base, folder


def memory() -> float:
    """Return the memory of this process in GB, without pages that are mapped from files."""
    used = psutil.Process().memory_info()
    return (used.rss - used.shared) / 1e9


def load(folder: Path) -> tuple[Any, float]:
    """Load a model folder with coqui's `load_checkpoint`; return the model and the time in seconds."""
    config = XttsConfig()
    config.load_json(folder / "config.json")
    model = Xtts(config)
    start = time.monotonic()
    model.load_checkpoint(config, checkpoint_dir=folder, eval=True)
    return model, time.monotonic() - start


def seconds(model: Any, language: str) -> float:
    """Return the time in seconds to switch to a language's tensors and back to the base model's."""
    start = time.monotonic()
    with routed(model, language):
        pass
    return time.monotonic() - start


def measure(folder: Path) -> None:
    xtts_extend.enable()
    model, loading = load(folder)
    print(f"{folder.name}: loaded in {loading:.1f} s, {memory():.2f} GB", flush=True)
    if not hasattr(model, "packs"):
        return
    for language in LANGUAGES:
        first = seconds(model, language)
        warm = sorted(seconds(model, language) for _ in range(SWITCHES))
        print(
            f"{language}: first use {first:.2f} s, warm switch {warm[SWITCHES // 2] * 1e3:.2f} ms (up to "
            f"{warm[-1] * 1e3:.2f}), {memory():.2f} GB",
            flush=True,
        )


def main() -> None:
    if sys.argv[1] == "--measure":
        measure(Path(sys.argv[2]))
        return
    output = Path(sys.argv[1])
    layers, channels = (int(size) for size in sys.argv[2:] or (30, 1024))
    output.mkdir(parents=True, exist_ok=True)
    for folder in (*make(output, layers, channels), output / "base", output / "model"):
        subprocess.run([sys.executable, __file__, "--measure", folder], check=True)


if __name__ == "__main__":
    main()
