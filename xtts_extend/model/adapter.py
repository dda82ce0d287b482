"""Low-rank adapters (LoRA; Hu et al., 2021) on the transformer's matrices, through peft.

The base's matrices are no longer trained: what is learned lies in small matrices beside them. In a checkpoint and in an
export the base's tensors keep the names and the values they had, and the adapter is kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
        adapter: the two factors of each matrix, as a checkpoint holds them.
    """
    merged = dict(weights)
    for name, a in adapter.items():
        if name.endswith(_A):
            matrix = name.removesuffix(_A) + ".weight"
            # GPT-2's matrices are stored as (in, out)
            merged[matrix] = weights[matrix] + _ALPHA_PER_RANK * (adapter[name.removesuffix(_A) + _B] @ a).T
    return merged
