"""`history.jsonl`, which records when a run started, resumed and ended, and with what data and settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict

from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import values
from xtts_extend.errors import MachineError

logger = logging.getLogger("trainer")

FILE_NAME = "history.jsonl"


class Tokens(TypedDict):
    """The number of token rows that a run has from its base, and the number of new ones."""

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
"""A line of `history.jsonl`."""


def append_event(run: Path, event: str, **values: object) -> None:
    """Append an event to a run's history.

    Args:
        run: Run folder.
        event: `start`, `resume` or `end`.
        values: Other values in the line; see `Event`.

    Raises:
        MachineError: The disk is full, or the run folder is missing or read-only.
    """
    line = {"event": event, "time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **values}
    try:
        with (run / FILE_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise MachineError(
            f"Cannot write {run / FILE_NAME}: {error.strerror}. Free up disk space or fix the folder, then resume."
        ) from error


def read_history(run: Path) -> list[Event]:
    """Return a run's events in order. Incomplete lines, which a killed process can leave, are skipped.

    >>> [(event["event"], event["step"]) for event in read_history(Path("runs/RUN"))]
    [('start', 0), ('end', 4)]
    """
    file = run / FILE_NAME
    events: list[Event] = []
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in events if isinstance(event, dict) and "event" in event]


def resumed_from(run: Path) -> Path | None:
    """Return the checkpoint in another folder that this folder's run resumed from, or None if the run started here."""
    first = next(iter(read_history(run)), Event())
    source = first.get("from")
    return Path(source) if first.get("event") == "resume" and source else None


def continuations(output_dir: Path, run: Path) -> list[Path]:
    """Return the folders in `output_dir` whose runs resumed from a checkpoint in the folder `run`."""
    folders = (entry for entry in sorted(output_dir.iterdir()) if entry.is_dir())
    return [folder for folder in folders if (file := resumed_from(folder)) is not None and file.parent == run]


def log_new_folder(source: Path, run: Path) -> None:
    """Log the new folder in which a stock Trainer's run resumes, and any folders in which it was resumed earlier.

    Args:
        source: Folder of the stock Trainer's run.
        run: New run folder.
    """
    logger.info(
        " > The checkpoint was written by the stock Trainer. Resuming in a new run folder, %s. %s stays unchanged.",
        run,
        source,
    )
    for other in continuations(run.parent, source):
        logger.warning(
            " > This run has already been resumed in %s. To continue there instead, pass --checkpoint %s.", other, other
        )


def hours(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the hours of audio by language. Replayed samples are listed as "replay LANG"."""
    totals: dict[str, float] = {}
    columns = (values(samples, name) for name in ("language", "replay", "duration_s"))
    for language, is_replayed, duration_s in zip(*columns, strict=True):
        name = f"replay {language}" if is_replayed else language
        totals[name] = totals.get(name, 0.0) + duration_s / 3600
    return totals
