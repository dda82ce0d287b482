"""Migrate token tensors and optimizer moments from one vocabulary to another.

Rows belong to tokens, not to positions. If rows are matched by position instead, a model loads under a different
vocabulary without an error, but its tokens get the wrong rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xtts_extend.model.embedding import TOKEN_TENSORS, extend_rows


@dataclass(frozen=True)
class Migration:
    """A mapping from the rows of a new vocabulary to those of the old one.

    Attributes:
        index: Old row of each new id, (new rows,). For the n-th added token, counted from 0, it is old_rows + n.
        old_rows: Number of rows in the old token tensors.
        base_rows: Number of rows at the start of the new tensors that are or were frozen; 0 if the frozen rows do not
            come first.
        init: How added rows are initialized; see `extend_rows`.
        spellings: Id of an added row → old ids that spell its token; see `extend_rows`.
        seed: Seed for "normal".
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
        """Return the migration from the vocabulary `before` to the vocabulary `now`.

        Args:
            before: Token → id in the old vocabulary.
            now: Token → id in the new vocabulary. An id that has no token in either vocabulary keeps its row.
            old_rows: Number of rows in the tensors that belong to `before`.
            frozen: The tokens whose rows are, or may be, frozen.
            init: How added rows are initialized; see `extend_rows`.
            spellings: Added token → tokens of `before` that spell it, for the init "romanized".
            seed: Seed for the init "normal".
        """
        tokens = {number: token for token, number in now.items()}
        unused = set(range(old_rows)) - set(before.values())
        index: list[int] = []
        spelled: dict[int, list[int]] = {}
        added = old_rows
        for number in range(max(now.values()) + 1):
            token = tokens.get(number)
            if token is not None and token in before:
                index.append(before[token])
            elif token is None and number in unused:
                index.append(number)
            else:
                spelled[added] = [before[part] for part in spellings.get(token or "", ())]
                index.append(added)
                added += 1
        base_rows = max((now[token] for token in frozen if token in now), default=-1) + 1
        if any(tokens.get(number, "") not in frozen for number in range(base_rows) if number in tokens):
            base_rows = 0
        return cls(torch.tensor(index), old_rows, base_rows, init, spelled, seed)

    @property
    def added(self) -> int:
        """Number of added rows. Only these are initialized."""
        return int((self.index >= self.old_rows).sum())

    def weights(self, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Return a state dict with its token tensors migrated. All other tensors are the same objects as in `state`.

        Args:
            state: State dict of a model with `old_rows` token rows.
            prefix: Prefix of the GPT's keys, such as "gpt." or "xtts.gpt.".
        """
        migrated = dict(state)
        for name in TOKEN_TENSORS:
            rows = state[prefix + name]
            if self.added:
                rows = extend_rows(rows, self.added, self.init, self.spellings, self.seed)
            migrated[prefix + name] = rows[self.index]
        return migrated

    def moments(self, rows: Tensor) -> Tensor:
        """Return the moments for all rows of the new vocabulary, (new rows, …): zeros for added tokens and frozen rows.

        Args:
            rows: Moments of the old rows, (old rows, …). If the first rows were frozen, these are only the moments of
                the remaining rows.
        """
        frozen = rows.new_zeros(self.old_rows - rows.shape[0], *rows.shape[1:])
        added = rows.new_zeros(self.added, *rows.shape[1:])
        return torch.cat([frozen, rows, added])[self.index]


def nearest_rows(rows: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each row of a token tensor, the base's row with the highest cosine similarity.

    Training changes a row's direction only slightly, so this identifies a row's token when nothing else can.

    Args:
        rows: Rows to identify, (n, channels).
        base: Rows of the base, (m, channels).

    Returns:
        Indices into `base`, (n,), and cosine similarities, (n,).
    """

    def normalized(table: Tensor) -> Tensor:
        return torch.nn.functional.normalize(table.float(), dim=1)

    cosines, nearest = (normalized(rows) @ normalized(base).T).max(dim=1)
    return nearest, cosines
