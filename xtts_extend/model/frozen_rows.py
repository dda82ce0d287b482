"""Token layers whose old rows are frozen by storing them in a buffer, which no optimizer updates.

Zeroing the gradients of old rows with a hook does not freeze the rows, because weight decay and the moments from
earlier steps still change them. Rows that are not parameters cannot change (PEFT's `trainable_tokens` uses the same
approach). From the outside, each layer has one ordinary `weight` (and `bias`): `state_dict()` joins old and new rows,
and `load_state_dict()` splits them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BaseRows:
    """The token rows of a model that come from its base.

    Attributes:
        rows: Number of rows that come from the base. They come first.
        frozen: Whether the base's rows are frozen.
        digests: SHA-256 digests of these rows in each token tensor, as `row_digests` returns them; empty if unknown.
    """

    rows: int
    frozen: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)


class _FrozenRows(nn.Module):
    """Base class with `base_weight` (and `base_bias`) as buffers and `new` as the trained module."""

    #: Names of the joined tensors, as in an ordinary module of the same kind.
    names: tuple[str, ...]
    new: nn.Module

    def __init__(self, module: nn.Module, base_rows: int) -> None:
        super().__init__()
        self.base_rows = base_rows
        self.register_state_dict_post_hook(self._hide_inner_names)
        for name in self.names:
            self.register_buffer(f"base_{name}", getattr(module, name).detach()[:base_rows].clone(), persistent=False)

    def _joined(self, name: str) -> Tensor:
        return torch.cat([getattr(self, f"base_{name}"), getattr(self.new, name)])

    @property
    def weight(self) -> Tensor:
        """A copy of all rows, with the old rows first, (rows, channels)."""
        return self._joined("weight")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in self.names:
            joined = self._joined(name)
            destination[prefix + name] = joined if keep_vars else joined.detach()

    @staticmethod
    def _hide_inner_names(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
        for name in cast(_FrozenRows, module).names:
            state.pop(f"{prefix}new.{name}")

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        known = tuple(prefix + name for name in self.names)
        unexpected_keys.extend(key for key in state_dict if key.startswith(prefix) and key not in known)
        for name in self.names:
            rows = state_dict.pop(prefix + name, None)
            base, new = getattr(self, f"base_{name}"), getattr(self.new, name)
            expected = (base.shape[0] + new.shape[0], *base.shape[1:])
            if rows is None:
                missing_keys.append(prefix + name)
            elif tuple(rows.shape) != expected:
                error_msgs.append(f"size mismatch for {prefix}{name}: expected {expected}, got {tuple(rows.shape)}.")
            else:
                with torch.no_grad():
                    base.copy_(rows[: self.base_rows])
                # The inner module is loaded next, from the same dict.
                state_dict[f"{prefix}new.{name}"] = rows[self.base_rows :]


class FrozenRowsEmbedding(_FrozenRows):
    """An `nn.Embedding` whose first `base_rows` rows are frozen.

    Args:
        embedding: The module to replace. Its rows are copied.
        base_rows: Number of old rows.
    """

    names = ("weight",)
    new: nn.Embedding

    def __init__(self, embedding: nn.Embedding, base_rows: int) -> None:
        super().__init__(embedding, base_rows)
        rows = embedding.weight.detach()[base_rows:].clone()
        self.new = nn.Embedding.from_pretrained(rows, freeze=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings (b, t, channels) of ids (b, t), bit-for-bit identical to those of the joined table."""
        is_new = ids >= self.base_rows
        old = F.embedding(ids.masked_fill(is_new, 0), cast(Tensor, self.base_weight))
        new = self.new((ids - self.base_rows).clamp(min=0))
        return torch.where(is_new.unsqueeze(-1), new, old)


class FrozenRowsLinear(_FrozenRows):
    """An `nn.Linear` whose first `base_rows` output rows are frozen.

    Args:
        linear: The module to replace, with a bias. Its rows are copied.
        base_rows: Number of old rows.
    """

    names = ("weight", "bias")
    new: nn.Linear

    def __init__(self, linear: nn.Linear, base_rows: int) -> None:
        super().__init__(linear, base_rows)
        self.new = nn.Linear(linear.in_features, linear.out_features - base_rows)
        with torch.no_grad():
            self.new.weight.copy_(linear.weight[base_rows:])
            self.new.bias.copy_(linear.bias[base_rows:])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits (b, t, rows) of hidden states (b, t, channels)."""
        old = F.linear(hidden, cast(Tensor, self.base_weight), cast(Tensor, self.base_bias))
        return torch.cat([old, self.new(hidden)], dim=-1)
