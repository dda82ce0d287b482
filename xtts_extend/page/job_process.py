"""`python -m xtts_extend.page.job_process JOB`: the process of a job, which outlives the page that started it.

It takes the job's lock, waits for a GPU if the job trains, runs the command with its output sent to the log, passes on
requests to stop, and records how the command ended.

If this process is killed, its command ends with it where the system supports that (Linux), unless it is training: hours
of work must not depend on a process that only waits. Training then continues under its run folder's lock, keeps its GPU
reserved (except on Windows), and can be stopped through its run folder. The job itself is reported as lost.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from xtts_extend.errors import MachineError, XttsExtendError, report_errors
from xtts_extend.files import cache_folder
from xtts_extend.page.jobs import CANCEL, LOCK, TRAIN, jobs, now, program_of, read_job, write_exit, write_json

#: Seconds between checks of requests, GPUs and the command.
_POLL_S = 0.25
#: Seconds from the request to stop until the command is terminated, and from then until it is killed.
_GRACE_S = 30
#: The same for training, which completes an optimizer step and writes a checkpoint of several GB.
_TRAINING_GRACE_S = 600
_LOCK_TIMEOUT_S = 10
#: Linux's request to be signaled when the parent process dies (linux/prctl.h).
_PR_SET_PDEATHSIG = 1
if sys.platform == "win32":
    _INTERRUPT = signal.CTRL_BREAK_EVENT
else:
    _INTERRUPT = signal.SIGINT


class Stopped(Exception):
    """The job was asked to stop before its command started."""


class Supervisor:
    """Runs the job in a folder until it ends.

    Args:
        folder: The job's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: str | None = None
        self.is_stopped = False
        self._is_training = read_job(folder).kind == TRAIN
        #: Signals that this process has received but not yet passed on.
        self._signals: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def run(self) -> int | None:
        """Run the command and return its exit code; None if the job was stopped before it started.

        Raises:
            ConfigError: The job cannot be read.
            MachineError: The command cannot be started, or the folder cannot be written to.
        """
        program = program_of(self.folder)
        environment, slot = dict(os.environ), None
        if self._is_training:
            try:
                device, slot = self._wait_for_gpu()
            except Stopped:
                self.is_stopped = True
                return None
            if device is not None:
                environment["CUDA_VISIBLE_DEVICES"] = device
        self.started = now()
        write_json(self.folder / "started.json", {"started": self.started})
        return self._wait(_start(program, environment, slot))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _is_asked_to_stop(self) -> bool:
        return bool(self._signals) or (self.folder / CANCEL).exists()

    def _wait_for_gpu(self) -> tuple[str | None, int | None]:
        """Wait for a free GPU and for earlier training jobs of the project; return the GPU and its lock's descriptor.

        The GPU is None unless there are several.

        Raises:
            Stopped: The job was asked to stop.
            MachineError: The lock folder cannot be used.
        """
        devices = visible_devices()
        earlier = [job for job in jobs(self.folder.parent.parent) if job.kind == TRAIN and job.name < self.folder.name]
        is_told = False
        while not self._is_asked_to_stop():
            earlier = [job for job in earlier if job.state == "waiting"]
            for device in [] if earlier else devices:
                if (slot := take_slot(device)) is not None:
                    return (device if len(devices) > 1 else None), slot
            if not is_told:
                print("Waiting for a GPU: other training jobs are using it or are ahead in the queue.", flush=True)
                is_told = True
            time.sleep(_POLL_S)
        raise Stopped

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until the command has ended, passing on requests to stop, and return its exit code."""
        grace = _TRAINING_GRACE_S if self._is_training else _GRACE_S
        stops: list[tuple[Callable[[], None], float]] = [
            (partial(process.send_signal, _INTERRUPT), grace),
            (process.terminate, _GRACE_S),
            (process.kill, _GRACE_S),
        ]
        due = 0.0
        while (code := process.poll()) is None:
            while self._signals:
                self.is_stopped = True
                number = self._signals.pop(0)
                process.send_signal(_INTERRUPT if sys.platform == "win32" else number)
            if stops and time.monotonic() >= due and (self.folder / CANCEL).exists():
                self.is_stopped = True
                stop, patience = stops.pop(0)
                stop()
                due = time.monotonic() + patience
            time.sleep(_POLL_S)
        return code


def visible_devices() -> list[str]:
    """Return the GPUs that torch would see, as `CUDA_VISIBLE_DEVICES` names them; at least one, so that training jobs
    wait for each other on machines without a GPU, too.

    Importing torch to count them would take seconds, and hundreds of MB of memory for as long as the job runs.
    """
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in listed.split(",")]
        # CUDA ignores everything after an invalid entry.
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names)) or ["0"]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return ["0"]
    count = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return [str(number) for number in range(max(1, count))]


def take_slot(device: str) -> int | None:
    """Lock a GPU for training jobs of this user; return the lock's descriptor, or None if another job has it.

    The lock lasts as long as a process has the descriptor open. `FileLock` does not expose its descriptor.

    Raises:
        MachineError: The lock folder cannot be used.
    """
    file = cache_folder() / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MachineError(
            f"{file} cannot be opened ({error.strerror}). This lock file keeps training jobs from using the same "
            "GPU at the same time. Set XDG_CACHE_HOME to a writable folder."
        ) from error
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return None
        raise MachineError(
            f"{file} cannot be locked ({error.strerror}). Set XDG_CACHE_HOME to a local folder."
        ) from error
    return descriptor


def main(arguments: Sequence[str]) -> int:
    """Run the job in a folder; return 0 once its end is recorded, whatever the command's exit code."""
    folder = Path(arguments[0])
    if not folder.is_dir():
        print(f"error: The job's folder {folder} no longer exists. Start the job again.", file=sys.stderr)
        return 1
    try:
        # Held until this process ends, however it ends.
        lock = FileLock(folder / LOCK, timeout=_LOCK_TIMEOUT_S).acquire()
    except (Timeout, OSError) as error:
        print(f"error: {folder} cannot be locked ({error}). Start the job again.", file=sys.stderr)
        return 1
    with lock:
        if (folder / "started.json").exists() or (folder / "exit.json").exists():
            print(f"error: Job {folder.name} has already been started. Start a new job.", file=sys.stderr)
            return 2
        supervisor = Supervisor(folder)
        with report_errors(debug=False):
            try:
                code = supervisor.run()
            except XttsExtendError as error:
                write_exit(folder, error.exit_code, started=supervisor.started, is_stopped=False)
                raise
            write_exit(folder, code, started=supervisor.started, is_stopped=supervisor.is_stopped)
    return 0


def _start(program: list[str], environment: dict[str, str], slot: int | None) -> subprocess.Popen[bytes]:
    """Start a job's command, which inherits this process's output.

    Args:
        program: The program and its arguments.
        environment: Its environment variables.
        slot: Descriptor of the GPU lock, which a training command inherits; None if the job does not train.

    Raises:
        MachineError: The command cannot be started.
    """
    try:
        if sys.platform == "win32":
            # Ctrl-Break is sent to a process group.
            flags = subprocess.CREATE_NEW_PROCESS_GROUP
            return subprocess.Popen(program, stdin=subprocess.DEVNULL, env=environment, creationflags=flags)
        return subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=() if slot is None else (slot,),
            preexec_fn=_end_with_parent() if slot is None else None,
        )
    except OSError as error:
        raise MachineError(
            f"{program[0]} could not be started ({error}). Free memory, then start the job again."
        ) from error


def _end_with_parent() -> Callable[[], None] | None:
    """Return the function that a new process calls to get SIGTERM when its parent dies; None if that is impossible."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
