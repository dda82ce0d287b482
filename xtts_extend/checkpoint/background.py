"""Write checkpoints in the background: training continues while a thread writes a copy of the state."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


def snapshot(value: Any) -> Any:
    """Copy nested dicts and lists of tensors to the CPU, so that later training steps do not change the copy."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(item) for item in value)
    return value


class BackgroundWriter:
    """A writer that runs one write at a time in its own thread.

    If a write fails, the next method call raises its error. The interpreter does not exit until the current
    write is done.
    """

    def __init__(self) -> None:
        self._pending: Future[None] | None = None

    def submit(self, write: Callable[..., None], *arguments: Any) -> None:
        """Start a write once the previous one is done.

        Args:
            write: Function that writes the file.
            arguments: Arguments for `write`.
        """
        self.wait()
        pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = pool.submit(write, *arguments)
        # The thread ends after its write. Torch gives each computing thread a team of OpenMP threads. If there are more
        # of those than cores, they no longer spin while they wait for each other, and an operation shared by two cores
        # takes 100 µs longer. Steps of small models would then take 50% longer for the rest of the run.
        pool.shutdown(wait=False)

    def check(self) -> None:
        """Raise the error if the last write has failed, without waiting for a write in progress."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the current write, if there is one, and raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
