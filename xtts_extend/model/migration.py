"""Rows follow their tokens: the token tensors of one vocabulary, and the optimizer's moments, in the order of another.

Rows belong to tokens and not to positions. A model whose rows are read by position with another vocabulary loads
without an error, and has learned other words than those that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xtts_extend.model.embedding import TOKEN_TENSORS, extend_rows


@dataclass(frozen=True)
class Migration:
    """Where each row of the new vocabulary comes from.

    Attributes:
        index: (new rows,) for each new id the old row that it gets; the n-th added token gets old_rows + n.
        old_rows: rows of the old token tensors.
        base_rows: the first so many new rows are those that are frozen, or were; 0 when they do not come first.
        init, spellings, seed: the start of added rows, see `extend_rows`; spellings are old ids.
    """

    index: Tensor
    old_rows: int
    base_rows: int
    init: str
    spellings: Mapping[int, Sequence[int]]
    seed: int

    @classmethod
    def between(
        cls,
        before: Mapping[str, int],
        now: Mapping[str, int],
        old_rows: int,
        frozen: frozenset[str],
        *,
        init: str,
        spellings: Mapping[str, Sequence[str]],
        seed: int,
    ) -> Migration:
        """From the places of `before` to those of `now`.

        Args:
            before, now: token → id. An id without a token keeps its row where it has none in `now` either.
            old_rows: rows of the tensors that belong to `before`.
            frozen: the tokens whose rows are, or may be, frozen.
            init: the start of added rows.
            spellings: added token → tokens of `before` that spell it, for the init "romanized".
            seed: of the init "normal".
        """
        tokens = {number: token for token, number in now.items()}
        unnamed = set(range(old_rows)) - set(before.values())
        index: list[int] = []
        spelled: dict[int, list[int]] = {}
        added = old_rows
        for number in range(max(now.values()) + 1):
            token = tokens.get(number)
            if token is not None and token in before:
                index.append(before[token])
            elif token is None and number in unnamed:
                index.append(number)
            else:
                spelled[added] = [before[part] for part in spellings.get(token or "", ())]
                index.append(added)
                added += 1
        places = [now[token] for token in frozen if token in now]
        base_rows = max(places, default=-1) + 1
        if any(tokens.get(number, "") not in frozen for number in range(base_rows) if number in tokens):
            base_rows = 0
        return cls(torch.tensor(index), old_rows, base_rows, init, spelled, seed)

    @property
    def added(self) -> int:
        """How many rows start anew."""
        return int((self.index >= self.old_rows).sum())

    def weights(self, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """A state dict with its three token tensors carried; all others are the same objects.

        Args:
            state: of a model with `old_rows` token rows.
            prefix: of the GPT's keys, as in "gpt." or "xtts.gpt.".
        """
        carried = dict(state)
        for name in TOKEN_TENSORS:
            rows = state[prefix + name]
            if self.added:
                rows = extend_rows(rows, self.added, self.init, self.spellings, self.seed)
            carried[prefix + name] = rows[self.index]
        return carried

    def moments(self, rows: Tensor) -> Tensor:
        """The moments of all new rows: (new rows, …). Zero for added tokens, and for frozen ones, which have none.

        Args:
            rows: (old rows, …), or those of the last rows where the first ones were frozen.
        """
        frozen = rows.new_zeros(self.old_rows - rows.shape[0], *rows.shape[1:])
        added = rows.new_zeros(self.added, *rows.shape[1:])
        return torch.cat([frozen, rows, added])[self.index]


def nearest_rows(rows: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of a token table the row of the base's that points in the most similar direction.

    Training turns a row only a little: that tells which token a row belonged to where nothing else does.

    Args:
        rows: (n, channels).
        base: (m, channels).

    Returns:
        (n,) indices into `base` and (n,) cosines.
    """

    def directions(table: Tensor) -> Tensor:
        return torch.nn.functional.normalize(table.float(), dim=1)

    cosines, nearest = (directions(rows) @ directions(base).T).max(dim=1)
    return nearest, cosines
