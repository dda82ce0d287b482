"""`status.json`: what a run does now, for whoever watches it; and whether it lives, by its lock."""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypedDict, cast, get_args

FILE_NAME = "status.json"

Phase = Literal["starting", "training", "evaluating", "saving", "speaking", "stopped", "finished", "failed"]

#: Losses by name; None if not finite.
Numbers = dict[str, float | None]

#: A larger file is not ours.
_MAX_SIZE_BYTES = 1 << 20
_LOCKED = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)
#: Windows refuses to replace a file while someone reads it, and to probe a lock while someone else does.
_TRIES, _BETWEEN_TRIES_S = 5, 0.02
#: Probes of several threads at once could leave no moment in which a starting run gets its lock.
_one_probe = threading.Lock()


class Evaluation(TypedDict):
    """Result of an evaluation: its step, and losses and retention by language."""

    step: int
    languages: dict[str, Numbers]


def now() -> str:
    """Return the time in UTC in ISO format, with seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Status:
    """What a run does.

    A killed run cannot say that it ended, and a resumed one writes nothing before its first batch or evaluation is
    done. So combine it with `is_live`: a run that does not live but is neither stopped, finished nor failed was killed;
    a run that lives and is one of these is starting.

    Attributes:
        phase: What the run does, or how it ended.
        step, epoch: Its position.
        losses: `loss`, `loss_text_ce` and `loss_mel_ce` of the last printed step; empty before it.
        seconds_per_step, time_left_s: Pace of recent steps and what follows from it; None if not known.
        last_evaluation: The last evaluation; None before it.
        last_checkpoint: Path of the newest complete checkpoint; None if there is none.
        error: Why the run failed; None if it did not.
        updated: When this was written, in ISO format.
        pid, host: The process, and the machine that it runs on.
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
    """Replace a run's `status.json` at once, but do not flush it to the disk: a lost one costs nothing.

    Numbers that are not finite become null.

    Raises:
        OSError: The disk is full, or the run folder vanished or cannot be written to.
    """
    # Escapes characters beyond ASCII: paths in an error may hold some that have no encoding.
    content = json.dumps(_finite(asdict(status)), allow_nan=False)
    # The next start in this folder removes temporary files of killed runs by this form of their name.
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
    """Return a run's status, or None if its folder has none that can be read."""
    file = run / FILE_NAME
    try:
        # A pipe of this name would block.
        if not file.is_file() or file.stat().st_size > _MAX_SIZE_BYTES:
            return None
        return _parse(json.loads(file.read_bytes(), parse_constant=lambda name: None))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def is_live(run: Path) -> bool:
    """Return whether a process trains in a run folder: whether its lock is held.

    The lock of a killed run is held until its loader processes have ended, too. Nothing is created or written, and a
    run that starts meanwhile gets its lock: a probe takes microseconds, and the start tries for 15 s.
    """
    try:
        # A pipe of this name would block.
        lock = os.open(run / ".lock", os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        with _one_probe:
            return _is_locked(lock)
    finally:
        os.close(lock)


def _is_locked(file: int) -> bool:
    """Return whether another open file holds the lock of a file, by taking it for a moment."""
    if sys.platform == "win32":
        import msvcrt

        # There are only exclusive locks here, so another process' probe may be in the way.
        for _ in range(_TRIES):
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(_BETWEEN_TRIES_S)
            else:
                msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
                return False
        return True
    import fcntl

    try:
        # Shared, so that probes do not see each other.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        # Without locks in the file system, a run's lock is that the file exists.
        return error.errno in (*_LOCKED, errno.ENOSYS)
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _finite(value: object) -> object:
    """Return nested values with None in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(content: Mapping[str, object]) -> Status:
    """Return a status from JSON.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: It is something else.
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
