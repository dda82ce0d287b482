"""A base with the tags of all of XTTS's languages, and its folder with packs for three more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from packs import make_pack
from stock_speech import SENTENCES, load

import xtts_extend
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.text.languages import STOCK_LANGUAGES, language_tag
from xtts_extend.text.vocabulary import append_entries, load_vocabulary

#: Language → seed of its pack's weights.
PACKED = {"am": 1, "ti": 2, "el": 3}


@pytest.fixture(scope="session")
def all_languages(mini_base, made_once) -> Path:
    """The mini base with the tags of all 17 languages and the files that speech needs; tests must not change it."""

    def fill(folder: Path) -> None:
        known = load_vocabulary(mini_base / "vocab.json")
        tags = [tag for tag in map(language_tag, sorted(STOCK_LANGUAGES)) if tag not in known.tokens]
        letters = {*"0123456789", *"".join(SENTENCES.values()).lower()} - {*known.tokens, " "}
        (folder / "vocab.json").write_text(append_entries(known, tags, sorted(letters), []), encoding="utf-8")
        vocabulary = load_vocabulary(folder / "vocab.json")

        config = json.loads((mini_base / "config.json").read_text(encoding="utf-8"))
        config["languages"] = vocabulary.languages
        config["model_args"]["gpt_number_text_tokens"] = vocabulary.size
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

        weights = dict(load_checkpoint(mini_base / "model.pth")[0]["model"])
        generator = torch.Generator().manual_seed(0)
        for name in (f"gpt.{name}" for name in TOKEN_TENSORS):
            shape = (vocabulary.size - known.size, *weights[name].shape[1:])
            weights[name] = torch.cat([weights[name], torch.randn(shape, generator=generator) * 0.1])
        torch.save({"model": weights}, folder / "model.pth")
        shutil.copyfile(mini_base / "speakers_xtts.pth", folder / "speakers_xtts.pth")

    return made_once("seventeen", fill)


@pytest.fixture(scope="session")
def packed(all_languages, made_once) -> Path:
    """That base's folder with packs for Amharic, Tigrinya and Greek; tests must not change it."""

    def fill(folder: Path) -> None:
        shutil.copytree(all_languages, folder / "model")
        (folder / "model" / "packs").mkdir()
        for language, seed in PACKED.items():
            rank = 4 if language == "el" else None
            make_pack(all_languages, language, folder / f"model/packs/{language}.safetensors", seed=seed, rank=rank)

    return made_once("ሞዴል packed", fill) / "model"


@pytest.fixture(scope="session")
def loaded(packed):
    """`Xtts` as stock loads that folder after `enable()`; tests must not change it."""
    xtts_extend.enable()
    return load(packed)
