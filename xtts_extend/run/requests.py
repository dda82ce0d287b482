"""Requests to a training run: files in its folder, which can be created by hand on any operating system.

`RUN/requests/stop` makes the run write a checkpoint and stop, `save` makes it write a checkpoint, and `evaluate` makes
it evaluate. The content of the files does not matter. The run removes each file once it has carried out the request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from xtts_extend.errors import ConfigError, MachineError

FOLDER = "requests"

Request = Literal["stop", "save", "evaluate"]
REQUESTS: tuple[Request, ...] = get_args(Request)


@dataclass(frozen=True)
class RequestFile:
    """A file that makes a request. Writing the file again makes a new request.

    Attributes:
        name: The request.
        path: The file.
        changed_ns: Modification time in nanoseconds.
    """

    name: Request
    path: Path
    changed_ns: int


def request(run: Path, name: str) -> None:
    """Make a request to a run. A run that is not training ignores the request and removes it when it next starts.

    Raises:
        ConfigError: The request is unknown, or the run folder does not exist.
        MachineError: The file cannot be written.
    """
    if name not in REQUESTS:
        raise ConfigError(f"Unknown request {name!r}. Expected {', '.join(REQUESTS[:-1])} or {REQUESTS[-1]}.")
    if not run.is_dir():
        raise ConfigError(f"The run folder {run} does not exist. Pass the folder that the run writes to.")
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise MachineError(
            f"{folder / name} could not be written: {error.strerror}. Free up disk space or fix the folder, and try "
            "again."
        ) from error


def pending(run: Path) -> set[Request]:
    """Return the requests that a run has not carried out yet."""
    return {file.name for file in request_files(run)}


def served(run: Path, name: Request) -> None:
    """Remove a request.

    Raises:
        MachineError: The request file cannot be removed.
    """
    for file in request_files(run):
        if file.name == name:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                raise MachineError(f"{file.path} could not be removed: {error.strerror}. Remove it by hand.") from error


def request_files(run: Path) -> Iterator[RequestFile]:
    """Yield a run's request files.

    File names are not case-sensitive and may end in `.txt`, because Windows ignores case and hides this extension.
    """
    try:
        entries = list(os.scandir(run / FOLDER))
    except OSError:
        return
    for entry in entries:
        found = [name for name in REQUESTS if entry.name.lower() in (name, f"{name}.txt")]
        try:
            if found and entry.is_file():
                yield RequestFile(found[0], Path(entry.path), entry.stat().st_mtime_ns)
        except FileNotFoundError:
            continue
