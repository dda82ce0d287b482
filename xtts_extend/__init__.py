"""Teach Coqui's XTTS a new language. Importing this package does not patch anything or load heavy modules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xtts_extend.checkpoint.inspect import CheckpointInfo

__version__ = "0.1.0"
__all__ = ["__version__", "enable", "inspect_checkpoint"]


def enable() -> None:
    """Patch coqui-tts so that it supports the registered languages and language packs.

    Calling it again has no effect. See `xtts_extend.text.tokenizer.enable` and `xtts_extend.pack.route.enable`.

    >>> enable()
    >>> from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    >>> VoiceBpeTokenizer("am/vocab.json").preprocess_text("ሰላም ዓለም። 3", "am")
    'ሰላም ዓለም. ሦስት'
    """
    from xtts_extend.pack.route import enable as enable_packs
    from xtts_extend.text.tokenizer import enable as enable_tokenizer

    enable_tokenizer()
    enable_packs()


def inspect_checkpoint(path: str | Path) -> CheckpointInfo:
    """Identify a checkpoint file, run folder or base model directory by its contents.

    See `xtts_extend.checkpoint.inspect.inspect_checkpoint` for the errors that it raises.

    >>> info = inspect_checkpoint("runs/RUN")
    >>> info.kind, info.step
    ('training', 4)
    """
    from xtts_extend.checkpoint.inspect import inspect_checkpoint as inspect

    return inspect(path)
