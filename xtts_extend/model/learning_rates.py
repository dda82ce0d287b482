"""Which parameters share a learning rate and a weight decay: the optimizer's groups."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_NORMS = (nn.LayerNorm, nn.GroupNorm)
#: The modules of the rows of new tokens, where the old ones are frozen.
NEW_ROWS = ("text_embedding.new.", "text_head.new.")
#: What follows the last layer.
_TOP = ("gpt.ln_f.", "final_norm.", "mel_head.", "text_head.")


def configured_groups(gpt: Any, config: Any) -> list[dict[str, Any]]:
    """`parameter_groups` as a `NewLanguageConfig` wants them."""
    return parameter_groups(
        gpt,
        rate=config.lr,
        new_row_rate=config.new_row_learning_rate,
        layer_decay=config.layer_decay,
        weight_decay=config.optimizer_params["weight_decay"] if config.optimizer_wd_only_on_weights else None,
    )


def parameter_groups(
    gpt: Any,
    *,
    rate: float,
    new_row_rate: float | None,
    layer_decay: float,
    weight_decay: float | None,
) -> list[dict[str, Any]]:
    """The trained parameters of coqui's `GPT` in groups of one rate and one weight decay.

    Args:
        gpt: with frozen rows and adapters in place.
        rate: of the last layer and of what follows it.
        new_row_rate: of the rows of new tokens; `rate` when None.
        layer_decay: each layer's rate is that of the layer above it times this; embeddings and conditioning lie below
            the first one (discriminative fine-tuning; Howard and Ruder, 2018).
        weight_decay: of weight matrices, while biases, norms and embeddings have none, as in coqui's GPTTrainer; None
            leaves it to the optimizer's own value for all.
    """
    undecayed = set()
    for name, module in gpt.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            if key.endswith("bias") or isinstance(module, (*_NORMS, nn.Embedding)):
                undecayed.add(f"{name}.{key}" if name else key)
    groups: dict[tuple[float, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in gpt.named_parameters():
        if parameter.requires_grad:
            own_rate = _rate(name, gpt.layers, rate, new_row_rate, layer_decay)
            key = (own_rate, weight_decay is not None and name in undecayed)
            groups.setdefault(key, []).append((name, parameter))
    if weight_decay is None:
        return [{"params": [parameter for _, parameter in part], "lr": key[0]} for key, part in groups.items()]
    return [
        # coqui's order: weights, then the rest, each by name
        {
            "params": [parameter for _, parameter in sorted(groups[own_rate, bare])],
            "weight_decay": 0 if bare else weight_decay,
            "lr": own_rate,
        }
        # the run's own rate first: it is the one that is logged
        for own_rate in sorted({own_rate for own_rate, _ in groups}, key=lambda own_rate: (own_rate != rate, -own_rate))
        for bare in (False, True)
        if (own_rate, bare) in groups
    ]


def _rate(name: str, layers: int, rate: float, new_row_rate: float | None, layer_decay: float) -> float:
    if name.startswith(NEW_ROWS):
        return rate if new_row_rate is None else new_row_rate
    layer = re.match(r"gpt\.h\.(\d+)\.", name)
    if layer:
        return rate * layer_decay ** (layers - 1 - int(layer.group(1)))
    return rate if name.startswith(_TOP) else rate * layer_decay**layers
