"""xtts_extend teaches Coqui's XTTS a new language. Importing it changes nothing and loads nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xtts_extend.checkpoint.inspect import CheckpointInfo

__version__ = "0.1.0"
__all__ = ["__version__", "enable", "inspect_checkpoint"]


def enable() -> None:
    """Teach coqui-tts the registered languages and those of language packs. Calling it again changes nothing.

    See `xtts_extend.text.tokenizer.enable` and `xtts_extend.pack.route.enable`.
    """
    from xtts_extend.pack.route import enable as enable_packs
    from xtts_extend.text.tokenizer import enable as enable_tokenizer

    enable_tokenizer()
    enable_packs()


def inspect_checkpoint(path: str | Path) -> CheckpointInfo:
    """Return what a checkpoint file, run folder or base directory is, judged by its content.

    See `xtts_extend.checkpoint.inspect.inspect_checkpoint` for the errors it raises.

    >>> info = inspect_checkpoint("runs/RUN")
    >>> info.kind, info.step
    ('training', 4)
    """
    from xtts_extend.checkpoint.inspect import inspect_checkpoint as inspect

    return inspect(path)
