"""L2-SP: weight decay toward the starting point instead of zero (Li, Grandvalet and Davoine, 2018).

The decay is decoupled from the gradient, as in AdamW: after each step, the weights move slightly toward the base.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.learning_rates import NEW_ROWS


class Anchor:
    """The base's values for the trained parameters, except for the rows of new tokens, which the base does not have.

    Args:
        gpt: coqui's `GPT` with the base's weights, which are copied.
        base_rows: Number of token rows that come from the base. It matters only if these rows are trained.
    """

    def __init__(self, gpt: Any, base_rows: int) -> None:
        self._base: dict[str, Tensor] = {
            name: parameter.detach()[: base_rows if name in TOKEN_TENSORS else None].clone()
            for name, parameter in gpt.named_parameters()
            if parameter.requires_grad and not name.startswith(NEW_ROWS)
        }

    @torch.no_grad()
    def pull(self, gpt: Any, optimizer: torch.optim.Optimizer, strength: float) -> None:
        """After an optimizer step, move each weight toward its base value by the fraction learning rate × strength.

        Args:
            gpt: coqui's `GPT` that is being trained.
            optimizer: The optimizer, which holds each parameter's learning rate.
            strength: Decay per unit of learning rate, like AdamW's weight decay.
        """
        rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in gpt.named_parameters():
            if name in self._base:
                self._base[name] = base = self._base[name].to(parameter.device)
                parameter[: len(base)].lerp_(base, min(1.0, rates[id(parameter)] * strength))
