"""Carry out requests to a training run between optimizer steps."""

from __future__ import annotations

import logging
from pathlib import Path

from xtts_extend.errors import MachineError
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.requests import REQUESTS, Request, RequestFile, request_files, served
from xtts_extend.training.signals import Interrupted, StopRequested, StopSignal

logger = logging.getLogger("trainer")


class Listener:
    """The requests that were made to a run since it started. Earlier ones are not carried out.

    Args:
        run: The locked run folder.
        ranks: The processes that train together. Rank 0 reads and removes the files.
        signal: The stop signal, which can also stop the run.
    """

    def __init__(self, run: Path, ranks: Ranks, signal: StopSignal) -> None:
        self._run, self._ranks, self._signal = run, ranks, signal
        #: Requests made before the run started, and requests whose files cannot be removed and would otherwise be
        #: carried out over and over.
        self._ignored: set[RequestFile] = set(request_files(run)) if ranks.is_main else set()

    def discard_old(self) -> None:
        """Remove the requests that were made before the run started."""
        for name in {file.name for file in self._ignored} - self._new():
            self.served(name)

    def requested(self) -> set[Request]:
        """Return the requests to carry out now. Every process must call this."""
        here = self._new()
        counts = self._ranks.sum([float(name in here) for name in REQUESTS])
        return {name for name, count in zip(REQUESTS, counts, strict=True) if count}

    def stop_if_asked(self) -> None:
        """Stop the run if a signal or a request asks for it. Every process must call this.

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
        """Remove the file of a request that has been carried out."""
        if not self._ranks.is_main:
            return
        try:
            served(self._run, name)
        except MachineError as error:
            self._ignored |= {file for file in request_files(self._run) if file.name == name}
            logger.warning(" > Training continues, and this request will not be carried out again: %s", error)

    def _new(self) -> set[Request]:
        if not self._ranks.is_main:
            return set()
        return {file.name for file in request_files(self._run) if file not in self._ignored}
