"""Low-rank adapters (LoRA; Hu et al., 2021) for the transformer's weight matrices, implemented with peft.

The base's matrices are frozen, and small matrices alongside them are trained instead. In checkpoints and exports, the
base's tensors keep their names and values, and the adapter is stored separately.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xtts_extend.model.embedding import TOKEN_TENSORS

KINDS = ("none", "lora")
#: The matrices of the attention and feed-forward layers, as transformers' GPT-2 names them.
_TARGETS = ["c_attn", "c_proj", "c_fc"]
#: The ratio alpha / rank that scales the adapter's output, fixed so that the learning rate does not depend on the rank.
_ALPHA_PER_RANK = 2
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapter(gpt: Any, rank: int) -> None:
    """Add adapters to the matrices of coqui's `GPT`, and freeze everything except the adapters and new tokens' rows.

    The outputs do not change at first, because one factor of each adapter is zero.

    Args:
        gpt: coqui's `GPT`.
        rank: Rank of the adapters.
    """
    # This import takes several seconds, so it is done only for runs with an adapter.
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=_ALPHA_PER_RANK * rank, lora_dropout=0.0, target_modules=_TARGETS, fan_in_fan_out=True
    )
    inject_adapter_in_model(config, gpt.gpt)
    for name, parameter in gpt.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(("text_embedding.new.", "text_head.new.")))


def plain_name(name: str) -> str:
    """Return the name that a tensor has in a model without adapters."""
    return name.replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    """Return whether a tensor of a state dict belongs to an adapter."""
    return ".lora_" in name


def matrix_of(name: str) -> str:
    """Return the name of the base tensor that an adapter tensor changes or replaces; see `merge`."""
    return name.partition(".lora_")[0] + ".weight" if is_adapter(name) else name


def merge(weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with an adapter merged into them.

    Args:
        weights: Weights of `Xtts`, under plain names.
        adapter: Pairs of factors, as stored in a checkpoint, and tensors that replace the weights with the same names.
    """
    merged = dict(weights)
    for name, tensor in adapter.items():
        if name.endswith(_A):
            matrix = name.removesuffix(_A) + ".weight"
            # GPT-2's matrices are stored as (in, out).
            merged[matrix] = weights[matrix] + _ALPHA_PER_RANK * (adapter[name.removesuffix(_A) + _B] @ tensor).T
        elif not name.endswith(_B):
            merged[name] = tensor
    return merged


def difference(weights: Mapping[str, Tensor], base: Mapping[str, Tensor], rank: int | None = None) -> dict[str, Tensor]:
    """Return what a run changed in the weights that it started from.

    Args:
        weights: The run's weights, under the names of `Xtts`.
        base: The weights that the run started from. The token tensors may have fewer rows than the run's; in that case,
            the run's begin with the base's rows.
        rank: Rank of the approximation of each transformer matrix's change, by truncated singular value decomposition.
            It is used only where the two factors are smaller than the matrix. None keeps the complete change.

    Returns:
        The new rows of the token tensors, under the tensors' names; pairs of factors, as `merge` takes them; and the
        run's version of every other tensor that differs. `changed_tensors` is the inverse.
    """
    changed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.removeprefix("gpt.") in TOKEN_TENSORS:
            if new := tensor.shape[0] - base[name].shape[0]:
                changed[name] = tensor[-new:]
            continue
        if torch.equal(base[name], tensor):
            continue
        is_matrix = ".gpt.h." in name and name.endswith(tuple(f"{target}.weight" for target in _TARGETS))
        if rank is None or not is_matrix or rank * sum(tensor.shape) >= tensor.numel():
            changed[name] = tensor
            continue
        left, sizes, right = torch.linalg.svd((tensor - base[name]).double(), full_matrices=False)
        root = (sizes[:rank] / _ALPHA_PER_RANK).sqrt()
        factors = (left[:, :rank] * root).T, (root[:, None] * right[:rank]).T
        for suffix, factor in zip((_A, _B), factors, strict=True):
            changed[name.removesuffix(".weight") + suffix] = factor.to(tensor.dtype).contiguous()
    return changed


def changed_tensors(base: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 tensors that replace the base's tensors. This is the inverse of `difference`.

    Args:
        base: Weights of the base, under the names of `Xtts`; only the tensors that change are needed.
        change: What `difference` returns, or the factors of an adapter.
    """
    change = {name: tensor.float() for name, tensor in change.items()}
    rows = {
        name: torch.cat([base[name].float(), change.pop(name)])
        for name in [f"gpt.{name}" for name in TOKEN_TENSORS]
        if name in change
    }
    merged = merge(base, change)
    return {name: tensor for name, tensor in merged.items() if tensor is not base.get(name)} | rows
