"""A run's `status.json`, which tells observers what the run is doing, and a check of whether the run is active."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypedDict, cast, get_args

from xtts_extend.files import is_locked

FILE_NAME = "status.json"

Phase = Literal["starting", "training", "evaluating", "saving", "speaking", "stopped", "finished", "failed"]

#: Losses by name; None if not finite.
Numbers = dict[str, float | None]

#: A larger file was not written by us.
_MAX_SIZE_BYTES = 1 << 20
#: Windows refuses to replace a file that another process is reading.
_TRIES, _BETWEEN_TRIES_S = 5, 0.02


class Evaluation(TypedDict):
    """The result of an evaluation: its step, and the losses and retention by language."""

    step: int
    languages: dict[str, Numbers]


def now() -> str:
    """Return the current UTC time in ISO format, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Status:
    """What a run is doing.

    A killed run cannot report that it ended, and a resumed run writes nothing until its first batch or evaluation is
    complete. Combine the status with `is_live` to recognize both: a run that is not active was killed unless its phase
    is stopped, finished or failed; an active run in one of these phases is starting.

    Attributes:
        phase: What the run is doing, or how it ended.
        step, epoch: The run's position.
        losses: `loss`, `loss_text_ce` and `loss_mel_ce` of the last printed step; empty if there is none.
        seconds_per_step, time_left_s: Pace of recent steps, and the estimated time left; None if unknown.
        last_evaluation: The last evaluation; None if there is none.
        last_checkpoint: Path of the newest complete checkpoint; None if there is none.
        error: Why the run failed; None if it did not.
        updated: Time at which the status was written, in ISO format.
        pid, host: The process ID, and the name of the machine that the process runs on.
    """

    phase: Phase
    step: int = 0
    epoch: int = 0
    losses: Numbers = field(default_factory=dict)
    seconds_per_step: float | None = None
    time_left_s: float | None = None
    last_evaluation: Evaluation | None = None
    last_checkpoint: str | None = None
    error: str | None = None
    updated: str = field(default_factory=now)
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)


def write_status(run: Path, status: Status) -> None:
    """Atomically replace a run's `status.json`. It is not flushed to disk, because losing it does no harm.

    Numbers that are not finite become null.

    Raises:
        OSError: The disk is full, or the run folder is missing or not writable.
    """
    # Non-ASCII characters are escaped, because paths in an error may contain some that cannot be encoded.
    content = json.dumps(_finite(asdict(status)), allow_nan=False)
    # The next start in this folder recognizes temporary files of killed runs by this name pattern and removes them.
    temporary = run / f".{FILE_NAME}.{os.getpid()}.tmp"
    try:
        temporary.write_text(content + "\n", encoding="utf-8")
        for tries_left in reversed(range(_TRIES)):
            try:
                temporary.replace(run / FILE_NAME)
                break
            except PermissionError:
                if not tries_left:
                    raise
                time.sleep(_BETWEEN_TRIES_S)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_status(run: Path) -> Status | None:
    """Return a run's status, or None if its folder has no readable one."""
    file = run / FILE_NAME
    try:
        # Opening a named pipe would block.
        if not file.is_file() or file.stat().st_size > _MAX_SIZE_BYTES:
            return None
        return _parse(json.loads(file.read_bytes(), parse_constant=lambda name: None))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def is_live(run: Path) -> bool:
    """Return whether a process is training in a run folder, that is, whether the folder's lock is held.

    The lock of a killed run stays held until its data loader processes have ended as well. Nothing is created or
    written. A run that starts during the probe still gets its lock, because a probe takes microseconds and a
    starting run keeps trying for 15 s.
    """
    return is_locked(run / ".lock")


def _finite(value: object) -> object:
    """Return nested values with None in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(content: Mapping[str, object]) -> Status:
    """Convert parsed JSON to a status.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: The content is not a status.
    """
    phase = content["phase"]
    if phase not in get_args(Phase):
        raise ValueError(phase)
    evaluation = content["last_evaluation"]
    return Status(
        phase=cast(Phase, phase),
        step=_integer(content["step"]),
        epoch=_integer(content["epoch"]),
        losses=_numbers(content["losses"]),
        seconds_per_step=_number(content["seconds_per_step"]),
        time_left_s=_number(content["time_left_s"]),
        last_evaluation=None if evaluation is None else _evaluation(evaluation),
        last_checkpoint=_text(content["last_checkpoint"]),
        error=_text(content["error"]),
        updated=_time(content["updated"]),
        pid=_integer(content["pid"]),
        host=_text(content["host"]) or "",
    )


def _evaluation(value: object) -> Evaluation:
    evaluation = _mapping(value)
    languages = _mapping(evaluation["languages"])
    return {
        "step": _integer(evaluation["step"]),
        "languages": {language: _numbers(losses) for language, losses in languages.items()},
    }


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def _numbers(value: object) -> Numbers:
    return {name: _number(number) for name, number in _mapping(value).items()}


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return float(value) if math.isfinite(value) else None


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    return value


def _time(value: object) -> str:
    text = _text(value) or ""
    datetime.fromisoformat(text)
    return text


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return value
