"""Steps become files: a checkpoint is written aside, flushed to the disk and renamed, so that its name is never a lie.

Temporary files begin with a dot: coqui's own retention globs `checkpoint_*`.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xtts_extend.checkpoint.inspect import CheckpointInfo, describe, load_pickled
from xtts_extend.errors import CheckpointError, MachineError
from xtts_extend.files import atomic_write

logger = logging.getLogger("trainer")

#: Version of what the `xtts_extend` key of a checkpoint holds.
FORMAT_VERSION = 1


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint dict atomically.

    Raises:
        MachineError: it could not be written; no partial file is left.
    """
    if not path.parent.is_dir():
        raise MachineError(f"The run folder {path.parent} has vanished; {path.name} was not written.")
    with atomic_write(path) as file:
        torch.save({**state, "date": datetime.date.today().strftime("%B %d, %Y")}, file)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], CheckpointInfo]:
    """A checkpoint's content (tensors mapped from the file, on the CPU) and its description; runs no code.

    Raises:
        CheckpointError: see `inspect.load_pickled`.
    """
    content = load_pickled(path, map_location="cpu")
    return content, describe(content, path)


def make_run_folder(output_dir: Path, run_name: str) -> Path:
    """A new folder, named by the time of the start, that no other run shares even when both start in one second.

    Raises:
        MachineError: the folder cannot be made.
    """
    name = f"{run_name}-{datetime.datetime.now().strftime('%Y-%m-%d_%H-%M-%S')}"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = output_dir / (name if number == 1 else f"{name}_{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise MachineError(
            f"No run folder can be made in {output_dir}: {error.strerror}. Give another --output-dir."
        ) from error
    raise MachineError(f"{output_dir} already holds a thousand runs called {name}. Give another --output-dir.")


def remove_leftovers(run: Path) -> None:
    """Remove the temporary files that a killed run left behind."""
    for file in run.iterdir():
        if re.fullmatch(r"\..+\.tmp", file.name):
            file.unlink(missing_ok=True)


def set_aside_later(run: Path, step: int) -> None:
    """Move checkpoints of later steps, from which the run does not continue, into a folder `set-aside`.

    They would take the place of the new ones: as the newest of the run, and in the retention.
    """
    for file in sorted(run.iterdir()):
        found = _step_of(file, "checkpoint") or _step_of(file, "best_model")
        if found and int(found.group(1)) > step:
            folder = run / "set-aside"
            folder.mkdir(exist_ok=True)
            best = run / "best_model.pth"
            if best.exists() and best.samefile(file):
                best.unlink()
            file.replace(folder / file.name)
            logger.warning(
                " > %s is later than step %d, where the run continues: moved to %s.", file.name, step, folder
            )


def keep_newest(run: Path, count: int) -> None:
    """Remove all `checkpoint_N.pth` but the `count` with the most steps (by name: these are our own files)."""
    files = [(int(found.group(1)), file) for file in run.iterdir() if (found := _step_of(file, "checkpoint"))]
    for _, file in sorted(files)[:-count]:
        file.unlink()


def mark_best(run: Path, best: Path) -> None:
    """Let `best_model.pth` be `best` (a hard link, or a copy on file systems without them); remove older best ones."""
    link = run / ".best_model.pth.tmp"
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(best)
    except OSError as error:
        logger.info("No hard links in %s (%s): best_model.pth is a copy.", run, error.strerror)
        with atomic_write(run / "best_model.pth") as target, best.open("rb") as source:
            while block := source.read(1 << 24):
                target.write(block)
    else:
        link.replace(run / "best_model.pth")
    for file in run.iterdir():
        if _step_of(file, "best_model") and file != best:
            file.unlink()


def _step_of(file: Path, kind: str) -> re.Match[str] | None:
    return re.fullmatch(rf"{kind}_(\d+)\.pth", file.name)


def require_fit(expected: set[str], found: set[str], what: str) -> None:
    """Compare the names in a saved state with the names that it must have.

    Raises:
        CheckpointError: a name is missing or left over; each is listed.
    """
    problems = []
    for label, names in (("missing", expected - found), ("left over", found - expected)):
        if names:
            listed = ", ".join(sorted(names)[:10]) + (", …" if len(names) > 10 else "")
            problems.append(f"{len(names)} {label}: {listed}")
    if problems:
        raise CheckpointError(
            f"The {what} does not fit this model ({'; '.join(problems)}). It was written for another architecture or "
            "another version; give the files that belong together."
        )
