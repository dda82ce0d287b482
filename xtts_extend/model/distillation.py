"""What the base would have said, and how far a model has moved from it, on utterances of the languages it knew.

Knowledge distillation (Hinton et al., 2015) with the base as the teacher: the divergence of the two distributions over
audio codes, at every place of an utterance. Of the base's distribution the most likely codes are kept, and the
probability of all others as one number: the divergence of these is a lower bound of the whole one, and zero when
nothing has moved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xtts_extend.data.encoded import TOP_K
from xtts_extend.model.forward import Layout, forward, to_device


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


@dataclass(frozen=True)
class Replayed:
    """Which audio targets of a batch are replayed codes or the stop after them, and what they are compared with.

    Attributes:
        kept_at: (kept targets,), of the batch's audio targets those whose distribution is kept.
        kept_rows, kept_steps: (kept targets,), their places in the batch's kept distributions.
        asked_rows: (asked samples,), the samples that the base has to be asked about.
        asked_layout: of these samples.
        asked_at: (asked targets,), of the batch's audio targets theirs.
        asked_places: (asked targets,), the same targets among those of `asked_layout`.
    """

    kept_at: Tensor
    kept_rows: Tensor
    kept_steps: Tensor
    asked_rows: Tensor
    asked_layout: Layout | None
    asked_at: Tensor
    asked_places: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Any], gpt: Any) -> Replayed:
        """Work it out for a collated batch with its layout, on the CPU."""
        layout: Layout = batch["layout"]
        rows, steps = layout.audio_rows, layout.audio_steps
        has = batch["has_distribution"]
        # up to the stop token, which follows the codes
        counts = batch["replay"][rows] & (steps <= layout.code_counts[rows])
        kept_at = (counts & has[rows]).nonzero().squeeze(1)
        asked = batch["replay"] & ~has
        asked_rows = asked.nonzero().squeeze(1)
        asked_at = (counts & asked[rows]).nonzero().squeeze(1)
        asked_layout, asked_places = None, asked_at
        if len(asked_rows):
            lengths = batch["text_lengths"][asked_rows], batch["wav_lengths"][asked_rows]
            asked_layout = Layout.of(*lengths, None, gpt)
            firsts = (asked_layout.audio_steps == 0).nonzero().squeeze(1)
            asked_places = firsts[(asked.cumsum(0) - 1)[rows[asked_at]]] + steps[asked_at]
        return cls(
            kept_at=kept_at,
            kept_rows=(has.cumsum(0) - 1)[rows[kept_at]],
            kept_steps=steps[kept_at],
            asked_rows=asked_rows,
            asked_layout=asked_layout,
            asked_at=asked_at,
            asked_places=asked_places,
        )

    def to(self, device: torch.device) -> Replayed:
        """The same on a device."""
        return to_device(self, device)


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
    def distributions(
        self, text_inputs: Tensor, audio_codes: Tensor, cond_mels: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """The base's distributions at the audio targets of a batch, (audio targets, TOP_K) each; see `forward`."""
        device = text_inputs.device
        self.gpt.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            outputs = forward(self.gpt, text_inputs, audio_codes, cond_mels.to(torch.bfloat16), layout)
        return top_distribution(outputs.audio_logits)
