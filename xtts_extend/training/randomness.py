"""All that is random is a function of seed, purpose, step and process, so that nothing has to be remembered."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_all(seed: int, purpose: str, step: int, rank: int) -> None:
    """Seed Python, NumPy and torch."""
    name = f"{seed}:{purpose}:{step}" + (f":{rank}" if rank else "")
    value = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
