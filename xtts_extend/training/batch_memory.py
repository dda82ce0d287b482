"""Run trial training steps to find the largest batch that fits in GPU memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.model.forward import AUDIO_STOPS, conditioning_frames
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")

#: Number of positions that a one-token text occupies in the transformer's sequence.
_TEXT_FRAMES = 2
#: Share of GPU memory that `--batch-frames auto` leaves free.
_FREE_SHARE = 0.1


def find_batch_frames(state: RunState, longest: int) -> int:
    """Return the largest batch size, in frames, that leaves a tenth of GPU memory free.

    Args:
        state: The run's state, with the model and the optimizer on the GPU.
        longest: Length of the longest sample, in frames.

    Raises:
        ConfigError: No GPU is visible.
        MachineError: A batch with only the longest sample does not fit in memory.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "--batch-frames auto needs a GPU to measure its memory, but no GPU is visible. Pass a number of frames."
        )
    limit = int(torch.cuda.get_device_properties(0).total_memory * (1 - _FREE_SHARE))
    count = largest_count(lambda samples: _peak_memory(state, samples, longest), limit)
    logger.info(
        " > --batch-frames auto: using %d frames per batch, which is %d times the length of the longest sample.",
        count * longest,
        count,
    )
    return count * longest


def largest_count(peak_memory: Callable[[int], int], limit: int) -> int:
    """Return the largest number of samples that a training step can process within a memory limit.

    Args:
        peak_memory: Function that maps a number of samples to a step's peak memory in bytes; it may raise
            `torch.OutOfMemoryError`.
        limit: Memory limit in bytes.

    Raises:
        MachineError: A single sample exceeds the limit.

    >>> largest_count(lambda samples: 1_000_000 + 250_000 * samples, limit=4_000_000)
    12
    """
    one, two = (_peak_or_over_limit(peak_memory, count, limit) for count in (1, 2))
    if one > limit:
        raise MachineError(
            f"The longest sample alone does not fit in {limit / 1e9:.1f} GB ({1 - _FREE_SHARE:.0%} of GPU memory). "
            "Exclude long samples with --coqpit.model_args.max_wav_length, or use --gradient-checkpointing."
        )
    count = 1 + (limit - one) // max(1, two - one)
    while count > 1 and _peak_or_over_limit(peak_memory, count, limit) > limit:
        count = count * 9 // 10
    return count


def _peak_or_over_limit(peak_memory: Callable[[int], int], samples: int, limit: int) -> int:
    """Return the peak memory in bytes, or a number above the limit if memory runs out."""
    try:
        return peak_memory(samples)
    except torch.OutOfMemoryError:
        return limit + 1
    finally:
        torch.cuda.empty_cache()


def _peak_memory(state: RunState, samples: int, frames: int) -> int:
    """Return the peak GPU memory in bytes, moments included, of a step on `samples` samples of `frames` frames each."""
    model, config, optimizer = state.model, state.config, state.optimizer
    # The dummy samples are nearly all audio, which needs more memory than text.
    codes = max(1, frames - conditioning_frames(config.model_args) - _TEXT_FRAMES - AUDIO_STOPS)
    torch.cuda.reset_peak_memory_stats()
    model.xtts.gpt.train()
    batch = model.formatted(
        {
            "padded_text": torch.ones(samples, 1, dtype=torch.int32),
            "text_lengths": torch.ones(samples, dtype=torch.long),
            "wav": None,
            "codes": torch.zeros(samples, codes, dtype=torch.long),
            "is_encoded": torch.ones(samples, dtype=torch.bool),
            "wav_lengths": torch.full((samples,), codes * config.model_args.gpt_code_stride_len),
            "conditioning": torch.zeros(samples, 1, 1, config.model_args.max_conditioning_length),
            "cond_idxs": None,
            # With distillation, the base model runs on replayed samples too.
            "replay": torch.full((samples,), model.distill_weight > 0),
            "has_distribution": torch.zeros(samples, dtype=torch.bool),
        }
    )
    try:
        with state.autocast():
            losses = model.train_step(batch, None)[1]
        losses["loss"].backward()
        peak = torch.cuda.max_memory_allocated()
        if not optimizer.state:
            # Adam allocates its two moments at the first update.
            peak += 2 * sum(parameter.nbytes for parameter in model.parameters() if parameter.grad is not None)
        return peak
    finally:
        optimizer.zero_grad(set_to_none=True)
