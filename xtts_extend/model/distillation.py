"""Knowledge distillation (Hinton et al., 2015) with the base as the teacher, on utterances of the base's languages.

The loss is the divergence between the two models' distributions over audio codes at every position of an utterance.
Only the probabilities of the base's most likely codes are stored, along with the total probability of all other codes
as one number. The divergence between these reduced distributions is a lower bound on the full divergence, and it is
zero if the model has not changed.
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
    """Return the `TOP_K` most likely codes and their log probabilities.

    Args:
        logits: Logits of the codes, (…, codes).

    Returns:
        Ids and float32 log probabilities, (…, TOP_K) each.
    """
    log_probs, ids = torch.log_softmax(logits.float(), dim=-1).topk(TOP_K, dim=-1)
    return ids, log_probs


def divergence(top_ids: Tensor, top_log_probs: Tensor, logits: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of a model's distributions from the base's, at each position.

    Args:
        top_ids: The base's most likely codes, (positions, TOP_K).
        top_log_probs: Their log probabilities, (positions, TOP_K).
        logits: The model's logits, (positions, codes).

    Returns:
        The divergences in nats, (positions,).
    """
    model_log_probs = torch.log_softmax(logits.float(), dim=-1).gather(-1, top_ids)
    probs = top_log_probs.exp()
    # The clamp keeps the logarithm from amplifying rounding errors when almost no probability is left.
    rest = (1 - probs.sum(-1)).clamp(min=1e-4)
    model_rest = (1 - model_log_probs.exp().sum(-1)).clamp(min=1e-4)
    return (probs * (top_log_probs - model_log_probs)).sum(-1) + rest * (rest.log() - model_rest.log())


@dataclass(frozen=True)
class Replayed:
    """The audio targets in a batch that are replayed codes or their stop tokens, and where to find their distributions.

    Attributes:
        stored_targets: Indices of the audio targets whose distribution is stored in the batch, (stored targets,).
        stored_rows: Row of each of these targets in the batch's stored distributions, (stored targets,).
        stored_steps: Step of each of these targets in the batch's stored distributions, (stored targets,).
        teacher_rows: Indices of the samples whose distributions the teacher has to compute, (teacher samples,).
        teacher_layout: Layout of these samples, or None if there are none.
        teacher_targets: Indices of these samples' audio targets in the batch, (teacher targets,).
        teacher_positions: Indices of the same targets in `teacher_layout`, (teacher targets,).
    """

    stored_targets: Tensor
    stored_rows: Tensor
    stored_steps: Tensor
    teacher_rows: Tensor
    teacher_layout: Layout | None
    teacher_targets: Tensor
    teacher_positions: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Any], gpt: Any) -> Replayed:
        """Find the replayed targets of a collated batch that has a layout and is on the CPU."""
        layout: Layout = batch["layout"]
        rows, steps = layout.audio_rows, layout.audio_steps
        is_stored = batch["has_distribution"]
        # Includes the first stop token after the codes.
        is_replayed = batch["replay"][rows] & (steps <= layout.code_counts[rows])
        stored_targets = (is_replayed & is_stored[rows]).nonzero().squeeze(1)
        needs_teacher = batch["replay"] & ~is_stored
        teacher_rows = needs_teacher.nonzero().squeeze(1)
        teacher_targets = (is_replayed & needs_teacher[rows]).nonzero().squeeze(1)
        teacher_layout, teacher_positions = None, teacher_targets
        if len(teacher_rows):
            lengths = batch["text_lengths"][teacher_rows], batch["wav_lengths"][teacher_rows]
            teacher_layout = Layout.of(*lengths, None, gpt)
            firsts = (teacher_layout.audio_steps == 0).nonzero().squeeze(1)
            teacher_positions = firsts[(needs_teacher.cumsum(0) - 1)[rows[teacher_targets]]] + steps[teacher_targets]
        return cls(
            stored_targets=stored_targets,
            stored_rows=(is_stored.cumsum(0) - 1)[rows[stored_targets]],
            stored_steps=steps[stored_targets],
            teacher_rows=teacher_rows,
            teacher_layout=teacher_layout,
            teacher_targets=teacher_targets,
            teacher_positions=teacher_positions,
        )

    def to(self, device: torch.device) -> Replayed:
        """Return a copy on the given device."""
        return to_device(self, device)


class Teacher:
    """A frozen copy of the base in bfloat16, without dropout.

    Args:
        gpt: coqui's `GPT` with the base's weights.
    """

    def __init__(self, gpt: Any) -> None:
        self.gpt = copy.deepcopy(gpt).to(torch.bfloat16).eval().requires_grad_(False)
        # Normalization layers compute in float32 and expect float32 weights.
        for module in self.gpt.modules():
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.float()

    @torch.no_grad()
    def distributions(
        self, text_inputs: Tensor, audio_codes: Tensor, cond_mels: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Return the base's distributions at the audio targets of a batch.

        Args:
            text_inputs: Padded token ids, (batch, tokens).
            audio_codes: Padded codes, (batch, codes).
            cond_mels: Spectrograms of the conditioning slices, (batch, 1, 80, frames).
            layout: Layout of the batch.

        Returns:
            Ids and log probabilities, (audio targets, TOP_K) each.
        """
        device = text_inputs.device
        self.gpt.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            outputs = forward(self.gpt, text_inputs, audio_codes, cond_mels.to(torch.bfloat16), layout)
        return top_distribution(outputs.audio_logits)
