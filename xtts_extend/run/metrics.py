"""A run's `metrics.jsonl` and dashboard. Resuming removes later steps, so the file reads like one uninterrupted run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from trainer.logging import logger_factory
from trainer.logging.base_dash_logger import BaseDashboardLogger
from trainer.logging.tensorboard_logger import TensorboardLogger

from xtts_extend.errors import MachineError
from xtts_extend.files import atomic_write
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.position import Position

FILE_NAME = "metrics.jsonl"
#: Version of the evaluation method. Lines without a version have version 1, whose losses depended on how samples were
#: batched.
MEASURE = 2


class MetricsLine(TypedDict, total=False):
    """A line of `metrics.jsonl`: a step, or, if it has `eval`, one language in an evaluation.

    Losses that are not finite are None.
    """

    step: int
    epoch: int
    loss: float | None
    loss_text_ce: float | None
    loss_mel_ce: float | None
    loss_distill: float | None
    learning_rate: float
    samples: list[str]
    eval: bool
    measure: int
    language: str
    retention: float | None
    retention_in_folder: float


class MetricsLog:
    """A writer of `metrics.jsonl` that buffers lines until `flush` is called.

    The trainer flushes the log every `print_step` steps and before each checkpoint.

    Args:
        run: Run folder.
        step: Number of steps that the run has completed. Lines for later steps and damaged lines are removed.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / FILE_NAME
        self._pending: list[str] = []
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_bytes().splitlines(keepends=True) if _line_step(line) <= step]
        with atomic_write(self.path) as file:
            file.writelines(kept)

    def add(self, **values: object) -> None:
        """Add a line. Numbers keep their full precision; those that are not finite become null."""
        # JSON has no representation for NaN and infinity.
        written = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._pending.append(json.dumps(written, ensure_ascii=False, allow_nan=False) + "\n")

    def flush(self, *, to_disk: bool = True) -> None:
        """Append the buffered lines to the file.

        Args:
            to_disk: Whether to flush the file to disk as well. Otherwise, lines can be lost in a power failure, but not
                if the process is killed.

        Raises:
            MachineError: The disk is full, or the run folder is missing or read-only. The buffered lines are kept, and
                the file ends with a complete line.
        """
        content = "".join(self._pending).encode()
        try:
            # Unbuffered, because a buffer would be written again after a failed write.
            with self.path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    while content:
                        content = content[file.write(content) :]
                    if to_disk:
                        os.fsync(file.fileno())
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            raise MachineError(
                f"Cannot write {self.path}: {error.strerror}. The last checkpoint is intact. "
                "Free up disk space or fix the folder, then resume."
            ) from error
        self._pending.clear()


class StepLosses:
    """Losses of completed steps. They stay on the device until `read` transfers all of them at once.

    Args:
        metrics: Log that gets a line per step.
        dashboard: Dashboard that gets a point at every step that is a multiple of a number in `every`.
        every: Steps between points: `plot_step` and `print_step`, so that every printed step has a point.
        read: Function that converts the losses of several steps to numbers, such as `Updater.read`.
    """

    def __init__(
        self,
        metrics: MetricsLog,
        dashboard: BaseDashboardLogger,
        every: Sequence[int],
        read: Callable[[Sequence[Mapping[str, Tensor]]], list[dict[str, float]]],
    ) -> None:
        self._metrics, self._dashboard, self._every, self._read = metrics, dashboard, every, read
        self._unread: list[tuple[MetricsLine, dict[str, Tensor]]] = []

    def add(self, losses: dict[str, Tensor], line: MetricsLine) -> None:
        """Store the losses of a step, with the other values in its line in `metrics.jsonl`."""
        self._unread.append((line, losses))

    def read(self, position: Position) -> dict[str, float]:
        """Write the lines for the steps since the previous call, and add their losses to the position.

        Args:
            position: The run's position. Finite losses are added to its training loss.

        Returns:
            The losses of the last step; empty if there was none.
        """
        unread, self._unread = self._unread, []
        losses: dict[str, float] = {}
        for (line, _), losses in zip(unread, self._read([values for _, values in unread]), strict=True):
            step, rate = line["step"], line["learning_rate"]
            is_finite = math.isfinite(losses["loss"])
            if is_finite:
                position.train_loss_sum += losses["loss"]
                position.train_loss_count += 1
            self._metrics.add(step=step, epoch=line["epoch"], **losses, learning_rate=rate, samples=line["samples"])
            if is_finite and any(step % every == 0 for every in self._every):
                self._dashboard.train_step_stats(step, {**losses, "current_lr": rate})
        return losses


def _line_step(line: bytes) -> float:
    """Return the step of a line, or infinity if the line is incomplete."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_metrics(run: Path) -> tuple[list[MetricsLine], list[MetricsLine]]:
    """Return a run's step lines and its evaluation lines, in order. Incomplete lines are skipped.

    >>> steps, evaluations = read_metrics(Path("runs/RUN"))
    >>> [line["step"] for line in steps]
    [1, 2, 3, 4]
    >>> evaluations
    []
    """
    content = (run / FILE_NAME).read_bytes().splitlines(keepends=True)
    lines = [cast(MetricsLine, json.loads(line)) for line in content if math.isfinite(_line_step(line))]
    return [line for line in lines if not line.get("eval")], [line for line in lines if line.get("eval")]


def finite(value: float | None) -> float:
    """Return a recorded loss as a float, or NaN if it was not finite."""
    return math.nan if value is None else value


def comparable(evaluations: Sequence[MetricsLine]) -> list[MetricsLine]:
    """Return the evaluation lines that were measured in the same way as the last one.

    Early lines may come from an older release that measured differently.
    """
    return [line for line in evaluations if line.get("measure") == evaluations[-1].get("measure")]


def make_dashboard(config: NewLanguageConfig, run: Path, step: int) -> BaseDashboardLogger:
    """Return the configured dashboard.

    Args:
        config: The run's configuration.
        run: Run folder.
        step: Number of steps that the run has completed. TensorBoard drops later points; at step 0, it drops all
            points, because a run that restarts evaluates again before its first step.
    """
    folder = Path(config.logger_uri or run)
    if config.dashboard_logger != "tensorboard" or not any(folder.glob("events.out.tfevents*")):
        return logger_factory(config, run)
    dashboard = TensorboardLogger.__new__(TensorboardLogger)
    dashboard.model_name = config.run_name
    dashboard.writer = SummaryWriter(folder, purge_step=step + 1 if step else 0)
    return dashboard
