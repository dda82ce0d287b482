"""Low-rank adapters (LoRA; Hu et al., 2021) on the transformer's matrices, through peft.

The base's matrices are no longer trained: what is learned lies in small matrices beside them. In a checkpoint and in an
export the base's tensors keep the names and the values they had, and the adapter is kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xtts_extend.model.embedding import TOKEN_TENSORS

KINDS = ("none", "lora")
#: The matrices of attention and of the feed-forward layers, as transformers' GPT-2 names them.
_TARGETS = ["c_attn", "c_proj", "c_fc"]
#: The adapter's output is weighted with alpha / rank; so that another rank needs no other learning rate.
_ALPHA_PER_RANK = 2
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapter(gpt: Any, rank: int) -> None:
    """Put adapters beside the matrices of coqui's `GPT`; they and the rows of new tokens are what trains from here on.

    At first they change nothing: one factor of each is zero.
    """
    # some seconds: only who wants an adapter waits for them
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=_ALPHA_PER_RANK * rank, lora_dropout=0.0, target_modules=_TARGETS, fan_in_fan_out=True
    )
    inject_adapter_in_model(config, gpt.gpt)
    for name, parameter in gpt.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(("text_embedding.new.", "text_head.new.")))


def plain_name(name: str) -> str:
    """The name that a tensor has without adapters."""
    return name.replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    """Whether a tensor of a state dict belongs to an adapter."""
    return ".lora_" in name


def matrix_of(name: str) -> str:
    """What a tensor that `merge` takes changes: of a factor its matrix, of another one the tensor of its name."""
    return name.partition(".lora_")[0] + ".weight" if is_adapter(name) else name


def merge(weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that do without their adapter what they did with it.

    Args:
        weights: of `Xtts`, under plain names.
        adapter: the two factors of a matrix, as a checkpoint holds them, or a tensor that takes another one's place.
    """
    merged = dict(weights)
    for name, tensor in adapter.items():
        if name.endswith(_A):
            matrix = name.removesuffix(_A) + ".weight"
            # GPT-2's matrices are stored as (in, out)
            merged[matrix] = weights[matrix] + _ALPHA_PER_RANK * (adapter[name.removesuffix(_A) + _B] @ tensor).T
        elif not name.endswith(_B):
            merged[name] = tensor
    return merged


def difference(weights: Mapping[str, Tensor], base: Mapping[str, Tensor], rank: int | None = None) -> dict[str, Tensor]:
    """What a run changed of what it started from.

    Args:
        weights: of `Xtts`, of a run.
        base: what it started from; its token tensors may have fewer rows, which are the run's first.
        rank: of the change of each matrix of the transformer keep this many of its largest directions (truncated
            singular value decomposition) where the two factors are smaller than the matrix; None keeps all.

    Returns:
        The new rows of the token tensors, under the names of these; factors, as `merge` takes them; and of all else
        that differs the run's tensors. `changed_tensors` takes it.
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
    """What takes the place of a base's tensors, in float32: `difference` the other way round.

    Args:
        base: of `Xtts`; the tensors that change are enough.
        change: as `difference` gives it, or factors of an adapter.
    """
    change = {name: tensor.float() for name, tensor in change.items()}
    rows = {
        name: torch.cat([base[name].float(), change.pop(name)])
        for name in [f"gpt.{name}" for name in TOKEN_TENSORS]
        if name in change
    }
    merged = merge(base, change)
    return {name: tensor for name, tensor in merged.items() if tensor is not base.get(name)} | rows
