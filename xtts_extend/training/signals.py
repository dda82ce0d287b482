"""Reasons to stop early: SIGINT, SIGTERM and the time limit, which the training loop checks between optimizer steps."""

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
#: Write speed of a slow network disk, in bytes per second.
_SLOW_DISK = 100e6


class Stopped(Exception):
    """Exception that stops a run before it is finished, once the current optimizer step is complete."""


class Interrupted(Stopped):
    """Exception for a stop requested by a signal."""


class StopRequested(Stopped):
    """Exception for a stop requested by a file in the run folder."""


class OutOfTime(Stopped):
    """Exception for a stop shortly before the time limit."""


class TimeLimit:
    """A time limit that takes effect early enough for the run to write a final checkpoint.

    It reserves twice the longest time between two calls to `reached`, plus the time to write a checkpoint to a slow
    disk.

    Args:
        minutes: Limit in minutes from the start of this process; None for no limit.
        checkpoint_bytes: Size of a checkpoint in bytes.

    >>> TimeLimit(None, checkpoint_bytes=2_000_000_000).reached()
    False
    """

    def __init__(self, minutes: float | None, checkpoint_bytes: int) -> None:
        self._end = math.inf if minutes is None else psutil.Process().create_time() + 60 * minutes
        self._reserve = checkpoint_bytes / _SLOW_DISK
        self._longest_gap = 0.0
        self._last_call = time.time()

    def reached(self) -> bool:
        """Return whether it is time to stop; call it between any two optimizer steps."""
        now = time.time()
        self._longest_gap = max(self._longest_gap, now - self._last_call)
        self._last_call = now
        return now + 2 * self._longest_gap + self._reserve >= self._end


class StopSignal:
    """A context manager: the first SIGINT or SIGTERM sets `number`, and the second ends the process immediately.

    Under torchrun, the second signal is ignored, because torchrun forwards signals that its processes have already
    received from the terminal. Outside the main thread, where Python allows no signal handlers, signals are not caught.
    """

    def __init__(self) -> None:
        #: The first signal received, or None if there has been none.
        self.number: int | None = None
        self._previous_handlers: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if "TORCHELASTIC_RUN_ID" in os.environ:
                return
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
        logger.info(" > Signal %d: stopping after this optimizer step. Send it again to stop immediately.", number)
