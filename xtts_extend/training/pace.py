"""The progress lines that a run logs every `print_step` steps, and the lines that it logs when it ends."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass

from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.position import Position
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")
#: The seconds per step are averaged over this many recent steps, or over all steps since the last line if there are
#: more of them.
_RECENT_STEPS = 200


@dataclass(frozen=True)
class Pace:
    """Seconds per step, averaged over recent steps, and the seconds left until the run ends."""

    seconds_per_step: float
    time_left_s: float


class Progress:
    """A logger of progress lines (step, losses, speed, time left) after step 1 and then every `print_step` steps.

    Args:
        config: The run's configuration; `print_step`, `epochs` and `max_steps` are used.
        step: Number of steps that the run had completed before this process started.
    """

    def __init__(self, config: NewLanguageConfig, step: int) -> None:
        self.config = config
        self.first_step = step
        #: (step, time in seconds) of recent lines. Excluded time does not count.
        self._lines: deque[tuple[int, float]] = deque()
        self._excluded_s = 0.0

    def exclude_time(self, seconds: float) -> None:
        """Exclude the given seconds, which were not spent on training steps, from the speed."""
        self._excluded_s += seconds

    def is_due(self, step: int) -> bool:
        """Return whether a progress line is due after the given step."""
        return step == self.first_step + 1 or step % self.config.print_step == 0

    def step(self, position: Position, batches: int, losses: dict[str, float], learning_rate: float) -> Pace | None:
        """Log a progress line and return the pace; call it after each step for which `is_due` returns True.

        Args:
            position: The run's position after the step.
            batches: Number of batches in an epoch.
            losses: The step's `loss`, `loss_text_ce` and `loss_mel_ce`.
            learning_rate: The step's learning rate.

        Returns:
            The pace, or None if this is the first line.
        """
        # The clock starts after the first step, which includes warm-up.
        self._lines.append((position.step, time.monotonic() - self._excluded_s))
        while len(self._lines) > 2 and position.step - self._lines[1][0] >= _RECENT_STEPS:
            self._lines.popleft()
        end = (self.config.epochs - position.epoch) * batches - position.batch + position.step
        end = min(end, self.config.max_steps or end)
        rate, pace = "", None
        if len(self._lines) > 1:
            (first, began), (last, now) = self._lines[0], self._lines[-1]
            per_step = (now - began) / (last - first)
            pace = Pace(per_step, max(end - position.step, 0) * per_step)
            rate = f" · {per_step:.2f} s/step · {_duration(pace.time_left_s)} left"
        logger.info(
            " > step %d/%d · epoch %d (%d/%d) · loss %.4f (text %.4f, mel %.4f) · lr %.3g%s",
            position.step,
            end,
            position.epoch,
            position.batch,
            batches,
            losses["loss"],
            losses["loss_text_ce"],
            losses["loss_mel_ce"],
            learning_rate,
            rate,
        )
        return pace


def log_finished(state: RunState) -> None:
    """Log that a run has nothing left to do."""
    done = f"step {state.position.step}, epoch {state.position.epoch + 1} of {state.config.epochs}"
    logger.info(" > The run is finished: %s. Raise --epochs, --max-steps or --patience to continue.", done)


def log_early_stop(state: RunState) -> None:
    """If `patience` ends the run, log that it stops before its other limits are reached."""
    if state.is_out_of_patience:
        logger.info(
            " > Stopping early, because recent evaluations found no better model (%d in a row). Raise --patience to "
            "continue.",
            state.position.evaluations_without_best,
        )


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
