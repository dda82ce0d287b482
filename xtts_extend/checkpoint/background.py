"""Training goes on while a checkpoint is written: the state is copied, and a thread writes the copy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


def snapshot(value: Any) -> Any:
    """A copy in the CPU's memory of nested dicts and lists of tensors, which later steps do not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(item) for item in value)
    return value


class BackgroundWriter:
    """Runs one write at a time in a thread of its own.

    An error of a write is raised by the next call of any method. The interpreter does not end before a write is done.
    """

    def __init__(self) -> None:
        self._pending: Future[None] | None = None

    def submit(self, write: Callable[..., None], *arguments: Any) -> None:
        """Start a write, after the one before it is done."""
        self.wait()
        pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = pool.submit(write, *arguments)
        # The thread ends with its work. Torch gives each thread that computes a team of OpenMP threads, and with more
        # of them than cores they no longer wait for each other by spinning: an operation that two cores share takes
        # 100 µs longer then, which makes the steps of small models half as slow again, to the end of the run.
        pool.shutdown(wait=False)

    def check(self) -> None:
        """Raise the error of a write that has failed; does not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the write under way, if there is one."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
