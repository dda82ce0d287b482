"""Report a run's status while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xtts_extend.errors import message_of
from xtts_extend.notices import warn_once
from xtts_extend.run.metrics import FILE_NAME as METRICS
from xtts_extend.run.metrics import read_metrics
from xtts_extend.run.position import Position
from xtts_extend.run.status import FILE_NAME, Evaluation, Phase, Status, now, write_status
from xtts_extend.training.pace import Pace

_STEP_LOSSES = ("loss", "loss_text_ce", "loss_mel_ce")
_LOSSES = (*_STEP_LOSSES, "retention", "retention_in_folder")


class StatusReport:
    """A run's `status.json`, which rank 0 keeps up to date. Nothing is written before `begin` is called.

    If the status cannot be written, a warning is logged once and the run continues.

    Args:
        run: The run folder.
        is_main: Whether this process writes files.
    """

    def __init__(self, run: Path, *, is_main: bool) -> None:
        self._run, self._is_main = run, is_main
        self._position: Position | None = None
        self._status = Status("starting")
        #: The newest complete checkpoint. Another thread may set this.
        self.last_checkpoint: Path | None = None

    def begin(self, position: Position) -> None:
        """Replace the status that an earlier process left behind.

        Args:
            position: The run's position, which is read whenever the status is written.
        """
        self._position = position
        self._update(last_evaluation=_last_evaluation(self._run))

    def step(self, losses: Mapping[str, float], pace: Pace | None) -> None:
        """Report the losses of a printed step, and the pace if known."""
        self._update(
            losses={name: losses[name] for name in _STEP_LOSSES},
            seconds_per_step=pace.seconds_per_step if pace else None,
            time_left_s=pace.time_left_s if pace else None,
        )

    def evaluated(self, step: int, languages: Mapping[str, Mapping[str, float]]) -> None:
        """Report the losses and retention of an evaluation, by language."""
        self._update(
            last_evaluation={"step": step, "languages": {name: {**value} for name, value in languages.items()}}
        )

    def enter(self, phase: Phase) -> None:
        """Report that a phase has begun."""
        if phase != self._status.phase:
            self._update(phase=phase)

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Report a phase for the duration of a block, and the previous one again if the block succeeds."""
        before = self._status.phase
        self.enter(phase)
        yield
        self.enter(before)

    def end(self, phase: Phase) -> None:
        """Report how the run ended."""
        self._update(phase=phase, time_left_s=None)

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Report any exception raised in the block, except SystemExit, whose cause has already been reported."""
        try:
            yield
        except Exception as error:
            self._update(phase="failed", time_left_s=None, error=message_of(error))
            raise

    def _update(self, **values: Any) -> None:
        self._status = replace(self._status, **values)
        if self._position is None or not self._is_main:
            return
        status = replace(
            self._status,
            step=self._position.step,
            epoch=self._position.epoch,
            last_checkpoint=str(self.last_checkpoint.absolute()) if self.last_checkpoint else None,
            updated=now(),
        )
        try:
            write_status(self._run, status)
        except OSError as error:
            warn_once(f"Training continues, but {self._run / FILE_NAME} could not be written: {error.strerror}.")


def _last_evaluation(run: Path) -> Evaluation | None:
    """Return the last evaluation in a run's metrics, or None if there is none."""
    lines = read_metrics(run)[1] if (run / METRICS).is_file() else []
    last = [line for line in lines if line["step"] == lines[-1]["step"]]
    if not last:
        return None
    languages = {}
    for line in last:
        values: dict[str, Any] = {**line}
        languages[line["language"]] = {name: values[name] for name in _LOSSES if name in values}
    return {"step": last[-1]["step"], "languages": languages}
