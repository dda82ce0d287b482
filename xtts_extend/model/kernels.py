"""Replacements for coqui's and transformers' modules that compute the same results with fewer or faster kernels."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "xtts_extend"


def use_fast_kernels(gpt: Any) -> None:
    """Replace modules of coqui's `GPT` with faster equivalents, keeping the names and values of its tensors."""
    config = copy.copy(gpt.gpt.config)
    config._attn_implementation_internal = _NAME
    gpt.gpt.drop = QuickDropout(gpt.gpt.drop.p)
    for block in gpt.gpt.h:
        # Only the layers see this configuration, so masks are still created as before.
        block.attn.config = config
        block.attn.resid_dropout = QuickDropout(block.attn.resid_dropout.p)
        block.mlp.dropout = QuickDropout(block.mlp.dropout.p)
        # transformers' implementation launches eight kernels.
        block.mlp.act = nn.GELU(approximate="tanh")
    for block in gpt.conditioning_encoder.attn:
        block.attention = ConditioningAttention(block.num_heads)


def quick_dropout(x: Tensor, p: float) -> Tensor:
    """Apply dropout with one 64-bit random number for every four elements.

    Drawing random numbers is the slowest part of dropout on CPUs.

    Args:
        x: Input of any shape.
        p: Dropout probability, rounded to a multiple of 1 / 65,536.
    """
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = (draws.view(torch.int16)[: x.numel()] < round(p * 65536) - 32768).view(x.shape)
    return (x * (1 / (1 - p))).masked_fill(dropped, 0.0)


class QuickDropout(nn.Dropout):
    """`nn.Dropout` that uses `quick_dropout` on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout to an input of any shape."""
        if self.training and self.p and x.device.type == "cpu":
            return quick_dropout(x, self.p)
        return super().forward(x)


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention with PyTorch's kernels, or with explicit matrix products if there is dropout on the CPU.

    PyTorch has no kernel for dropout on the CPU. The arguments are the same as in transformers; query, key and value
    are (batch, heads, positions, channels).
    """
    if query.device.type != "cpu" or not dropout or attention_mask is not None or scaling is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    positions = query.shape[2]
    causal_mask = torch.full((positions, positions), -torch.inf, dtype=query.dtype).triu(1)
    weights = torch.softmax((query * scaling) @ key.transpose(-1, -2) + causal_mask, dim=-1)
    attended = quick_dropout(weights, dropout).to(value.dtype) @ value
    return attended.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, attention_forward)


class ConditioningAttention(nn.Module):
    """Equivalent of coqui's `QKVAttentionLegacy` that never stores the positions × positions matrix.

    Args:
        heads: Number of attention heads.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, qkv: Tensor, mask: None = None, rel_pos: None = None) -> Tensor:
        """Return the attention output (batch, channels, positions) for qkv (batch, 3 × channels, positions)."""
        batch, width, positions = qkv.shape
        parts = qkv.reshape(batch, self.heads, -1, positions).chunk(3, dim=2)
        query, key, value = (part.transpose(-1, -2).contiguous() for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value)
        return attended.transpose(-1, -2).reshape(batch, width // 3, positions)
