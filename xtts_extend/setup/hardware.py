"""Hardware detection: bfloat16, data loader processes and TF32."""

from __future__ import annotations

import os

import torch

#: Number of data loader processes for a GPU: enough to have batches ready when the GPU needs them.
_LOADER_WORKERS = 4


def has_bf16() -> bool:
    """Return whether this machine multiplies bfloat16 matrices natively, without emulation."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def loader_workers() -> int:
    """Return the default number of data loader processes: up to 4 with a GPU, or 0 when training on the CPU."""
    return min(_LOADER_WORKERS, os.cpu_count() or 1) if torch.cuda.is_available() else 0


def prepare_device() -> None:
    """Enable TF32 for float32 matrix multiplication on GPUs that support it."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
