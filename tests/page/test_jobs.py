"""Jobs: what their folders say, whatever becomes of the page and of the processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.page import job_process, jobs
from xtts_extend.page.jobs import Job

#: A command that says that it runs, ends with a code when a file `end` appears, and with 7 on SIGINT, and
#: ignores the signals that it is given.
COMMAND = """
import os, pathlib, signal, sys, time
def stop(number, frame):
    print("stopping", flush=True)
    sys.exit(7)
signal.signal(signal.SIGINT, stop)
for name in sys.argv[2:]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
print("On", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
end = pathlib.Path(sys.argv[1])
end.with_name("runs").touch()
latest = time.monotonic() + 60
while not (end.exists() and end.read_text()):  # A file is empty before it is written.
    time.sleep(0.02)
    if time.monotonic() > latest:
        os._exit(99)
print("error: It ends.\\nGo on.", file=sys.stderr)
sys.exit(int(end.read_text()))
"""


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose jobs run `COMMAND`; processes that a failed test leaves end with it."""
    monkeypatch.setattr(jobs, "PROGRAM", (sys.executable, "-c", COMMAND))
    folder = tmp_path / "ፕሮጀክት 1"
    folder.mkdir()
    yield folder
    for process in processes(folder):
        # It may be ending on its own.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def processes(folder: Path) -> list[psutil.Process]:
    """The processes that have a path below a folder among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()) and process.pid != os.getpid():
            found.append(process)
    return found


def until(condition, timeout=30):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.02)


def supervisor(job: Job) -> psutil.Process:
    (process,) = [found for found in processes(job.folder) if "xtts_extend.page.job_process" in found.info["cmdline"]]
    return process


def says_that_it_runs(job: Job) -> bool:
    return "On " in job.log_tail()


def made(project: Path, name: str, **files: object) -> Job:
    """A job folder that no process has made."""
    folder = project / "jobs" / name
    folder.mkdir(parents=True)
    command = {"kind": "check", "label": "l", "arguments": [], "created": "t", "command": "c", "program": ["p"]}
    for file, content in {"command": command, **files}.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{file}.json").write_text(text, encoding="utf-8")
    old = time.time() - 60
    os.utime(folder / "command.json", (old, old))
    return jobs.read_job(folder)


def test_an_ordinary_command_runs_and_says_how_it_ended(tmp_path):
    good = Job.start(tmp_path, "list", ["recipe", "list"], label="Recipes")
    bad = Job.start(tmp_path, "copy", ["recipe", "copy", "no such; $(id)"], label="Kopie ለ")
    until(lambda: good.exit and bad.exit)
    assert (good.state, good.error, good.exit.code) == ("finished", "", 0)
    assert good.log_tail().startswith("new_language  Teach XTTS")
    assert (bad.state, bad.exit.code, bad.kind, bad.label) == ("failed", 2, "copy", "Kopie ለ")
    assert bad.error == "There is no recipe named 'no such; $(id)'. Choose one of: new_language."
    assert bad.command == "xtts-extend recipe copy 'no such; $(id)'"
    assert jobs.jobs(tmp_path) == [good, bad]
    assert good.created <= good.exit.started <= good.exit.ended


def test_a_job_survives_the_page(project, tmp_path):
    page = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib\nfrom xtts_extend.page import jobs\n"
            f"jobs.PROGRAM = {jobs.PROGRAM!r}\n"
            "jobs.Job.start(pathlib.Path(sys.argv[1]), 'check', [sys.argv[2]], label='x')\n"
            "print('started', flush=True)\ntime.sleep(60)",
            str(project),
            str(project / "end"),
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert page.stdout.readline() == b"started\n"
    (job,) = jobs.jobs(project)
    assert job.state == "running"
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL):
        os.killpg(page.pid, number)
    page.wait()
    page.stdout.close()
    until(lambda: says_that_it_runs(job))
    assert job.state == "running"
    (project / "end").write_text("0")
    until(lambda: job.exit)
    assert job.state == "finished"


def test_trainings_take_turns_and_others_do_not_wait(project):
    first, second, third = (
        Job.start(project, "train", [str(project / f"end{number}")], label="t") for number in range(3)
    )
    other = Job.start(project, "check", [str(project / "end0")], label="c")
    until(lambda: says_that_it_runs(first) and says_that_it_runs(other))
    assert [job.state for job in (first, second, third, other)] == ["running", "waiting", "waiting", "running"]
    assert "Waiting for a GPU" in second.log_tail()
    assert first.started
    assert second.started is None
    second.cancel()
    until(lambda: second.exit)
    assert (second.state, second.exit.code, second.exit.started, second.error) == ("stopped", None, None, "")
    assert third.state == "waiting"
    (project / "end0").write_text("3")
    until(lambda: first.exit and says_that_it_runs(third))
    assert (first.state, first.error, third.state) == ("failed", "It ends.\nGo on.", "running")
    third.cancel()
    until(lambda: third.exit)
    assert (third.state, third.exit.code) == ("stopped", 7)
    third.cancel()
    assert jobs.jobs(project) == [first, second, third, other]


def test_two_gpus_train_two_runs(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-a/b")
    started = [Job.start(project, "train", [str(project / "end")], label="t") for _ in range(3)]
    until(lambda: all(map(says_that_it_runs, started[:2])))
    assert {job.log_tail() for job in started[:2]} == {"On 4", "On GPU-a/b"}
    assert started[2].state == "waiting"
    (project / "end").write_text("0")
    until(lambda: all(job.exit for job in started))
    assert [job.state for job in started] == ["finished"] * 3


def test_a_killed_job_is_lost_and_its_command_ends_unless_it_trains(project):
    check = Job.start(project, "check", [str(project / "end")], label="c")
    train = Job.start(project, "train", [str(project / "end")], label="t")
    until(lambda: says_that_it_runs(check) and says_that_it_runs(train))
    supervisor(check).kill()
    supervisor(train).kill()
    # A process that ends loses its arguments before its locks.
    until(lambda: (check.state, train.state) == ("lost", "lost"))
    assert not processes(check.folder) + processes(train.folder)
    assert "was killed" in check.error
    until(lambda: len(processes(project)) == 1)
    # The training has the GPU until it ends.
    assert job_process.take_slot("0") is None
    (project / "end").write_text("0")
    until(lambda: not processes(project))
    descriptor = job_process.take_slot("0")
    assert descriptor is not None
    os.close(descriptor)


def test_a_signal_to_the_job_reaches_its_command(project):
    job = Job.start(project, "check", [str(project / "end")], label="c")
    until(lambda: says_that_it_runs(job))
    supervisor(job).terminate()
    until(lambda: job.exit)
    assert (job.state, job.exit.code) == ("stopped", -signal.SIGTERM)


def test_a_killed_command_fails(project):
    job = Job.start(project, "check", [str(project / "end")], label="c")
    until(lambda: says_that_it_runs(job))
    (command,) = supervisor(job).children()
    command.kill()
    until(lambda: job.exit)
    assert (job.state, job.exit.code) == ("failed", -signal.SIGKILL)
    assert job.error == (
        "The command was killed by signal 9. The machine may be out of memory. Its last line was: On 0"
    )


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs a job's process here; signals are as before afterwards."""
    monkeypatch.setattr(job_process, "_POLL_S", 0.02)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield lambda job: job_process.main([str(job.folder)])
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("ignored", "code"),
    [([], 7), (["SIGINT"], -signal.SIGTERM), (["SIGINT", "SIGTERM"], -signal.SIGKILL)],
    ids=["interrupted", "ended", "killed"],
)
def test_a_command_that_does_not_stop_is_killed(project, in_this_process, monkeypatch, ignored, code):
    monkeypatch.setattr(job_process, "_GRACE_S", 0.1 if ignored else 30)
    job = made(project, "x")
    command = {"kind": "check", "program": list(jobs.PROGRAM), "arguments": [str(project / "end"), *ignored]}
    (job.folder / "command.json").write_text(json.dumps(command), encoding="utf-8")
    cancelling = threading.Thread(target=lambda: until((project / "runs").exists) or (job.folder / "cancel").touch())
    cancelling.start()
    assert in_this_process(job) == 0
    cancelling.join()
    assert (job.state, job.exit.code) == ("stopped", code)


