"""The losses of coqui's `GPT.forward` on the same batch, at less cost.

Padding is moved to the end of each sample's sequence: there causal attention never sees it, no mask is needed, and the
fast attention kernels run; and a batch is as wide as its longest sample, not as the longest text and the longest audio
together. Where things lie is worked out on the CPU before the batch goes to the device, so that nothing waits for the
GPU. Logits are computed where a loss asks for them, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: Places of an utterance's audio beside its codes: coqui's loss counts so many stop tokens after them.
AUDIO_STOPS = 4
#: What coqui's perceiver makes of a conditioning slice, however long it is.
_PERCEIVER_FRAMES = 32

_Places = TypeVar("_Places")


def conditioning_frames(model_args: Any) -> int:
    """Places of the transformer's sequence that the conditioning takes."""
    if model_args.gpt_use_perceiver_resampler:
        return _PERCEIVER_FRAMES
    return -(-int(model_args.max_conditioning_length) // int(model_args.gpt_code_stride_len))


def to_device(places: _Places, device: torch.device) -> _Places:
    """A dataclass of tensors, and of such dataclasses, on a device."""
    moved: dict[str, Any] = {}
    for item in fields(places):  # type: ignore[arg-type]
        value = getattr(places, item.name)
        if isinstance(value, Tensor):
            moved[item.name] = value.to(device, non_blocking=True)
        elif is_dataclass(value):
            moved[item.name] = to_device(value, device)
    return replace(places, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Layout:
    """Where the places of a batch's sequences come from, and of which of them a loss asks for logits.

    A sequence is conditioning, start and text, start and audio and stops, padding. The conditioning is not counted.

    Attributes:
        order: (batch, places), index into a sample's padded text followed by its padded audio.
        text_at: (text targets,), places in the flattened batch whose next text token is a target.
        text_targets_at: (text targets,), where that target stands in the flattened padded text.
        audio_at, audio_targets_at: the same of the audio, (audio targets,).
        audio_rows, audio_steps: sample and place in its audio of each audio target, (audio targets,).
        code_counts: (batch,), codes of each sample.
        text_width, audio_width: places of the padded text and of the padded audio.
    """

    order: Tensor
    text_at: Tensor
    text_targets_at: Tensor
    audio_at: Tensor
    audio_targets_at: Tensor
    audio_rows: Tensor
    audio_steps: Tensor
    code_counts: Tensor
    text_width: int
    audio_width: int

    @classmethod
    def of(
        cls, text_lengths: Tensor, wav_lengths: Tensor, cond_idxs: Tensor | None, gpt: Any, *, is_share: bool = False
    ) -> Layout:
        """Work it out for a batch that is on the CPU still.

        Args:
            text_lengths: tokens of each sample, (batch,).
            wav_lengths: audio samples of each, (batch,).
            cond_idxs: the prompts' places in the audio, in samples, (batch, 2), or None. As coqui does, the prompt of
                the last sample alone is no target, in units of 256 samples where codes have 1,024. Of a sample that is
                alone in its batch nothing may be left then: coqui's loss is not a number, and here it has no prompt.
            gpt: coqui's `GPT`.
            is_share: these are some of the samples of a batch, among them its last.
        """
        text_counts = text_lengths + 1
        code_counts = torch.ceil(wav_lengths / gpt.code_stride_len).long()
        audio_counts = code_counts + AUDIO_STOPS
        text_width, audio_width = int(text_counts.max()), int(audio_counts.max())
        places = torch.arange(int((text_counts + audio_counts).max()))
        rows = torch.arange(len(text_counts)).unsqueeze(1)
        flat = rows * len(places) + places
        steps = places - text_counts.unsqueeze(1)
        is_text = steps < 0
        is_target = ~is_text & (steps < audio_counts.unsqueeze(1))
        if cond_idxs is not None:
            unit = gpt.perceiver_cond_length_compression if gpt.use_perceiver_resampler else gpt.code_stride_len
            start, end = (int(index) // unit for index in cond_idxs[-1])
            kept = is_target[-1] & ((steps[-1] < start) | (steps[-1] >= end))
            if is_share or len(text_counts) > 1 or kept.any():
                is_target[-1] = kept
        order = torch.where(is_text, places, steps + text_width).clamp(max=text_width + audio_width - 1)
        return cls(
            order=order,
            text_at=flat[is_text],
            text_targets_at=(rows * text_width + places)[is_text],
            audio_at=flat[is_target],
            audio_targets_at=(rows * audio_width + steps)[is_target],
            audio_rows=rows.expand_as(steps)[is_target],
            audio_steps=steps[is_target],
            code_counts=code_counts,
            text_width=text_width,
            audio_width=audio_width,
        )

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        return to_device(self, device)

    @property
    def text_targets(self) -> int:
        """How many targets the text loss is a mean of."""
        return len(self.text_at)

    @property
    def audio_targets(self) -> int:
        """How many targets the audio loss is a mean of."""
        return len(self.audio_at)


@dataclass(frozen=True)
class Outputs:
    """The losses of a batch, means over their targets, and the logits of its audio targets, (audio targets, codes)."""

    loss_text: Tensor
    loss_mel: Tensor
    audio_logits: Tensor


def forward(gpt: Any, text_inputs: Tensor, audio_codes: Tensor, cond_mels: Tensor, layout: Layout) -> Outputs:
    """`GPT.forward`, all tensors on one device.

    Args:
        gpt: coqui's `GPT`.
        text_inputs: padded token ids, (batch, tokens).
        audio_codes: padded DVAE codes, (batch, codes).
        cond_mels: of the conditioning, (batch, 1, 80, frames).
        layout: of the batch.
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
    # compute activations again in the backward pass
    again = transformer.gradient_checkpointing and gpt.training
    hidden = transformer.drop(hidden)
    for block in transformer.h:
        hidden = checkpoint(block, hidden, use_reentrant=False) if again else block(hidden)
    hidden = hidden[:, conditioning.shape[1] :].flatten(0, 1)
    text_logits = gpt.text_head(gpt.final_norm(transformer.ln_f(hidden.index_select(0, layout.text_at))))
    audio_logits = gpt.mel_head(gpt.final_norm(transformer.ln_f(hidden.index_select(0, layout.audio_at))))
    return Outputs(
        _loss(text_logits, text_targets.flatten()[layout.text_targets_at], gpt.label_smoothing),
        _loss(audio_logits, audio_targets.flatten()[layout.audio_targets_at], gpt.label_smoothing),
        audio_logits,
    )


def _loss(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Mean over the targets; 0 for a share of a batch that has none of them."""
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing) if len(targets) else logits.float().sum()


def _shift(ids: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """ids (batch, n) → what is read and what is to be said next, (batch, n + 1) each."""
    return F.pad(ids, (1, 0), value=start), F.pad(ids, (0, 1), value=stop)
