"""`history.jsonl`: when a run started, was taken up again and ended, with what; for whoever looks at it later."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict

from xtts_extend.data.sample import Sample
from xtts_extend.errors import MachineError

logger = logging.getLogger("trainer")

FILE_NAME = "history.jsonl"


class Tokens(TypedDict):
    """Token rows of a run: those of its base, and new ones."""

    base: int
    new: int


Event = TypedDict(
    "Event",
    {
        "event": str,
        "time": str,
        "step": int,
        "from": str,
        "restored": list[str],
        "changed": list[str],
        "hours": dict[str, float],
        "tokens": Tokens,
        "processes": int,
    },
    total=False,
)
"""A line of history.jsonl."""


def append_event(run: Path, event: str, **values: object) -> None:
    """Append an event to a run's history.

    Raises:
        MachineError: the disk is full, or the run folder vanished or cannot be written to.
    """
    line = {"event": event, "time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **values}
    try:
        with (run / FILE_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise MachineError(
            f"{run / FILE_NAME} could not be written: {error.strerror}. Make room or mend the folder, then start again."
        ) from error


def read_history(run: Path) -> list[Event]:
    """The events of a run, in order; half a line, as a kill leaves it, is passed over."""
    file = run / FILE_NAME
    events: list[Event] = []
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in events if isinstance(event, dict) and "event" in event]


def resumed_from(run: Path) -> Path | None:
    """The checkpoint that a run folder was made to continue; None for a run that started in it."""
    first = next(iter(read_history(run)), Event())
    source = first.get("from")
    return Path(source) if first.get("event") == "resume" and source else None


def continuations(output_dir: Path, run: Path) -> list[Path]:
    """The run folders in a folder that were made to continue a checkpoint of another run."""
    folders = (entry for entry in sorted(output_dir.iterdir()) if entry.is_dir())
    return [folder for folder in folders if (file := resumed_from(folder)) is not None and file.parent == run]


def log_new_folder(source: Path, run: Path) -> None:
    """Say where a run of the stock Trainer goes on, and which run folders have continued it before.

    Args:
        source: its folder.
        run: the new run folder.
    """
    logger.info(" > Written by the stock Trainer: resuming in a new run folder, %s; %s is left unchanged.", run, source)
    for other in continuations(run.parent, source):
        logger.warning(" > %s has continued this run before. To go on there: --checkpoint %s", other, other)


def hours(samples: Sequence[Sample]) -> dict[str, float]:
    """Hours of samples by language; those to replay as "replay LANG"."""
    found: dict[str, float] = {}
    for sample in samples:
        name = f"replay {sample.language}" if sample.replay else sample.language
        found[name] = found.get(name, 0.0) + sample.duration_s / 3600
    return found
