"""A run as the page shows it: its state, its curves and its test sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from xtts_extend.checkpoint.names import named_checkpoints
from xtts_extend.errors import XttsExtendError
from xtts_extend.run.config import read_json
from xtts_extend.run.folder import SAMPLES
from xtts_extend.run.history import Event, read_history
from xtts_extend.run.metrics import FILE_NAME, MetricsLine, comparable, read_metrics
from xtts_extend.run.report import mean_losses
from xtts_extend.run.status import Status, is_live, read_status

#: Phases in which a process is working.
_WORKING = ("starting", "training", "evaluating", "saving", "speaking")
#: Errors from files that do not contain what they should.
_UNREADABLE = (XttsExtendError, OSError, ValueError, TypeError, AttributeError, RecursionError)
#: Last event in a run's history → phase.
_ENDED = {"end": "finished", "stop": "stopped"}


@dataclass(frozen=True)
class RunView:
    """A run.

    Attributes:
        folder: Run folder.
        language: Language that the run learns; empty if none is recorded.
        is_live: Whether a process is training in the folder.
        phase: As in `Status`; "killed" if the process ended without recording why.
        step: Finished batches.
        epoch: Current epoch, counted from 0; None if it is unknown.
        error: Why the run failed.
        status: What the run reports; None for runs by earlier releases or the stock Trainer.
        problem: Why some of this is unknown; usually empty.
    """

    folder: Path
    language: str
    is_live: bool
    phase: str
    step: int
    epoch: int | None = None
    error: str = ""
    status: Status | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    def describe(self) -> str:
        """Return a sentence about the run's progress."""
        said = f"{self.phase.capitalize()} at step {self.step:,}"
        if self.epoch is not None:
            said += f", epoch {self.epoch:,}"
        if self.is_live and self.status and self.status.seconds_per_step:
            said += f", {self.status.seconds_per_step:.2f} s per step"
        if self.is_live and self.status and self.status.time_left_s is not None:
            said += f", {describe_time(self.status.time_left_s)} left"
        return f"{said}. {self.error}".strip()


@dataclass(frozen=True)
class Curves:
    """Columns for plots; all columns of a table have the same length.

    Attributes:
        training: `step` and `loss`: the mel loss, averaged over up to 400 intervals.
        evaluations: `step`, `language`, `loss` (mel) and `retention`, which is None for the new language.
    """

    training: dict[str, list[Any]]
    evaluations: dict[str, list[Any]]


@dataclass(frozen=True)
class Spoken:
    """A test sentence as it was spoken at a step.

    Attributes:
        step: Finished batches.
        language: Language code.
        text: Text; empty if the run's settings no longer contain it.
        path: Recording of the sentence.
    """

    step: int
    language: str
    text: str
    path: Path


def view_run(run: Path) -> RunView:
    """Return the state of a run, whatever its folder contains."""
    problems: list[str] = []
    language, history = "", list[Event]()
    try:
        if (run / "config.json").is_file():
            language = str(read_json(run / "config.json").get("language") or "")
    except _UNREADABLE as error:
        problems.append(f"{run / 'config.json'} cannot be read: {error}")
    try:
        history = read_history(run)
    except _UNREADABLE as error:
        problems.append(f"The run's history cannot be read: {error}")
    live, status = is_live(run), read_status(run)
    steps = [] if status else _metrics(run)[0]
    problem = " ".join(problems)
    if status is not None:
        phase: str = status.phase
        if live != (phase in _WORKING):
            # A resumed run writes nothing before its first batch, and a killed run writes nothing at its end.
            phase = "starting" if live else "killed"
        why = "" if live else status.error or ""
        return RunView(run, language, live, phase, status.step, status.epoch, why, status, problem)
    last = history[-1] if history else Event()
    ended = _ENDED.get(str(last.get("event")), "killed" if history else "stopped")
    counted: list[object] = [steps[-1]["step"] if steps else 0, last.get("step", 0)]
    if not any(counted):
        counted = _steps_in_names(run)
    step = max((count for count in counted if isinstance(count, int)), default=0)
    epoch = steps[-1].get("epoch") if steps else None
    return RunView(run, language, live, "training" if live else ended, step, epoch, problem=problem)


def curves(run: Path) -> Curves:
    """Return the curves of a run; they are empty if it has no metrics."""
    steps, measured = _metrics(run)
    evaluations = comparable(measured)
    means = mean_losses(steps)
    return Curves(
        {"step": [step for step, _ in means], "loss": [loss for _, loss in means]},
        {
            "step": [line["step"] for line in evaluations],
            "language": [line["language"] for line in evaluations],
            "loss": [line["loss_mel_ce"] for line in evaluations],
            "retention": [line.get("retention") for line in evaluations],
        },
    )


def spoken_sentences(run: Path) -> list[Spoken]:
    """Return the test sentences that a run has spoken, in order of step."""
    try:
        sentences = read_json(run / "config.json").get("test_sentences")
    except _UNREADABLE:
        sentences = None
    texts = [str(one.get("text", "")) if isinstance(one, Mapping) else "" for one in _as_list(sentences)]
    found = []
    for file in (run / SAMPLES).glob("*-*-*.wav"):
        step, number, language = file.stem.split("-", 2)
        if step.isdecimal() and number.isdecimal():
            text = texts[int(number)] if int(number) < len(texts) else ""
            found.append((int(step), int(number), Spoken(int(step), language, text, file)))
    return [spoken for _, _, spoken in sorted(found, key=lambda item: item[:2])]


def describe_time(seconds: float) -> str:
    """Return a duration in readable form.

    >>> [describe_time(seconds) for seconds in (42, 150, 9000, 200_000)]
    ['42 s', '2 min', '2 h 30 min', '2 d 7 h']
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 60:
        return f"{max(0, seconds):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440:,} d {minutes % 1440 // 60} h"


def _metrics(run: Path) -> tuple[list[MetricsLine], list[MetricsLine]]:
    """Return the usable step and evaluation lines of the metrics; none if there is no file."""
    try:
        status = (run / FILE_NAME).stat()
    except OSError:
        return [], []
    return _read_metrics(run, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_metrics(run: Path, size: int, time_ns: int) -> tuple[list[MetricsLine], list[MetricsLine]]:
    try:
        steps, evaluations = read_metrics(run)
    except _UNREADABLE:
        return [], []

    def is_usable(line: MetricsLine) -> bool:
        loss = line.get("loss_mel_ce", "")
        return isinstance(line["step"], int) and (loss is None or isinstance(loss, int | float))

    return [line for line in steps if is_usable(line)], [
        line for line in evaluations if is_usable(line) and isinstance(line.get("language"), str)
    ]


def _steps_in_names(run: Path) -> list[object]:
    try:
        return [name.step for _, name in named_checkpoints(run)]
    except OSError:
        return []


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
