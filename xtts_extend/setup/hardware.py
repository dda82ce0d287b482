"""What the machine can do."""

from __future__ import annotations

import os

import torch

#: Processes that load data for a GPU: the next batches are ready when it asks for them.
_LOADER_WORKERS = 4


def has_bf16() -> bool:
    """Whether this machine multiplies matrices in bfloat16, and does not merely imitate it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def loader_workers() -> int:
    """Processes that load data, where nobody says how many: none beside a CPU, which has no time to spare for them."""
    return min(_LOADER_WORKERS, os.cpu_count() or 1) if torch.cuda.is_available() else 0


def prepare_device() -> None:
    """Let float32 matrices be multiplied in TF32 on GPUs that have it."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
