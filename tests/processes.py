"""Scripts in processes of their own that need not import torch and coqui first.

These imports take longer than a run of the tests. So one process makes them and does nothing else, and each script is
a fork of it: another process, with signals, an exit code and an end of its own. What a test says about the start of
Python itself needs `subprocess`.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
# in the process that is forked nothing has run backward: torch's autograd would refuse to in its children
_context.set_forkserver_preload(["xtts_extend.setup.validate", "xtts_extend.training.trainer"])


class Script:
    """A Python script under way, as `python SCRIPT ARGUMENTS` would run it.

    Args:
        script, arguments: of the command line.
        output: the file that gets what the script prints on stdout and stderr.
        environment: variables that it has besides this process's.
    """

    def __init__(self, script: Path, *arguments: object, output: Path, **environment: str) -> None:
        self.output = output
        output.touch()
        given = [str(script), *map(str, arguments)]
        self._process = _context.Process(target=_run, args=(given, str(output), {**os.environ, **environment}))
        self._process.start()

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(encoding="utf-8")

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.exitcode is not None

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """Its exit code when it has ended; of a signal that killed it the negative number."""
        self._process.join(timeout)
        if not self.ended:
            self.send(signal.SIGKILL)
            raise TimeoutError(f"The script has not ended after {timeout} s:\n{self.text}")
        return self._process.exitcode


def run(script: Path, *arguments: object, output: Path, **environment: str) -> Script:
    """Run a script to its end, which has to be a good one."""
    script = Script(script, *arguments, output=output, **environment)
    assert script.wait() == 0, script.text
    return script


def together(processes: int, script: Path, *arguments: object, output: Path) -> None:
    """Run a script in several processes with what torchrun tells each of them; all have to end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "WORLD_SIZE": f"{processes}"}
    started = [
        Script(
            script,
            *arguments,
            output=output.with_name(f"{output.name}.{rank}"),
            **place,
            RANK=f"{rank}",
            LOCAL_RANK=f"{rank}",
        )
        for rank in range(processes)
    ]
    codes = [script.wait() for script in started]
    assert codes == [0] * processes, "\n".join(script.text for script in started)


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
        # as at the end of an interpreter, which multiprocessing leaves out: coverage keeps its data then
        atexit._run_exitfuncs()