@pytest.mark.parametrize("is_alive", [True, False], ids=["waits", "is lost"])
def test_a_training_lets_an_earlier_one_go_first_that(project, in_this_process, monkeypatch, is_alive):
    asked = []
    monkeypatch.setattr(job_process, "take_slot", asked.append)
    train = {"kind": "train", "label": "l", "arguments": [], "created": "t", "command": "c", "program": ["p"]}
    earlier, job = (made(project, name, command=train) for name in ("1", "2"))
    made(project, "3", command=train)
    timer = threading.Timer(0.3, (job.folder / "cancel").touch)
    timer.start()
    with FileLock(earlier.folder / ".lock") if is_alive else contextlib.nullcontext():
        assert in_this_process(job) == 0
    timer.join()
    assert set(asked) == (set() if is_alive else {"0"})
    assert (job.state, job.exit.code) == ("stopped", None)


def test_a_job_whose_program_is_missing_fails_with_a_sentence(project, in_this_process, capsys):
    job = made(project, "x")
    with pytest.raises(SystemExit):
        in_this_process(job)
    assert (job.state, job.exit.code) == ("failed", 1)
    assert "p could not be started" in capsys.readouterr().err


def test_a_damaged_command_fails_with_a_sentence(project, in_this_process, capsys):
    job = made(project, "x", command="{")
    with pytest.raises(SystemExit):
        in_this_process(job)
    assert job.exit.code == 2
    assert "command.json is damaged" in capsys.readouterr().err


