"""What the tests of networks share: weights of a mini base."""

from __future__ import annotations

from pathlib import Path

import torch

from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.model.gpt_trainer import xtts_weights

#: Tokens that the fixture `extended` adds to the base's.
NEW = 7


def base_weights(base: Path) -> dict[str, torch.Tensor]:
    return xtts_weights(load_checkpoint(base / "model.pth")[0]["model"])
