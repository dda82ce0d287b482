"""`metrics.jsonl`: one line per step and per evaluation, cut back on a resume so that it reads like one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xtts_extend.files import atomic_write

FILE_NAME = "metrics.jsonl"


class MetricsLog:
    """Lines are held in memory until `flush`, which is called before every checkpoint.

    Args:
        run: the run folder.
        step: the steps that the run has done; lines of later steps are cut off, damaged lines as well.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / FILE_NAME
        self._pending: list[str] = []
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_bytes().splitlines(keepends=True) if _step_of(line) <= step]
        with atomic_write(self.path) as file:
            file.writelines(kept)

    def add(self, **values: Any) -> None:
        """Add a line; numbers are written so that reading them gives the same value."""
        self._pending.append(json.dumps(values, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Append what is pending to the file."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(self._pending)
        self._pending.clear()


def _step_of(line: bytes) -> float:
    """The step of a line; infinity where a kill left half a line."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_metrics(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of steps and the lines of evaluations of a run, in order."""
    lines = [json.loads(line) for line in (run / FILE_NAME).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if not line.get("eval")], [line for line in lines if line.get("eval")]
