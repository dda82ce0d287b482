"""What the tests of networks share: configurations and weights of a mini base."""

from __future__ import annotations

from pathlib import Path

import torch

from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.run.config import NewLanguageConfig, read_json, take_architecture
from xtts_extend.setup.base import use_base

#: Tokens that the fixture `extended` adds to the base's.
NEW = 7


def config_for(base: Path, vocab: Path | None = None) -> NewLanguageConfig:
    config = NewLanguageConfig()
    take_architecture(config, read_json(base / "config.json"))
    use_base(config, base)
    if vocab:
        config.model_args.tokenizer_file = str(vocab)
    return config


def base_weights(base: Path) -> dict[str, torch.Tensor]:
    return xtts_weights(load_checkpoint(base / "model.pth")[0]["model"])
