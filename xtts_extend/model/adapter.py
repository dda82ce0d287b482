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


def difference(
    weights: Mapping[str, Tensor], base: Mapping[str, Tensor], rank: int | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take apart what a run changed and what it started from.

    Args:
        weights: of `Xtts`, of a run.
        base: what it started from; its token tensors may have fewer rows.
        rank: keep the largest directions of the change of each matrix of the transformer, so many (truncated singular
            value decomposition), and other tensors whole; None keeps all.

    Returns:
        The base's weights with the run's rows for new tokens, and the adapter that `merge` makes the run's of them.
    """
    plain: dict[str, Tensor] = {}
    adapter: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        rows = base[name].shape[0] if name.removeprefix("gpt.") in TOKEN_TENSORS else None
        plain[name] = base[name] if rows is None else torch.cat([base[name], tensor[rows:]])
        if torch.equal(plain[name], tensor):
            continue
        is_matrix = ".gpt.h." in name and name.endswith(tuple(f"{target}.weight" for target in _TARGETS))
        if rank is None or not is_matrix:
            adapter[name] = tensor
            continue
        left, sizes, right = torch.linalg.svd((tensor - base[name]).double(), full_matrices=False)
        root = (sizes[:rank] / _ALPHA_PER_RANK).sqrt()
        factors = (left[:, :rank] * root).T, (root[:, None] * right[:rank]).T
        for suffix, factor in zip((_A, _B), factors, strict=True):
            adapter[name.removesuffix(".weight") + suffix] = factor.to(tensor.dtype).contiguous()
    return plain, adapter
