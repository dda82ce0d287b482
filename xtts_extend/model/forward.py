"""Compute the same losses as coqui's `GPT.forward`, but faster.

Padding is moved to the end of each sample's sequence, where causal attention never reaches it. Therefore, no mask is
needed, the fast attention kernels can be used, and a batch is only as wide as its longest sample instead of the longest
text plus the longest audio. Positions are computed on the CPU before the batch is moved to the device, so that the CPU
never has to wait for the GPU. Logits are computed only where a loss needs them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: Number of stop tokens after an utterance's codes that coqui's loss includes.
AUDIO_STOPS = 4
#: The number of frames that coqui's perceiver returns for a conditioning slice of any length.
_PERCEIVER_FRAMES = 32

_Dataclass = TypeVar("_Dataclass")


def conditioning_frames(model_args: Any) -> int:
    """Return how many positions in the transformer's sequence the conditioning occupies."""
    if model_args.gpt_use_perceiver_resampler:
        return _PERCEIVER_FRAMES
    return -(-int(model_args.max_conditioning_length) // int(model_args.gpt_code_stride_len))


def to_device(tensors: _Dataclass, device: torch.device) -> _Dataclass:
    """Return a copy of a dataclass with its tensors, and those of nested dataclasses, on the given device."""
    moved: dict[str, Any] = {}
    for item in fields(tensors):  # type: ignore[arg-type]
        value = getattr(tensors, item.name)
        if isinstance(value, Tensor):
            moved[item.name] = value.to(device, non_blocking=True)
        elif is_dataclass(value):
            moved[item.name] = to_device(value, device)
    return replace(tensors, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Layout:
    """The order of the positions in a batch's sequences, and which positions contribute to a loss.

    A sequence consists of the conditioning; a start token and the text; a start token, the audio and stop tokens; and
    padding. Positions are counted from the end of the conditioning.

    Attributes:
        order: For each position, its index in the sample's padded text followed by its padded audio, (batch,
            positions).
        text_positions: Positions in the flattened batch that predict a text target, (text targets,).
        text_target_positions: Positions of these targets in the flattened padded text, (text targets,).
        audio_positions: Positions in the flattened batch that predict an audio target, (audio targets,).
        audio_target_positions: Positions of these targets in the flattened padded audio, (audio targets,).
        audio_rows: Index of each audio target's sample, (audio targets,).
        audio_steps: Index of each audio target within the sample's audio, (audio targets,).
        code_counts: Number of codes in each sample, (batch,).
        text_width: Number of positions in the padded text.
        audio_width: Number of positions in the padded audio.
    """

    order: Tensor
    text_positions: Tensor
    text_target_positions: Tensor
    audio_positions: Tensor
    audio_target_positions: Tensor
    audio_rows: Tensor
    audio_steps: Tensor
    code_counts: Tensor
    text_width: int
    audio_width: int

    @classmethod
    def of(
        cls, text_lengths: Tensor, wav_lengths: Tensor, cond_idxs: Tensor | None, gpt: Any, *, is_share: bool = False
    ) -> Layout:
        """Compute the layout of a batch that is still on the CPU.

        Args:
            text_lengths: Number of tokens in each sample, (batch,).
            wav_lengths: Number of audio samples in each sample's recording, (batch,).
            cond_idxs: Start and end of each prompt, in audio samples, (batch, 2), or None. As in coqui, only the prompt
                of the batch's last utterance is excluded from the targets, and its position is counted in units of 256
                audio samples, although a code covers 1,024. If the batch has only one utterance, this may exclude all
                its targets. In that case, coqui's loss is NaN; here, the prompt is ignored.
            gpt: coqui's `GPT`.
            is_share: Whether the samples are a micro-batch that includes the last sample of the full batch.
        """
        text_counts = text_lengths + 1
        code_counts = torch.ceil(wav_lengths / gpt.code_stride_len).long()
        audio_counts = code_counts + AUDIO_STOPS
        text_width, audio_width = int(text_counts.max()), int(audio_counts.max())
        positions = torch.arange(int((text_counts + audio_counts).max()))
        rows = torch.arange(len(text_counts)).unsqueeze(1)
        flat = rows * len(positions) + positions
        steps = positions - text_counts.unsqueeze(1)
        is_text = steps < 0
        is_target = ~is_text & (steps < audio_counts.unsqueeze(1))
        if cond_idxs is not None:
            unit = gpt.perceiver_cond_length_compression if gpt.use_perceiver_resampler else gpt.code_stride_len
            start, end = (int(index) // unit for index in cond_idxs[-1])
            kept = is_target[-1] & ((steps[-1] < start) | (steps[-1] >= end))
            if is_share or len(text_counts) > 1 or kept.any():
                is_target[-1] = kept
        order = torch.where(is_text, positions, steps + text_width).clamp(max=text_width + audio_width - 1)
        return cls(
            order=order,
            text_positions=flat[is_text],
            text_target_positions=(rows * text_width + positions)[is_text],
            audio_positions=flat[is_target],
            audio_target_positions=(rows * audio_width + steps)[is_target],
            audio_rows=rows.expand_as(steps)[is_target],
            audio_steps=steps[is_target],
            code_counts=code_counts,
            text_width=text_width,
            audio_width=audio_width,
        )

    def to(self, device: torch.device) -> Layout:
        """Return a copy on the given device."""
        return to_device(self, device)

    @property
    def text_targets(self) -> int:
        """Number of targets that the text loss is averaged over."""
        return len(self.text_positions)

    @property
    def audio_targets(self) -> int:
        """Number of targets that the audio loss is averaged over."""
        return len(self.audio_positions)


@dataclass(frozen=True)
class Outputs:
    """The losses of a batch, each averaged over its targets, and the logits of its audio targets.

    Attributes:
        loss_text: Cross entropy of the text targets, a scalar.
        loss_mel: Cross entropy of the audio targets, a scalar.
        audio_logits: Logits of the audio targets, (audio targets, codes).
    """

    loss_text: Tensor
    loss_mel: Tensor
    audio_logits: Tensor


def forward(gpt: Any, text_inputs: Tensor, audio_codes: Tensor, cond_mels: Tensor, layout: Layout) -> Outputs:
    """Compute the losses and logits that `GPT.forward` computes. All tensors must be on the same device.

    Args:
        gpt: coqui's `GPT`.
        text_inputs: Padded token ids, (batch, tokens).
        audio_codes: Padded DVAE codes, (batch, codes).
        cond_mels: Spectrograms of the conditioning slices, (batch, 1, 80, frames).
        layout: Layout of the batch.
    """
    text_inputs, text_targets = _shift(
        text_inputs[:, : layout.text_width - 1].long(), gpt.start_text_token, gpt.stop_text_token
    )
    codes = F.pad(audio_codes, (0, layout.audio_width - 1 - audio_codes.shape[1]))
    steps = torch.arange(codes.shape[1], device=codes.device)
    codes = codes.masked_fill(steps >= layout.code_counts.unsqueeze(1), gpt.stop_audio_token)
    audio_inputs, audio_targets = _shift(codes, gpt.start_audio_token, gpt.stop_audio_token)

    text = gpt.text_embedding(text_inputs) + gpt.text_pos_embedding(text_inputs)
    audio = gpt.mel_embedding(audio_inputs) + gpt.mel_pos_embedding(audio_inputs)
    joined = torch.cat([text, audio], dim=1)
    packed = joined.gather(1, layout.order.unsqueeze(-1).expand(-1, -1, joined.shape[-1]))
    conditioning = gpt.get_style_emb(cond_mels).transpose(1, 2)
    hidden = torch.cat([conditioning, packed], dim=1)

    transformer = gpt.gpt
    recompute = transformer.gradient_checkpointing and gpt.training
    hidden = transformer.drop(hidden)
    for block in transformer.h:
        hidden = checkpoint(block, hidden, use_reentrant=False) if recompute else block(hidden)
    hidden = hidden[:, conditioning.shape[1] :].flatten(0, 1)
    text_logits = gpt.text_head(gpt.final_norm(transformer.ln_f(hidden.index_select(0, layout.text_positions))))
    audio_logits = gpt.mel_head(gpt.final_norm(transformer.ln_f(hidden.index_select(0, layout.audio_positions))))
    return Outputs(
        _loss(text_logits, text_targets.flatten()[layout.text_target_positions], gpt.label_smoothing),
        _loss(audio_logits, audio_targets.flatten()[layout.audio_target_positions], gpt.label_smoothing),
        audio_logits,
    )


def _loss(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross entropy over the targets, or 0 for a micro-batch without targets."""
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing) if len(targets) else logits.float().sum()


def _shift(ids: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return ids (batch, n) as inputs, after `start`, and as targets, before `stop`; both are (batch, n + 1)."""
    return F.pad(ids, (1, 0), value=start), F.pad(ids, (0, 1), value=stop)
