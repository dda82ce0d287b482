"""Token rows of which the old ones cannot move: they are a buffer, and no optimizer ever sees them.

A gradient hook that zeroes the old rows does not freeze them: weight decay and the moments of earlier steps move them
all the same. Rows that are not parameters cannot move (PEFT's `trainable_tokens` does the same). To the outside there
is one ordinary `weight` (and `bias`): `state_dict()` joins the two parts, `load_state_dict()` splits them.
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
    """The token rows of a model that are its base's.

    Attributes:
        rows: how many, from the first one on.
        frozen: they do not train.
        digests: SHA-256 of these rows of each token tensor, as `row_digests` returns them; empty where not known.
    """

    rows: int
    frozen: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)


class _FrozenRows(nn.Module):
    """Common part: `base_weight` (and `base_bias`) as buffers, `new` as the module that trains."""

    #: The names of the joined tensors, as an ordinary module of the same kind has them.
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
        """All rows, old ones first: (rows, channels). A copy: writing to it changes nothing."""
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
                error_msgs.append(f"size mismatch for {prefix}{name}: {tuple(rows.shape)} saved, {expected} expected.")
            else:
                with torch.no_grad():
                    base.copy_(rows[: self.base_rows])
                # the inner module's own turn comes next, and takes its rows from the same dict
                state_dict[f"{prefix}new.{name}"] = rows[self.base_rows :]


class FrozenRowsEmbedding(_FrozenRows):
    """An `nn.Embedding` whose first `base_rows` rows are frozen.

    Args:
        embedding: the module to replace; its rows are copied.
        base_rows: how many rows are old.
    """

    names = ("weight",)
    new: nn.Embedding

    def __init__(self, embedding: nn.Embedding, base_rows: int) -> None:
        super().__init__(embedding, base_rows)
        rows = embedding.weight.detach()[base_rows:].clone()
        self.new = nn.Embedding.from_pretrained(rows, freeze=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (b, t) → embeddings (b, t, channels), bit for bit those of the joined table."""
        is_new = ids >= self.base_rows
        old = F.embedding(ids.masked_fill(is_new, 0), cast(Tensor, self.base_weight))
        new = self.new((ids - self.base_rows).clamp(min=0))
        return torch.where(is_new.unsqueeze(-1), new, old)


class FrozenRowsLinear(_FrozenRows):
    """An `nn.Linear` whose first `base_rows` output rows are frozen.

    Args:
        linear: the module to replace (with a bias); its rows are copied.
        base_rows: how many rows are old.
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
        """hidden (b, t, channels) → logits (b, t, rows)."""
        old = F.linear(hidden, cast(Tensor, self.base_weight), cast(Tensor, self.base_bias))
        return torch.cat([old, self.new(hidden)], dim=-1)
