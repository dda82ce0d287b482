"""The files that a run writes besides checkpoints: log, metrics, dashboard, history and status."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from trainer.logging import DummyLogger

from xtts_extend.data.sample import Sample
from xtts_extend.errors import MachineError
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.notices import warn_once
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.folder import RunFolder
from xtts_extend.run.history import append_event, hours
from xtts_extend.run.metrics import MetricsLog, StepLosses, make_dashboard
from xtts_extend.run.position import Position
from xtts_extend.run.ranks import Ranks
from xtts_extend.training.pace import Pace
from xtts_extend.training.reporting import StatusReport

logger = logging.getLogger("trainer")


class RunOutput:
    """The log, metrics, dashboard, history and status of a run. Nothing is written before `begin` is called.

    A run that fails to start therefore leaves an existing run folder unchanged.

    Args:
        folder: The run folder.
        config: The run's configuration.
        ranks: The processes that train together. Only rank 0 writes the dashboard, history and status.
        model: The model, whose token counts are recorded in the history.
        train_samples: The training set, whose duration is recorded in the history.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: NewLanguageConfig,
        ranks: Ranks,
        model: ExtendedGPTTrainer,
        train_samples: Sequence[Sample],
    ) -> None:
        self.folder, self._config, self._ranks = folder, config, ranks
        self.status = StatusReport(folder.path, is_main=ranks.is_main)
        self.dashboard: Any = DummyLogger()
        self._log = logging.handlers.MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)
        self._metrics: MetricsLog | None = None
        self._losses: StepLosses | None = None
        #: Values for the history entry that describes this start.
        self.start_info: dict[str, object] = {
            "from": config.started_from,
            "hours": hours(train_samples),
            "tokens": {"base": model.base_rows, "new": model.vocab_size - model.base_rows},
            "processes": ranks.size,
        }

    def buffer_log(self) -> None:
        """Buffer log lines in memory until `begin` opens the log file."""
        logger.addHandler(self._log)

    @property
    def has_started(self) -> bool:
        """Whether `begin` has been called."""
        return self._metrics is not None

    def begin(
        self, position: Position, read: Callable[[Sequence[Mapping[str, Tensor]]], list[dict[str, float]]]
    ) -> None:
        """Start writing to the run folder.

        Args:
            position: The run's position.
            read: Function that converts the losses of several steps to numbers, such as `Updater.read`.
        """
        run, step = self.folder.path, position.step
        self.folder.prepare(Path(self._config.model_args.tokenizer_file), step)
        self._log.setTarget(logging.FileHandler(run / "trainer_0_log.txt", encoding="utf-8"))
        self._log.flush()
        self._log.flushLevel = logging.NOTSET
        if self._ranks.is_main:
            self.dashboard = make_dashboard(self._config, run, step)
            self.dashboard.add_config(self._config)
        # When a run starts over in its folder, all lines are removed, including those of an evaluation before the first
        # step.
        self._metrics = MetricsLog(run, step or -1)
        plotted = (self._config.plot_step, self._config.print_step)
        self._losses = StepLosses(self._metrics, self.dashboard, plotted, read)
        self._append_event("resume" if step else "start", step, **self.start_info)
        self.status.begin(position)

    @property
    def metrics(self) -> MetricsLog:
        """The metrics log; available after `begin`."""
        if self._metrics is None:
            raise RuntimeError("The metrics log is not open yet. Call begin first.")
        return self._metrics

    @property
    def losses(self) -> StepLosses:
        """The collected losses of training steps; available after `begin`."""
        if self._losses is None:
            raise RuntimeError("There are no step losses yet. Call begin first.")
        return self._losses

    def read_losses(self, position: Position) -> dict[str, float]:
        """Write the losses of all steps since the previous call, and return those of the last step."""
        return self._losses.read(position) if self._losses else {}

    def flush(self, position: Position) -> None:
        """Flush losses, metrics and dashboard to disk."""
        self.read_losses(position)
        self.metrics.flush()
        self.dashboard.flush()

    def publish(self, losses: Mapping[str, float], pace: Pace | None) -> None:
        """Make all steps up to a printed one visible in the metrics, the dashboard and the status.

        Metrics that cannot be written are kept for the next call, and a warning is logged. A checkpoint, by contrast,
        is written only after its metrics are on disk.

        Args:
            losses: Losses of the printed step.
            pace: The pace, or None if it is not known yet.
        """
        try:
            self.metrics.flush(to_disk=False)
        except MachineError as error:
            warn_once(f"Training continues, but the metrics have not been written to disk yet: {error}")
        self.dashboard.flush()
        self.status.step(losses, pace)

    def end(self, phase: Literal["finished", "stopped"], step: int) -> None:
        """Record in the history and the status how the run ended after a step."""
        self._append_event("end" if phase == "finished" else "stop", step)
        self.status.end(phase)

    def _append_event(self, event: str, step: int, **values: object) -> None:
        if self._ranks.is_main and self.has_started:
            append_event(self.folder.path, event, step=step, **values)

    def close(self, *, discard: bool) -> None:
        """Close all outputs and unlock the run folder.

        Args:
            discard: Whether to remove the run folder if this start created it.
        """
        self.dashboard.finish()
        logger.removeHandler(self._log)
        file = self._log.target
        self._log.close()
        if file is not None:
            file.close()
        if discard:
            self.folder.discard()
        else:
            self.folder.release()
