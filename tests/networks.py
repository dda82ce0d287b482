"""Weights of the mini base, for tests of networks."""

from __future__ import annotations

from pathlib import Path

import torch

from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.model.gpt_trainer import xtts_weights

#: Number of tokens that the fixture `extended` adds.
NEW = 7


def base_weights(base: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a base model without the prefix "xtts."."""
    return xtts_weights(load_checkpoint(base / "model.pth")[0]["model"])
