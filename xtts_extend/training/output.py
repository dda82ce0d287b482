"""What a run writes into its folder beside checkpoints: the log, metrics, the dashboard, and its history."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from trainer.logging import DummyLogger

from xtts_extend.data.sample import Sample
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.folder import RunFolder
from xtts_extend.run.history import append_event, hours
from xtts_extend.run.metrics import MetricsLog, StepLosses, make_dashboard
from xtts_extend.run.position import Position
from xtts_extend.run.ranks import Ranks

logger = logging.getLogger("trainer")


class RunOutput:
    """Nothing of it is written before `begin`: a start that fails leaves a run folder as it was.

    Args:
        folder: of the run.
        config: of the run.
        ranks: rank 0 writes log, dashboard and history.
        model, train_samples: what the history says of the start.
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
        self.dashboard: Any = DummyLogger()
        self._log = logging.handlers.MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)
        self._metrics: MetricsLog | None = None
        self._losses: StepLosses | None = None
        #: What the history says of this start.
        self.about: dict[str, object] = {
            "from": config.started_from,
            "hours": hours(train_samples),
            "tokens": {"base": model.base_rows, "new": model.vocab_size - model.base_rows},
            "processes": ranks.size,
        }

    def hold_log(self) -> None:
        """Keep the lines of the log until there is a file for them."""
        logger.addHandler(self._log)

    @property
    def has_started(self) -> bool:
        """Whether the run folder is written to."""
        return self._metrics is not None

    def begin(
        self, position: Position, read: Callable[[Sequence[Mapping[str, Tensor]]], list[dict[str, float]]]
    ) -> None:
        """Write into the run folder from here on.

        Args:
            position: where the run is.
            read: the losses of some steps as numbers, as `Updater.read`.
        """
        run, step = self.folder.path, position.step
        self.folder.prepare(Path(self._config.model_args.tokenizer_file), step)
        self._log.setTarget(logging.FileHandler(run / "trainer_0_log.txt", encoding="utf-8"))
        self._log.flush()
        self._log.flushLevel = logging.NOTSET
        if self._ranks.is_main:
            self.dashboard = make_dashboard(self._config, run, step)
            self.dashboard.add_config(self._config)
        # a run that begins anew in its folder has no lines, not even those of an evaluation before the first step
        self._metrics = MetricsLog(run, step or -1)
        plotted = (self._config.plot_step, self._config.print_step)
        self._losses = StepLosses(self._metrics, self.dashboard, plotted, read)
        self.append_event("resume" if step else "start", step, **self.about)

    @property
    def metrics(self) -> MetricsLog:
        """The metrics log, after `begin`."""
        if self._metrics is None:
            raise RuntimeError("The run has no metrics before it has begun to write.")
        return self._metrics

    @property
    def losses(self) -> StepLosses:
        """The losses of steps, after `begin`."""
        if self._losses is None:
            raise RuntimeError("The run has no losses before it has begun to write.")
        return self._losses

    def read_losses(self, position: Position) -> dict[str, float]:
        """Write down what the steps since the last time gave; the last one's losses."""
        return self._losses.read(position) if self._losses else {}

    def flush(self, position: Position) -> None:
        """Put what was measured by now on the disk."""
        self.read_losses(position)
        self.metrics.flush()
        self.dashboard.flush()

    def append_event(self, event: str, step: int, **values: object) -> None:
        """Add an event to the run's history."""
        if self._ranks.is_main and self.has_started:
            append_event(self.folder.path, event, step=step, **values)

    def close(self, *, discard: bool) -> None:
        """Close what is open, and let another process have the folder or, if it is new, remove it."""
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
