"""Scripts that run in separate processes without importing torch and coqui each time.

These imports take longer than most test runs. One server process makes them once, and each script runs in a fork of it,
with its own signals and exit code. Tests of the start-up of Python itself use `subprocess` instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_context = multiprocessing.get_context("forkserver")
# The server process must never run a backward pass: autograd does not work in forks after one.
_context.set_forkserver_preload(["xtts_extend.setup.validate", "xtts_extend.training.trainer"])


class Script:
    """A running Python script, started as by `python SCRIPT ARGUMENTS`.

    Args:
        script: The script's path.
        arguments: Its command-line arguments.
        output: File that receives stdout and stderr.
        environment: Environment variables to add to this process's.
    """

    def __init__(self, script: Path, *arguments: object, output: Path, **environment: str) -> None:
        self.output = output
        output.touch()
        argv = [str(script), *map(str, arguments)]
        self._process = _context.Process(target=_run, args=(argv, str(output), {**os.environ, **environment}))
        self._process.start()

    @property
    def text(self) -> str:
        """The output so far."""
        return self.output.read_text(encoding="utf-8")

    @property
    def ended(self) -> bool:
        """Whether the script has ended."""
        return self._process.exitcode is not None

    def send(self, number: int) -> None:
        """Send a signal to the script."""
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """Wait until the script ends, and return its exit code; -N if signal N killed it."""
        self._process.join(timeout)
        if not self.ended:
            self.send(signal.SIGKILL)
            raise TimeoutError(f"The script did not end within {timeout} s:\n{self.text}")
        return self._process.exitcode


def run(script: Path, *arguments: object, output: Path, **environment: str) -> Script:
    """Run a script to its end, and require exit code 0."""
    script = Script(script, *arguments, output=output, **environment)
    assert script.wait() == 0, script.text
    return script


def start_processes(processes: int, script: Path, *arguments: object, output: Path, **environment: str) -> list[Script]:
    """Start a script in several processes with torchrun's environment variables, and return them by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "WORLD_SIZE": f"{processes}"}
    return [
        Script(
            script,
            *arguments,
            output=output.with_name(f"{output.name}.{rank}"),
            **group,
            **environment,
            RANK=f"{rank}",
            LOCAL_RANK=f"{rank}",
        )
        for rank in range(processes)
    ]


def run_processes(processes: int, script: Path, *arguments: object, output: Path) -> None:
    """Run a script in several processes with torchrun's environment variables, and require exit code 0 of all."""
    started = start_processes(processes, script, *arguments, output=output)
    codes = [script.wait() for script in started]
    assert codes == [0] * processes, "\n".join(script.text for script in started)


class _Thread:
    """What `Processes` is, for threads that stand in for processes."""

    def __init__(self, rank: int, barrier: threading.Barrier, box: list[object]) -> None:
        self.rank, self.size, self._barrier, self._box = rank, barrier.parties, barrier, box

    def wait(self) -> None:
        """Wait until every thread has called this."""
        self._barrier.wait(30)

    def from_main(self, value: T) -> T:
        """Return rank 0's value in every thread."""
        if self.rank == 0:
            self._box[:] = [value]
        self.wait()
        value = self._box[0]
        self.wait()
        return value


def two_processes() -> list[_Thread]:
    """Return two connected objects that can be passed to two threads as `processes`."""
    barrier, box = threading.Barrier(2), []
    return [_Thread(rank, barrier, box) for rank in range(2)]


def _run(arguments: list[str], output: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
        stream.reconfigure(encoding="utf-8", line_buffering=True)
    import torch

    # The first use after a fork replaces torch's thread pool, without a lock: two threads at once fail there.
    torch.set_num_threads(torch.get_num_threads())
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        # multiprocessing skips exit handlers, and coverage saves its data in one.
        atexit._run_exitfuncs()
