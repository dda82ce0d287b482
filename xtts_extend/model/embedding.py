"""Extend a base model's token tensors to a larger vocabulary and initialize the rows of new tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xtts_extend.errors import ConfigError

#: The GPT's tensors that have one row per token.
TOKEN_TENSORS = ("text_embedding.weight", "text_head.weight", "text_head.bias")
INIT_METHODS = ("romanized", "mean", "normal")


def normal_rows(old: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw rows from the normal distribution with the mean and covariance of the old rows.

    Multiplying standard normal noise by the centered old rows reproduces their covariance exactly, without a
    decomposition, which may fail if there are fewer rows than channels.

    Args:
        old: At least two old rows, (rows, channels).
        count: Number of rows to draw.
        generator: The random number generator.

    Returns:
        The drawn rows, (count, channels).
    """
    mean = old.mean(dim=0)
    noise = torch.randn(count, old.shape[0], generator=generator, dtype=old.dtype)
    return mean + noise @ (old - mean) / (old.shape[0] - 1) ** 0.5


def spelled_rows(old: Tensor, spellings: Sequence[Sequence[int]]) -> Tensor:
    """For each new token, return the mean row of the old tokens that spell it, or the mean of all rows if none do.

    Args:
        old: The old rows, (rows, channels).
        spellings: The old ids of each new token's romanization, possibly empty.

    Returns:
        The new rows, (len(spellings), channels).
    """
    mean = old.mean(dim=0)
    return torch.stack([old[list(ids)].mean(dim=0) if ids else mean for ids in spellings])


def extend_rows(old: Tensor, count: int, method: str, spellings: Mapping[int, Sequence[int]], seed: int) -> Tensor:
    """Return a token tensor with `count` rows appended; the old rows are unchanged.

    Args:
        old: The old rows, (rows, channels), or (rows,) for a bias.
        count: Number of new tokens.
        method: How new rows are initialized: "romanized", "mean" or "normal".
        spellings: New token id → old ids of its romanization. Only "romanized" uses it.
        seed: Seed for "normal".

    Raises:
        ConfigError: The method is unknown.

    >>> extend_rows(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), 1, "mean", {}, seed=0)
    tensor([[1., 2.],
            [3., 6.],
            [2., 4.]])
    """
    rows = old.reshape(old.shape[0], -1).float()
    if method == "romanized":
        new = spelled_rows(rows, [spellings.get(old.shape[0] + number, ()) for number in range(count)])
    elif method == "mean":
        new = rows.mean(dim=0, keepdim=True).expand(count, -1)
    elif method == "normal":
        new = normal_rows(rows, count, torch.Generator().manual_seed(seed))
    else:
        raise ConfigError(f"--init {method} is unknown. Choose one of {', '.join(INIT_METHODS)}.")
    return torch.cat([old, new.reshape(count, *old.shape[1:]).to(old.dtype)])


def extend_token_tensors(
    state: Mapping[str, Tensor],
    vocab_size: int,
    method: str,
    spellings: Mapping[int, Sequence[int]],
    seed: int,
) -> dict[str, Tensor]:
    """Return a base model's state dict with its three token tensors extended to `vocab_size` rows.

    Args:
        state: State dict of a base model, with the keys of `Xtts`.
        vocab_size: Number of rows for the new vocabulary; at least the current number of rows.
        method: How new rows are initialized; see `extend_rows`.
        spellings: New token id → old ids of its romanization; see `extend_rows`.
        seed: Seed for "normal".

    Returns:
        A new dict, in which all other tensors are the same objects as in `state`.
    """
    extended = dict(state)
    for name in (f"gpt.{name}" for name in TOKEN_TENSORS):
        old = state[name]
        extended[name] = extend_rows(old, vocab_size - old.shape[0], method, spellings, seed)
    return extended
