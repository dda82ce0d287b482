"""What a run writes down: `metrics.jsonl`, cut back on a resume so that it reads like one run, and the dashboard."""

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
#: Which measure the lines of evaluations are of. Lines without one are of the first, which depended on how samples were
#: batched.
MEASURE = 2


class MetricsLine(TypedDict, total=False):
    """A line of metrics.jsonl: of a step, or, with `eval`, of a language in an evaluation; None is not finite."""

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
        kept = [line for line in self.path.read_bytes().splitlines(keepends=True) if _line_step(line) <= step]
        with atomic_write(self.path) as file:
            file.writelines(kept)

    def add(self, **values: object) -> None:
        """Add a line; numbers are written so that reading them gives the same value, null where they are not finite."""
        # JSON has no word for what is not finite
        written = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._pending.append(json.dumps(written, ensure_ascii=False, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Append what is pending to the file, and flush it to the disk.

        Raises:
            MachineError: the disk is full, or the run folder vanished or cannot be written to.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self._pending)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MachineError(
                f"{self.path} could not be written: {error.strerror}. The last checkpoint is untouched. "
                "Make room or mend the folder, then start again."
            ) from error
        self._pending.clear()


class StepLosses:
    """Losses of finished steps: they stay on the device until they are read, all at once.

    Args:
        metrics: gets a line per step.
        dashboard: gets a point at every multiple of one of `every`.
        every: steps between points: `plot_step`, and `print_step`, so that a printed line has its point.
        read: the losses of some steps as numbers, as `Updater.read`.
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
        """Keep the losses of a step; `line` is what else its line in the metrics says."""
        self._unread.append((line, losses))

    def read(self, position: Position) -> dict[str, float]:
        """Write the lines of the steps since the last time and count their losses; the last one's are returned."""
        unread, self._unread = self._unread, []
        losses: dict[str, float] = {}
        for (line, _), losses in zip(unread, self._read([values for _, values in unread]), strict=True):
            step, rate = line["step"], line["learning_rate"]
            finite = math.isfinite(losses["loss"])
            if finite:
                position.train_loss_sum += losses["loss"]
                position.train_loss_count += 1
            self._metrics.add(step=step, epoch=line["epoch"], **losses, learning_rate=rate, samples=line["samples"])
            if finite and any(step % every == 0 for every in self._every):
                self._dashboard.train_step_stats(step, {**losses, "current_lr": rate})
        return losses


def _line_step(line: bytes) -> float:
    """The step of a line; infinity where a kill left half a line."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_metrics(run: Path) -> tuple[list[MetricsLine], list[MetricsLine]]:
    """The lines of steps and the lines of evaluations of a run, in order; half a line at the end is passed over."""
    content = (run / FILE_NAME).read_bytes().splitlines(keepends=True)
    lines = [cast(MetricsLine, json.loads(line)) for line in content if math.isfinite(_line_step(line))]
    return [line for line in lines if not line.get("eval")], [line for line in lines if line.get("eval")]


def finite(value: float | None) -> float:
    """A loss for arithmetic: NaN where it was not finite."""
    return math.nan if value is None else value


def comparable(evaluations: Sequence[MetricsLine]) -> list[MetricsLine]:
    """The lines of evaluations that are of one measure, the run's last: a run may have begun with an older release."""
    return [line for line in evaluations if line.get("measure") == evaluations[-1].get("measure")]


def make_dashboard(config: NewLanguageConfig, run: Path, step: int) -> BaseDashboardLogger:
    """The configured dashboard; TensorBoard drops what an interrupted run logged after `step`.

    A run that starts again in its folder evaluates before its first step again: nothing of step 0 is kept.
    """
    folder = Path(config.logger_uri or run)
    if config.dashboard_logger != "tensorboard" or not any(folder.glob("events.out.tfevents*")):
        return logger_factory(config, run)
    dashboard = TensorboardLogger.__new__(TensorboardLogger)
    dashboard.model_name = config.run_name
    dashboard.writer = SummaryWriter(folder, purge_step=step + 1 if step else 0)
    return dashboard
