"""What ends a run before its end: SIGINT and SIGTERM, and a limit of time; the run decides where."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import psutil

logger = logging.getLogger("trainer")
#: Bytes per second of a network disk.
_SLOW_DISK = 100e6


class Interrupted(Exception):
    """A signal asked the run to stop, and the current optimizer step is complete."""


class OutOfTime(Exception):
    """The time that the run may take is nearly over, and the current optimizer step is complete."""


class TimeLimit:
    """Says when to stop, so that a last checkpoint is written before the time is over.

    Kept free: twice the longest time between two questions so far, and the time to write a checkpoint to a slow disk.

    Args:
        minutes: the limit, from the start of this process; None for none.
        checkpoint_bytes: size of a checkpoint.
    """

    def __init__(self, minutes: float | None, checkpoint_bytes: int) -> None:
        self._end = math.inf if minutes is None else psutil.Process().create_time() + 60 * minutes
        self._reserve = checkpoint_bytes / _SLOW_DISK
        self._longest = 0.0
        self._asked = time.time()

    def reached(self) -> bool:
        """To be asked between two optimizer steps."""
        now = time.time()
        self._longest = max(self._longest, now - self._asked)
        self._asked = now
        return now + 2 * self._longest + self._reserve >= self._end


class StopSignal:
    """A context in which the first SIGINT or SIGTERM sets `number`, and a second one ends the process at once.

    Below torchrun a second one does nothing: it passes on to its processes what they got from the terminal already.
    Outside of the main thread, where Python allows no handlers, it does nothing at all.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if "TORCHELASTIC_RUN_ID" in os.environ:
                return
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
        logger.info(" > Signal %d: stopping after the current optimizer step; once more stops at once.", number)
