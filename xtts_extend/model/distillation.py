"""What the base would have said, and how far a model has moved from it, on utterances of the languages it knew.

Knowledge distillation (Hinton et al., 2015) with the base as the teacher: the divergence of the two distributions over
audio codes, at every place of an utterance. Of the base's distribution the most likely codes are kept, and the
probability of all others as one number: the divergence of these is a lower bound of the whole one, and zero when
nothing has moved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xtts_extend.data.encoded import TOP_K


def top_distribution(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits (…, codes) → the `TOP_K` most likely ids and their log probabilities (float32), (…, TOP_K) each."""
    log_probs, ids = torch.log_softmax(logits.float(), dim=-1).topk(TOP_K, dim=-1)
    return ids, log_probs


def divergence(top_ids: Tensor, top_log_probs: Tensor, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the base's distributions and a model's, at each place.

    Args:
        top_ids, top_log_probs: of the base, (places, kept) each.
        logits: of the model, (places, codes).

    Returns:
        (places,), in nats.
    """
    own = torch.log_softmax(logits.float(), dim=-1).gather(-1, top_ids)
    probs = top_log_probs.exp()
    # where nearly nothing is left, a logarithm of rounding errors would say anything
    rest = (1 - probs.sum(-1)).clamp(min=1e-4)
    own_rest = (1 - own.exp().sum(-1)).clamp(min=1e-4)
    return (probs * (top_log_probs - own)).sum(-1) + rest * (rest.log() - own_rest.log())


class Teacher:
    """The base as it was: frozen, in bfloat16, without dropout.

    Args:
        gpt: coqui's `GPT` with the base's weights; it is copied.
    """

    def __init__(self, gpt: Any) -> None:
        self.gpt = copy.deepcopy(gpt).to(torch.bfloat16).eval().requires_grad_(False)
        # norms compute in float32, and want their weights so
        for module in self.gpt.modules():
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.float()

    @torch.no_grad()
    def distributions(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The base's distributions for the samples of a formatted batch: (samples, places, TOP_K) each."""
        device = batch["text_inputs"].device
        self.gpt.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            _, _, logits = self.gpt(
                batch["text_inputs"],
                batch["text_lengths"],
                batch["audio_codes"],
                batch["wav_lengths"],
                cond_mels=batch["cond_mels"].to(torch.bfloat16),
            )
        return top_distribution(logits.transpose(1, 2))
