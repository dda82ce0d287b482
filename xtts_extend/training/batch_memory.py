"""The largest batch whose step fits into a GPU's memory, by trying."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.model.forward import AUDIO_STOPS, conditioning_frames
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")

#: Places of a text of one token.
_TEXT_FRAMES = 2
#: Share of the GPU's memory that `--batch-frames auto` leaves free.
_FREE_SHARE = 0.1


def find_batch_frames(state: RunState, widest: int) -> int:
    """The largest budget of frames that fits into the GPU's memory and leaves a tenth of it free, by trying.

    Args:
        state: with model and optimizer on the GPU.
        widest: frames of the longest sample.

    Raises:
        ConfigError: there is no GPU.
        MachineError: not even the longest sample fits.
    """
    if not torch.cuda.is_available():
        raise ConfigError("--batch-frames auto measures the memory of a GPU, and none is visible. Give a number.")
    limit = int(torch.cuda.get_device_properties(0).total_memory * (1 - _FREE_SHARE))
    count = largest_count(lambda samples: _peak_memory(state, samples, widest), limit)
    logger.info(" > --batch-frames auto: %d, %d of the longest samples", count * widest, count)
    return count * widest


def largest_count(peak_memory: Callable[[int], int], limit: int) -> int:
    """The largest number of samples whose step stays below a limit.

    Args:
        peak_memory: bytes that a step with so many samples needs at most; it may raise OutOfMemoryError.
        limit: in bytes.

    Raises:
        MachineError: one sample is too many.
    """
    one, two = (_measured(peak_memory, count, limit) for count in (1, 2))
    if one > limit:
        raise MachineError(
            f"Not one of the longest samples fits into {limit / 1e9:.1f} GB, which leave a tenth of the GPU free. "
            "Leave out long ones with --coqpit.model_args.max_wav_length, or use --gradient-checkpointing."
        )
    count = 1 + (limit - one) // max(1, two - one)
    while count > 1 and _measured(peak_memory, count, limit) > limit:
        count = count * 9 // 10
    return count


def _measured(peak_memory: Callable[[int], int], samples: int, limit: int) -> int:
    """The peak, or more than the limit where the memory does not suffice."""
    try:
        return peak_memory(samples)
    except torch.OutOfMemoryError:
        return limit + 1
    finally:
        torch.cuda.empty_cache()


def _peak_memory(state: RunState, samples: int, frames: int) -> int:
    """Bytes on the GPU while a step with so many samples of so many frames goes on, with the optimizer's moments."""
    model, config, optimizer = state.model, state.config, state.optimizer
    # nearly all of it audio, which costs more than text
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
            # where old languages are distilled, the base computes as well
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
            # Adam's, which the first update makes
            peak += 2 * sum(parameter.nbytes for parameter in model.parameters() if parameter.grad is not None)
        return peak
    finally:
        optimizer.zero_grad(set_to_none=True)