def test_a_job_runs_once(project, in_this_process):
    job = made(project, "x", exit={"code": 0, "started": None, "ended": "t", "stopped": False})
    assert in_this_process(job) == 2
    assert job.state == "finished"


def test_a_vanished_folder_is_not_made_again(project, in_this_process):
    job = made(project, "x")
    gone = job.folder.rename(project / "moved")
    with pytest.raises(MachineError, match="no longer exists"):
        jobs.write_exit(job.folder, 0, started=None, is_stopped=False)
    assert in_this_process(job) == 1
    assert not job.folder.exists()
    assert (job.state, job.log_tail()) == ("lost", "")
    job.cancel()
    assert gone.exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[" * 100_000, '"x"', "\ufeff{}", '{"kind": 3}', '{"kind": "a", "label": "b", "arguments": "no"}'],
    ids=lambda content: content[:20],
)
def test_damaged_files_are_listed_with_what_is_known(project, content):
    bad_command = made(project, "1", command=content, exit={"code": 0})
    bad_exit = made(project, "2", exit=content)
    lost = made(project, "3")
    (project / "jobs" / "3" / "command.json").write_bytes(b"\xff\xfe\0" + content.encode())
    assert [job.folder for job in jobs.jobs(project)] == [job.folder for job in (bad_command, bad_exit, lost)]
    assert (bad_command.kind, bad_command.arguments, bad_command.state) == ("unknown", (), "finished")
    assert bad_command.label == "1 (its command.json is damaged)"
    assert bad_exit.state == "failed"
    assert "exit.json is damaged" in bad_exit.error
    assert jobs.read_job(lost.folder).kind == "unknown"


def test_what_is_not_a_job_is_not_listed(project, tmp_path):
    assert jobs.jobs(project) == []
    job = made(project, "x")
    (project / "jobs" / "file").touch()
    (project / "jobs" / "empty").mkdir()
    (project / "jobs" / "link").symlink_to(job.folder)
    assert jobs.jobs(project) == [job]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "jobs").touch()
    with pytest.raises(MachineError, match="cannot be listed"):
        jobs.jobs(tmp_path / "other")


def test_a_folder_that_cannot_be_written_is_said(project, monkeypatch):
    (project / "jobs").touch()
    with pytest.raises(MachineError, match="No job can be started"):
        Job.start(project, "check", [], label="c")
    (project / "jobs").unlink()
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(MachineError, match="disk is full"):
        Job.start(project, "check", [], label="c")
    assert list((project / "jobs").iterdir()) == []


def test_arguments_that_no_process_can_get_are_refused(project):
    for kind, arguments in (("check", ["a\0b"]), ("../x", [])):
        with pytest.raises(ConfigError):
            Job.start(project, kind, arguments, label="c")
    assert not (project / "jobs").exists()


