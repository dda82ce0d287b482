"""Requests to a run that trains: files in its folder, which anyone can make, on every operating system.

`RUN/requests/stop` stops it with a checkpoint, `save` makes it write one, and `evaluate` makes it evaluate. The content
does not matter. The run removes a file when it has done what was asked.
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
    """A file that makes a request; one that is written again is another request.

    Attributes:
        name: What is requested.
        path: The file.
        changed_ns: When it was written, in nanoseconds.
    """

    name: Request
    path: Path
    changed_ns: int


def request(run: Path, name: str) -> None:
    """Make a request to a run; one that does not train ignores it, and its next start removes it.

    Raises:
        ConfigError: There is no such request, or no such run folder.
        MachineError: The file cannot be written.
    """
    if name not in REQUESTS:
        raise ConfigError(f"A run cannot be asked to {name!r}. Expected {', '.join(REQUESTS[:-1])} or {REQUESTS[-1]}.")
    if not run.is_dir():
        raise ConfigError(f"There is no run folder {run}. Pass the folder that the run writes to.")
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise MachineError(
            f"{folder / name} could not be written: {error.strerror}. Free disk space or fix the folder, and try again."
        ) from error


def pending(run: Path) -> set[Request]:
    """Return the requests that a run has not served yet."""
    return {file.name for file in request_files(run)}


def served(run: Path, name: Request) -> None:
    """Remove a request.

    Raises:
        MachineError: Its file cannot be removed.
    """
    for file in request_files(run):
        if file.name == name:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                raise MachineError(f"{file.path} could not be removed: {error.strerror}. Remove it.") from error


def request_files(run: Path) -> Iterator[RequestFile]:
    """Yield the files of a run that make requests.

    Case and the ending `.txt` do not matter: Windows ignores the one and hides the other.
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
