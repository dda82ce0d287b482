"""Networks over the mini base's vocabulary and seven tokens more."""

import json
from pathlib import Path

import pytest
import torch

from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.model.embedding import extend_token_tensors
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, xtts_weights
from xtts_extend.training.base import use_base
from xtts_extend.training.config import NewLanguageConfig, read_json, take_architecture

NEW = 7


@pytest.fixture(scope="module")
def larger_vocab(mini_base, tmp_path_factory) -> Path:
    content = json.loads((mini_base / "vocab.json").read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    first = max(vocab.values()) + 1
    for number in range(NEW):
        vocab[chr(0x1200 + number)] = first + number
    path = tmp_path_factory.mktemp("vocab") / "vocab.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def config_for(base: Path, vocab: Path | None = None) -> NewLanguageConfig:
    config = NewLanguageConfig()
    take_architecture(config, read_json(base / "config.json"))
    use_base(config, base)
    if vocab:
        config.model_args.tokenizer_file = str(vocab)
    return config


def base_weights(base: Path) -> dict[str, torch.Tensor]:
    return xtts_weights(load_checkpoint(base / "model.pth")[0]["model"])


@pytest.fixture
def extended(mini_base, larger_vocab):
    model = ExtendedGPTTrainer(config_for(mini_base, larger_vocab))
    weights = base_weights(mini_base)
    rows = weights["gpt.text_embedding.weight"].shape[0]
    model.load_base(extend_token_tensors(weights, rows + NEW, "mean", {}, seed=0), rows)
    return model
