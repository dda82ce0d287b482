"""Jobs: `xtts-extend` commands, each in its own process, with a folder that holds everything known about it.

A job's folder PROJECT/jobs/ID has `command.json`, `log.txt`, `started.json` once its command runs, and `exit.json` once
it has ended. Its process (`job_process.py`) holds `.lock`; a file `cancel` asks it to stop. Nothing is kept in memory,
so the page can be closed at any time, and several pages and the command line see the same jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.files import atomic_write, is_locked
from xtts_extend.page.browser_input import checked_name

JobState = Literal["waiting", "running", "finished", "failed", "stopped", "lost"]

#: The command that a job's arguments are passed to.
PROGRAM = (sys.executable, "-m", "xtts_extend")
#: The kind of job that needs a GPU to itself.
TRAIN = "train"
LOCK, CANCEL = ".lock", "cancel"
#: Seconds that a job's process has to take its lock after it is started.
_START_S = 15
#: Size limit of a job's JSON files, in bytes.
_LONGEST_JSON = 1 << 22
_TAIL_BYTES = 1 << 16
#: Size limit of a log that is searched for a result, in bytes.
_LONGEST_RESULT = 1 << 26
#: Terminal codes for colors and cursor movements.
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERROR = re.compile(r"^(?:xtts-extend[\w -]*: |\S+\.py: )?error: ", re.MULTILINE)


@dataclass(frozen=True)
class Exit:
    """How a job ended.

    Attributes:
        code: Exit code of the command: negative for a signal, None if it was never started.
        started: Time at which the command was started, in ISO format; None if it was not.
        ended: Time at which it ended.
        is_stopped: Whether it ended because it was asked to stop.
    """

    code: int | None
    started: str | None
    ended: str
    is_stopped: bool


@dataclass(frozen=True)
class Job:
    """A job of a project, as its folder describes it.

    Attributes:
        folder: The job's folder.
        kind: What it does, for example `train`.
        label: Name that users see.
        arguments: Arguments for `xtts-extend`.
        created: Time at which it was started or queued, in ISO format.
        command: The command line, for users to read and copy.
    """

    folder: Path
    kind: str
    label: str
    arguments: tuple[str, ...]
    created: str
    command: str

    @staticmethod
    def start(project: Path, kind: str, arguments: Sequence[str], *, label: str) -> Job:
        """Start a job and return it once its process holds its lock or has ended.

        The process outlives the page: it has its own session, no terminal and none of the page's open files.

        Args:
            project: The project's folder.
            kind: What the job does. Jobs of the kind `train` queue for a GPU; all others start immediately.
            arguments: Arguments for `xtts-extend`, checked by the caller.
            label: Name that users see.

        Raises:
            ConfigError: An argument cannot be passed to a process.
            MachineError: The job's folder cannot be written, or no process can be started. No trace of the job is left.
        """
        checked_name(kind)
        if unusable := [argument for argument in arguments if "\0" in argument]:
            raise ConfigError(f"The argument {unusable[0][:40]!r} contains a null character. Type it again.")
        folder = _new_folder(project / "jobs", kind)
        content = {
            "kind": kind,
            "label": label,
            "arguments": list(arguments),
            "created": now(),
            "command": _line(["xtts-extend", *arguments]),
            "program": list(PROGRAM),
        }
        try:
            write_json(folder / "command.json", content)
            process = _start_process(folder)
        except MachineError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise MachineError(f"{label} could not be started ({error}). Free memory or disk space.") from error
        # An ended child stays in the process table until it is waited for.
        threading.Thread(target=process.wait, daemon=True).start()
        job = read_job(folder)
        end = time.monotonic() + _START_S
        while not is_locked(folder / LOCK) and job.exit is None and time.monotonic() < end:
            if process.poll() is not None and job.exit is None:
                write_exit(folder, process.returncode, started=None, is_stopped=False)
            time.sleep(0.02)
        return job

    @property
    def name(self) -> str:
        """The job's ID; IDs sort by time."""
        return self.folder.name

    @property
    def exit(self) -> Exit | None:
        """How the job ended; None if it has not ended or was killed."""
        file = self.folder / "exit.json"
        content = _read_json(file)
        if content is None:
            return Exit(None, None, "", False) if file.exists() else None
        code, started = content.get("code"), content.get("started")
        return Exit(
            code if isinstance(code, int) else None,
            started if isinstance(started, str) else None,
            str(content.get("ended", "")),
            content.get("stopped") is True,
        )

    @property
    def started(self) -> str | None:
        """Time at which the job's command was started, in ISO format."""
        started = (_read_json(self.folder / "started.json") or {}).get("started")
        return started if isinstance(started, str) else None

    @property
    def state(self) -> JobState:
        """The job's state: waiting for a GPU, running, or how it ended; `lost` if its process was killed."""
        ended = self.exit
        if ended is None and not (is_locked(self.folder / LOCK) or self._is_new()):
            # It may have ended between the two checks.
            ended = self.exit
            if ended is None:
                return "lost"
        if ended is not None:
            return "stopped" if ended.is_stopped else "finished" if ended.code == 0 else "failed"
        return "waiting" if self.kind == TRAIN and not (self.folder / "started.json").exists() else "running"

    def _is_new(self) -> bool:
        """Return whether the job's process may not have had time to take its lock yet."""
        if (self.folder / LOCK).exists():
            return False
        try:
            return abs(time.time() - (self.folder / "command.json").stat().st_mtime) < _START_S
        except OSError:
            return False

    @property
    def error(self) -> str:
        """What is known about why the job failed or was lost, for users; empty in any other state."""
        state = self.state
        if state == "lost":
            return (
                "The job's process was killed, or the disk was full when it ended. Check the end of its log. "
                "If it was a training job, check whether its run is still active. "
                "If it is not, resume from its newest checkpoint."
            )
        if state != "failed":
            return ""
        log = self.log_tail()
        if found := list(_ERROR.finditer(log)):
            return log[found[-1].end() :].strip()
        code = (self.exit or Exit(None, None, "", False)).code
        if code is None:
            return f"{self.folder / 'exit.json'} is damaged, so it is not known how the job ended. Check its log."
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last = log.rstrip().rpartition("\n")[2].strip()
        advice = " The machine may be out of memory." if code == -9 else ""
        return f"The command {how}.{advice}" + (f" Its last line was: {last}" if last else " It printed nothing.")

    def log_tail(self, lines: int = 200) -> str:
        """Return the last lines of the log, as a terminal would show them, with progress bars in their last state.

        Args:
            lines: Maximum number of lines; only the last 64 KiB of the log are read.
        """
        try:
            with (self.folder / "log.txt").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
        except OSError as error:
            return "" if isinstance(error, FileNotFoundError) else f"The log cannot be read: {error.strerror}."
        if size > _TAIL_BYTES:
            text = text.partition("\n")[2] or text
        shown = [line.rstrip("\r").rpartition("\r")[2] for line in _TERMINAL_CODES.sub("", text).split("\n")]
        while shown and not shown[-1]:
            shown.pop()
        return "\n".join(shown[-lines:])

    def result(self) -> dict[str, Any] | None:
        """Return the JSON object that the command printed after its messages; None if there is none yet."""
        try:
            with (self.folder / "log.txt").open("rb") as file:
                text = file.read(_LONGEST_RESULT).decode("utf-8", "replace")
            start = 0 if text.startswith("{\n") else text.index("\n{\n") + 1
            found, _ = json.JSONDecoder().raw_decode(text, start)
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def cancel(self) -> None:
        """Ask the job to stop; do nothing if it has ended.

        A waiting job ends, and a running command receives SIGINT, as from Ctrl-C: training writes a checkpoint first.

        Raises:
            MachineError: The request cannot be written.
        """
        if self.state not in ("waiting", "running"):
            return
        try:
            (self.folder / CANCEL).touch()
        except OSError as error:
            raise MachineError(
                f"{self.label} could not be asked to stop: {self.folder} cannot be written to ({error.strerror}). "
                "Make the folder writable, or end the job's process by hand."
            ) from error


