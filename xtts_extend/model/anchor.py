"""L2-SP: a pull towards the starting point (Li, Grandvalet and Davoine, 2018), where weight decay pulls towards zero.

As in AdamW, the pull is no part of the gradient: after each step the weights move a little towards the base.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.learning_rates import NEW_ROWS


class Anchor:
    """The base's values of what trains, except the rows of new tokens, which have no base.

    Args:
        gpt: coqui's `GPT` with the base's weights; they are copied.
        base_rows: how many token rows are the base's, where they train too.
    """

    def __init__(self, gpt: Any, base_rows: int) -> None:
        self._base: dict[str, Tensor] = {
            name: parameter.detach()[: base_rows if name in TOKEN_TENSORS else None].clone()
            for name, parameter in gpt.named_parameters()
            if parameter.requires_grad and not name.startswith(NEW_ROWS)
        }

    @torch.no_grad()
    def pull(self, gpt: Any, optimizer: torch.optim.Optimizer, strength: float) -> None:
        """Move each weight by learning rate × strength of the way to its base; call it after the optimizer's step."""
        rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in gpt.named_parameters():
            if name in self._base:
                self._base[name] = base = self._base[name].to(parameter.device)
                parameter[: len(base)].lerp_(base, min(1.0, rates[id(parameter)] * strength))
