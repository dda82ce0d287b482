"""Seed all random number generators from the run's seed, a purpose, the step and the rank, so no state is saved."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_all(seed: int, purpose: str, step: int, rank: int) -> None:
    """Seed the global random number generators of Python, NumPy and torch.

    Args:
        seed: The run's seed.
        purpose: What the random numbers are for, such as "train"; each purpose has its own sequence.
        step: The training step.
        rank: The rank of this process; each process has its own sequence.

    >>> seed_all(42, "train", step=7, rank=0)
    >>> first = torch.rand(3)
    >>> seed_all(42, "train", step=7, rank=0)
    >>> torch.equal(torch.rand(3), first)
    True
    """
    name = f"{seed}:{purpose}:{step}" + (f":{rank}" if rank else "")
    value = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