def test_names_sort_by_time_and_are_never_shared(project, monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 28, 21, 30, 5)

    monkeypatch.setattr(jobs, "datetime", Frozen)
    folder = project / "jobs"
    made_in_order = [jobs._new_folder(folder, kind).name for kind in ("train", "check", "export") * 4]
    assert made_in_order[:2] == ["2026-11-28_21-30-05-train", "2026-11-28_21-30-05_002-check"]
    assert sorted(made_in_order) == made_in_order
    together: list[Path] = []
    threads = [threading.Thread(target=lambda: together.append(jobs._new_folder(folder, "x"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path.name for path in together}) == 20
    together[3].rmdir()
    assert jobs._new_folder(folder, "x") not in together


def test_two_hundred_jobs_are_listed_quickly(project):
    for number in range(200):
        made(project, f"{number:03}", exit={"code": number % 3, "started": "t", "ended": "t", "stopped": False})
    times = []
    for _ in range(5):
        start = time.process_time()
        states = [job.state for job in jobs.jobs(project)]
        times.append(time.process_time() - start)
    assert states.count("finished") == 67
    assert min(times) < 0.05


def test_a_job_that_has_not_locked_yet_is_not_lost(project):
    job = made(project, "x")
    assert job.state == "lost"
    (job.folder / "command.json").touch()
    assert job.state == "running"
    (job.folder / ".lock").touch()
    assert job.state == "lost"
    with FileLock(job.folder / ".lock"):
        assert job.state == "running"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("reading\nerror: No such file.\nGive another.\n", "No such file.\nGive another."),
        ("usage: xtts-extend …\nxtts-extend pack add: error: unrecognized arguments: x\n", "unrecognized arguments: x"),
        ("train_gpt_xtts.py: error: argument --lr: invalid\n", "argument --lr: invalid"),
        ("error: old\nerror: new\n", "new"),
        ("Traceback …\nValueError: 3\n\n", "The command ended with exit code 1. Its last line was: ValueError: 3"),
        ("", "The command ended with exit code 1. It printed nothing."),
        ("the error: of it", "The command ended with exit code 1. Its last line was: the error: of it"),
    ],
)
def test_why_a_job_failed(project, log, error):
    job = made(project, "x", exit={"code": 1, "started": "t", "ended": "t", "stopped": False})
    (job.folder / "log.txt").write_text(log, encoding="utf-8")
    assert job.error == error


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        (b"a\n 10%\r 20%\r100%\nb\n", "a\n100%\nb"),
        (b"windows\r\nends\r\n", "windows\nends"),
        (b" 10%\r", " 10%"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\xff\xfe\n", "\ufffd\ufffd"),
        ("ሰላም\n".encode(), "ሰላም"),
        (b"x" * 200_000 + b"\nlast\n", "last"),
        (b"y\n" * 100_000, "\n".join("y" * 200)),
    ],
    ids=range(8),
)
def test_the_end_of_a_log(project, log, shown):
    job = made(project, "x")
    (job.folder / "log.txt").write_bytes(log)
    assert job.log_tail() == shown


@pytest.mark.parametrize(
    ("listed", "devices"),
    [
        ("0", ["0"]),
        ("2,3", ["2", "3"]),
        (" GPU-1f , 1", ["GPU-1f", "1"]),
        ("", ["0"]),
        ("-1", ["0"]),
        ("1,-1,2", ["1"]),
    ],
)
def test_gpus_that_torch_would_see(monkeypatch, listed, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert job_process.visible_devices() == devices


@pytest.mark.parametrize(
    ("script", "devices"),
    [
        ("echo 'GPU 0: A (UUID: GPU-1)'; echo '  MIG 1g.5gb'; echo 'GPU 1: B'", ["0", "1"]),
        ("echo 'NVIDIA-SMI has failed'; exit 9", ["0"]),
        (None, ["0"]),
    ],
)
def test_gpus_that_the_driver_lists(monkeypatch, tmp_path, script, devices):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert job_process.visible_devices() == devices


def test_a_gpu_has_one_lock_and_a_folder_that_cannot_be_used_is_said(tmp_path, monkeypatch):
    first = job_process.take_slot("GPU-a/../b")
    assert job_process.take_slot("GPU-a/../b") is None
    other = job_process.take_slot("1")
    assert {file.name for file in (tmp_path / "cache" / "xtts_extend").iterdir()} == {
        "gpu-GPU-a____b.lock",
        "gpu-1.lock",
    }
    os.close(first)
    os.close(other)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="XDG_CACHE_HOME"):
        job_process.take_slot("0")
