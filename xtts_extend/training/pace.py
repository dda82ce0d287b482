"""The line that a run prints every `print_step` steps."""

from __future__ import annotations

import logging
import time
from collections import deque

from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.position import Position

logger = logging.getLogger("trainer")
#: Seconds per step are a mean over up to this many recent steps, or since the last line where lines are rarer.
_RECENT_STEPS = 200


class Progress:
    """Prints step, losses, recent rate and time left: at the first step of this process, then every `print_step`.

    Args:
        config: `print_step`, `epochs` and `max_steps` are read.
        step: the steps done before this process.
    """

    def __init__(self, config: NewLanguageConfig, step: int) -> None:
        self.config = config
        self.first_step = step
        #: (step, clock) of recent lines, the clock without what `exclude_time` was told.
        self._lines: deque[tuple[int, float]] = deque()
        self._left_out = 0.0

    def exclude_time(self, seconds: float) -> None:
        """Time that was not spent on steps."""
        self._left_out += seconds

    def is_due(self, step: int) -> bool:
        """Whether a line is due after a step."""
        return step == self.first_step + 1 or step % self.config.print_step == 0

    def step(self, position: Position, batches: int, losses: dict[str, float], learning_rate: float) -> None:
        """Print the line; called after each step for which one is due.

        Args:
            position: where the run is.
            batches: batches in an epoch.
            losses: `loss`, `loss_text_ce`, `loss_mel_ce`.
            learning_rate: of this step.
        """
        # the first line comes after the first step, which warms caches up and says nothing about the rate
        self._lines.append((position.step, time.monotonic() - self._left_out))
        while len(self._lines) > 2 and position.step - self._lines[1][0] >= _RECENT_STEPS:
            self._lines.popleft()
        end = (self.config.epochs - position.epoch) * batches - position.batch + position.step
        end = min(end, self.config.max_steps or end)
        rate = ""
        if len(self._lines) > 1:
            (first, began), (last, now) = self._lines[0], self._lines[-1]
            per_step = (now - began) / (last - first)
            left = max(end - position.step, 0) * per_step
            rate = f" · {per_step:.2f} s/step · {_duration(left)} left"
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


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
