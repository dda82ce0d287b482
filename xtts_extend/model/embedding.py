"""Where the rows of new tokens start: a base model's token tensors become those of the larger vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xtts_extend.errors import ConfigError

#: The tensors of the GPT that have a row per token.
TOKEN_TENSORS = ("text_embedding.weight", "text_head.weight", "text_head.bias")
INIT_METHODS = ("romanized", "mean", "normal")


def normal_rows(old: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows drawn from the normal distribution with the mean and the covariance of the old rows.

    A standard normal draw through the centred rows has their covariance exactly, without a decomposition that may
    fail when there are fewer rows than channels.

    Args:
        old: (rows, channels); at least two rows.
        count: how many rows to draw.
        generator: the source of randomness.

    Returns:
        (count, channels)
    """
    mean = old.mean(dim=0)
    noise = torch.randn(count, old.shape[0], generator=generator, dtype=old.dtype)
    return mean + noise @ (old - mean) / (old.shape[0] - 1) ** 0.5


def spelled_rows(old: Tensor, spellings: Sequence[Sequence[int]]) -> Tensor:
    """For each new token the mean of the old rows that spell it; the mean of all rows where nothing spells it.

    Args:
        old: (rows, channels).
        spellings: for each new token the old ids of its romanisation, possibly none.

    Returns:
        (len(spellings), channels)
    """
    everything = old.mean(dim=0)
    return torch.stack([old[list(ids)].mean(dim=0) if ids else everything for ids in spellings])


def extend_rows(old: Tensor, count: int, method: str, spellings: Mapping[int, Sequence[int]], seed: int) -> Tensor:
    """A token tensor with `count` more rows; the old ones are unchanged.

    Args:
        old: (rows, channels), or (rows,) for a bias.
        count: number of new tokens.
        method: "romanized", "mean" or "normal".
        spellings: new token id → old ids of its romanisation; read by "romanized" alone.
        seed: of the draw of "normal".

    Raises:
        ConfigError: an unknown method.
    """
    rows = old.reshape(old.shape[0], -1).float()
    if method == "romanized":
        new = spelled_rows(rows, [spellings.get(old.shape[0] + number, ()) for number in range(count)])
    elif method == "mean":
        new = rows.mean(dim=0, keepdim=True).expand(count, -1)
    elif method == "normal":
        new = normal_rows(rows, count, torch.Generator().manual_seed(seed))
    else:
        raise ConfigError(f"--init {method} is unknown; choose one of {', '.join(INIT_METHODS)}.")
    return torch.cat([old, new.reshape(count, *old.shape[1:]).to(old.dtype)])


def extend_token_tensors(
    state: Mapping[str, Tensor],
    vocab_size: int,
    method: str,
    spellings: Mapping[int, Sequence[int]],
    seed: int,
) -> dict[str, Tensor]:
    """A base model's state dict with its three token tensors grown to `vocab_size` rows.

    Args:
        state: state dict of a base model, with the keys of `Xtts`.
        vocab_size: rows that the new vocabulary needs; at least as many as there are.
        method, spellings, seed: see `extend_rows`.

    Returns:
        A new dict; all other tensors are the same objects.
    """
    extended = dict(state)
    for name in (f"gpt.{name}" for name in TOKEN_TENSORS):
        old = state[name]
        extended[name] = extend_rows(old, vocab_size - old.shape[0], method, spellings, seed)
    return extended
