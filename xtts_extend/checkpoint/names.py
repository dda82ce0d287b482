"""Names of a run's checkpoints, `checkpoint_N.pth` and `best_model_N.pth`, in the format of coqui's Trainer.

Names serve only to find candidates and to sort our own files by age. Files are identified by their content alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

Kind = Literal["checkpoint", "best_model"]
#: A second name for the newest `best_model_N.pth`.
BEST_MODEL = "best_model.pth"
_PATTERN = re.compile(r"(checkpoint|best_model)_(\d+)\.pth")


@dataclass(frozen=True)
class CheckpointName:
    """The kind and step in a checkpoint's file name; `str` returns the file name."""

    kind: Kind
    step: int

    def __str__(self) -> str:
        return f"{self.kind}_{self.step}.pth"


def parse_name(file: Path) -> CheckpointName | None:
    """Return the kind and step in a file's name, or None if it is not the name of a run's checkpoint."""
    found = _PATTERN.fullmatch(file.name)
    return CheckpointName(cast(Kind, found[1]), int(found[2])) if found else None


def named_checkpoints(run: Path) -> Iterator[tuple[Path, CheckpointName]]:
    """Yield the files in a run folder that are named like checkpoints, in no particular order."""
    for file in run.iterdir():
        if name := parse_name(file):
            yield file, name