def jobs(project: Path) -> list[Job]:
    """Return a project's jobs, oldest first. A damaged job is listed with what is known about it.

    Raises:
        MachineError: The jobs folder cannot be read.
    """
    folder = project / "jobs"
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MachineError(
            f"The jobs in {folder} cannot be listed: {error.strerror}. Make the folder readable."
        ) from error
    # Without this file, the folder is not a job yet or is not ours.
    return [read_job(folder / name) for name in names if (folder / name / "command.json").exists()]


def read_job(folder: Path) -> Job:
    """Return the job in a folder; one whose `command.json` is damaged has the kind `unknown` and no arguments."""
    content = _read_json(folder / "command.json") or {}
    texts = [content.get(key) for key in ("kind", "label", "created", "command")]
    arguments = content.get("arguments")
    if not isinstance(arguments, list) or not all(isinstance(text, str) for text in [*texts, *arguments]):
        return Job(folder, "unknown", f"{folder.name} (its command.json is damaged)", (), "", "")
    kind, label, created, command = map(str, texts)
    return Job(folder, kind, label, tuple(arguments), created, command)


def program_of(folder: Path) -> list[str]:
    """Return what the job in a folder runs: the program and its arguments.

    Raises:
        ConfigError: `command.json` is damaged.
    """
    content = _read_json(folder / "command.json") or {}
    program, arguments = content.get("program"), content.get("arguments")
    if not (isinstance(program, list) and program and isinstance(arguments, list)):
        raise ConfigError(f"{folder / 'command.json'} is damaged. Start the job again.")
    return [str(word) for word in (*program, *arguments)]


