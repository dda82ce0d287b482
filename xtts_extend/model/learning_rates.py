"""Divide the optimizer's parameters into groups, each with one learning rate and one weight decay."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_NORMS = (nn.LayerNorm, nn.GroupNorm)
#: Prefixes of the parameters that hold the rows of new tokens if old rows are frozen.
NEW_ROWS = ("text_embedding.new.", "text_head.new.")
#: Prefixes of the parameters after the last transformer layer.
_TOP = ("gpt.ln_f.", "final_norm.", "mel_head.", "text_head.")


def configured_groups(gpt: Any, config: Any) -> list[dict[str, Any]]:
    """Return the parameter groups for a `NewLanguageConfig`; see `parameter_groups`."""
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
    """Return the trained parameters of coqui's `GPT` in groups that each have one learning rate and one weight decay.

    Args:
        gpt: coqui's `GPT`, with frozen rows and adapters in place.
        rate: Learning rate of the last layer and the modules after it.
        new_row_rate: Learning rate of the rows of new tokens. None means `rate`.
        layer_decay: Ratio of each layer's rate to that of the layer above. Embeddings and conditioning count as a layer
            below the first (discriminative fine-tuning; Howard and Ruder, 2018).
        weight_decay: Weight decay for weight matrices. Biases, norms and embeddings are not decayed, as in coqui's
            GPTTrainer. If it is None, the optimizer's own value is used for all parameters.
    """
    undecayed = set()
    for name, module in gpt.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            if key.endswith("bias") or isinstance(module, (*_NORMS, nn.Embedding)):
                undecayed.add(f"{name}.{key}" if name else key)
    groups: dict[tuple[float, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in gpt.named_parameters():
        if parameter.requires_grad:
            parameter_rate = _rate(name, gpt.layers, rate, new_row_rate, layer_decay)
            key = (parameter_rate, weight_decay is not None and name in undecayed)
            groups.setdefault(key, []).append((name, parameter))
    if weight_decay is None:
        return [{"params": [parameter for _, parameter in group], "lr": key[0]} for key, group in groups.items()]
    return [
        # This is coqui's order: first the weights and then the rest, each sorted by name.
        {
            "params": [parameter for _, parameter in sorted(groups[group_rate, is_undecayed])],
            "weight_decay": 0 if is_undecayed else weight_decay,
            "lr": group_rate,
        }
        # The run's rate comes first because the first group's rate is logged.
        for group_rate in sorted({group_rate for group_rate, _ in groups}, key=lambda value: (value != rate, -value))
        for is_undecayed in (False, True)
        if (group_rate, is_undecayed) in groups
    ]


def _rate(name: str, layers: int, rate: float, new_row_rate: float | None, layer_decay: float) -> float:
    if name.startswith(NEW_ROWS):
        return rate if new_row_rate is None else new_row_rate
    layer = re.match(r"gpt\.h\.(\d+)\.", name)
    if layer:
        return rate * layer_decay ** (layers - 1 - int(layer.group(1)))
    return rate if name.startswith(_TOP) else rate * layer_decay**layers
