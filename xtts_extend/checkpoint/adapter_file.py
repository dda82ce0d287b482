"""An adapter as a file of its own: its tensors, and the language that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from xtts_extend.errors import CheckpointError
from xtts_extend.files import atomic_write

ADAPTER_FILE = "adapter.safetensors"


def save_adapter(tensors: Mapping[str, Tensor], language: str, path: Path) -> None:
    """Write an adapter's tensors, named as in a checkpoint.

    Raises:
        MachineError: the disk is full or cannot be written to.
    """
    with atomic_write(path) as file:
        file.write(save(dict(tensors), metadata={"language": language}))


def load_adapter(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file that `save_adapter` wrote, and its language.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata()["language"]
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Export the run again.") from error