def write_exit(folder: Path, code: int | None, *, started: str | None, is_stopped: bool) -> None:
    """Record how the job in a folder ended.

    Raises:
        MachineError: The file cannot be written, or the folder no longer exists.
    """
    write_json(folder / "exit.json", {"code": code, "started": started, "ended": now(), "stopped": is_stopped})


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file of a job.

    Raises:
        MachineError: The file cannot be written, or the job's folder no longer exists.
    """
    if not file.parent.is_dir():
        raise MachineError(f"The job's folder {file.parent} no longer exists. {file.name} was not written.")
    with atomic_write(file) as stream:
        # Paths that are not valid UTF-8 contain surrogates.
        stream.write(json.dumps(content, ensure_ascii=False, indent=2).encode("utf-8", "surrogatepass"))


def now() -> str:
    """Return the time in ISO format, with the offset from UTC."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def _read_json(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in a job's file; None if the file does not exist or is damaged."""
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_LONGEST_JSON).decode("utf-8", "surrogatepass"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _new_folder(folder: Path, kind: str) -> Path:
    """Create the folder of a job, named after the time and a number within that second, so that names sort by time.

    Raises:
        MachineError: The folder cannot be created.
    """
    second = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    pattern = re.compile(rf"{second}(?:_(\d+))?-")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            taken = [int(found[1] or 1) for name in os.listdir(folder) if (found := pattern.match(name))]
            path = folder / (f"{second}_{max(taken) + 1:03}-{kind}" if taken else f"{second}-{kind}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise MachineError(
            f"No job can be started: {folder} cannot be written to ({error.strerror}). Free space or make it writable."
        ) from error


def _start_process(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process for the job in a folder, detached from this one.

    Raises:
        OSError: The process cannot be started, or the log cannot be opened.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    flags = 0
    if sys.platform == "win32":
        # A hidden console: without one, Ctrl-Break could not be sent to the command.
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "xtts_extend.page.job_process", str(folder.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            creationflags=flags,
        )


def _line(arguments: Sequence[str]) -> str:
    """Return a command as users would type it."""
    return subprocess.list2cmdline(arguments) if sys.platform == "win32" else shlex.join(arguments)
