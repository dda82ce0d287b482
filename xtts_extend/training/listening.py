"""Requests to a run that trains, which are served between optimizer steps."""

from __future__ import annotations

import logging
from pathlib import Path

from xtts_extend.errors import MachineError
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.requests import REQUESTS, Request, RequestFile, request_files, served
from xtts_extend.training.signals import Interrupted, StopRequested, StopSignal

logger = logging.getLogger("trainer")


class Listener:
    """The requests to a run since its start; those from before are not served.

    Args:
        run: The run folder, locked.
        ranks: The processes that train together. Rank 0 reads and removes the files.
        signal: The signal that also stops the run.
    """

    def __init__(self, run: Path, ranks: Ranks, signal: StopSignal) -> None:
        self._run, self._ranks, self._signal = run, ranks, signal
        #: Requests from before the start, and those whose files cannot be removed: they would be served forever.
        self._ignored: set[RequestFile] = set(request_files(run)) if ranks.is_main else set()

    def discard_old(self) -> None:
        """Remove the requests from before the start."""
        for name in {file.name for file in self._ignored} - self._new():
            self.served(name)

    def requested(self) -> set[Request]:
        """Return the requests that all processes serve now; call it in all of them."""
        here = self._new()
        counts = self._ranks.sum([float(name in here) for name in REQUESTS])
        return {name for name, count in zip(REQUESTS, counts, strict=True) if count}

    def stop_if_asked(self) -> None:
        """Stop the run if a signal or a request says so; call it in all processes.

        Raises:
            Interrupted: A signal arrived.
            StopRequested: A stop was requested.
        """
        interrupted, requested = self._ranks.sum([self._signal.number is not None, "stop" in self._new()])
        if interrupted:
            raise Interrupted
        if requested:
            raise StopRequested

    def served(self, name: Request) -> None:
        """Remove the file of a request that has been served."""
        if not self._ranks.is_main:
            return
        try:
            served(self._run, name)
        except MachineError as error:
            self._ignored |= {file for file in request_files(self._run) if file.name == name}
            logger.warning(" > The request is not served again, training continues: %s", error)

    def _new(self) -> set[Request]:
        if not self._ranks.is_main:
            return set()
        return {file.name for file in request_files(self._run) if file not in self._ignored}
