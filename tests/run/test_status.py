"""status.json, and whether a run lives."""

import errno
import json
import math
import os
import threading
import time
from pathlib import Path

import pytest

from xtts_extend.checkpoint.store import lock_run, remove_leftovers
from xtts_extend.run.status import Status, is_live, read_status, write_status

FULL = Status(
    "training",
    step=25,
    epoch=1,
    losses={"loss": 4.5, "loss_text_ce": 0.5, "loss_mel_ce": 4.0},
    seconds_per_step=0.25,
    time_left_s=3600.0,
    last_evaluation={"step": 20, "languages": {"am": {"loss_mel_ce": 4.25, "retention": None}, "en": {"loss": 2.0}}},
    last_checkpoint="/runs/ንግግር/checkpoint_20.pth",
    error="\udce9 is a byte of a path without an encoding.",
)


def test_written_and_read_back(tmp_path):
    for status in (FULL, Status("starting")):
        write_status(tmp_path, status)
        assert read_status(tmp_path) == status
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
    assert (status.pid, status.step, status.losses, status.last_checkpoint) == (os.getpid(), 0, {}, None)


def test_numbers_that_are_not_finite_are_null(tmp_path):
    losses = {"loss": math.nan, "loss_mel_ce": -math.inf, "loss_text_ce": 1.0}
    evaluation = {"step": 1, "languages": {"am": {"loss": math.inf}}}
    write_status(tmp_path, Status("training", losses=losses, time_left_s=math.inf, last_evaluation=evaluation))
    text = (tmp_path / "status.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    status = read_status(tmp_path)
    assert status.losses == {"loss": None, "loss_mel_ce": None, "loss_text_ce": 1.0}
    assert status.time_left_s is None
    assert status.last_evaluation["languages"] == {"am": {"loss": None}}


def damaged(**values: object) -> bytes:
    """Return the content of a status with other values."""
    names = ("phase", "step", "epoch", "losses", "seconds_per_step", "time_left_s", "last_evaluation", "error")
    content = {name: getattr(FULL, name) for name in (*names, "last_checkpoint", "updated", "pid", "host")}
    return json.dumps({**content, **values}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe\x00", b"null", b"[]", b'"text"', b"{}", b'{"phase": "tr', b"\0" * 100, b"[" * 100_000,
        damaged(phase="dreaming"), damaged(phase=["training"]), damaged(step="25"), damaged(step=True),
        damaged(step=2.5), damaged(losses=[1]), damaged(losses={"loss": "low"}), damaged(last_evaluation=3),
        damaged(last_evaluation={"step": 1}), damaged(seconds_per_step=int("9" * 400)), damaged(error=3),
        damaged(updated="yesterday"), damaged(updated=None), damaged(pid=None), b" " * (1 << 20) + damaged(),
    ],
)  # fmt: skip
def test_other_content_is_no_status(tmp_path, content):
    (tmp_path / "status.json").write_bytes(content)
    assert read_status(tmp_path) is None


def test_values_that_other_programs_write(tmp_path):
    (tmp_path / "status.json").write_bytes(damaged(mood="good", time_left_s=3).replace(b"0.25", b"1e999"))
    status = read_status(tmp_path)
    assert (status.time_left_s, status.seconds_per_step) == (3.0, None)


def test_without_a_file_there_is_no_status(tmp_path):
    assert read_status(tmp_path / "missing") is None
    (tmp_path / "status.json").mkdir()
    assert read_status(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "status.json")
    os.mkfifo(tmp_path / ".lock")
    assert read_status(tmp_path) is None
    assert not is_live(tmp_path)


def test_a_failed_write_leaves_the_previous_status(tmp_path, monkeypatch):
    write_status(tmp_path, FULL)

    def disk_is_full(path, *_, **__):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_status(tmp_path, Status("finished"))
    assert read_status(tmp_path) == FULL
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_a_replacement_that_windows_refuses_is_tried_again(tmp_path, monkeypatch):
    replace, refusals = Path.replace, [PermissionError(13, "Access is denied")] * 2

    def refuse_twice(path, target):
        if refusals:
            raise refusals.pop()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse_twice)
    write_status(tmp_path, FULL)
    assert read_status(tmp_path) == FULL


def test_a_killed_writer_s_file_is_removed_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_status(tmp_path, FULL)
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_readers_see_a_whole_status_while_it_is_replaced(tmp_path):
    write_status(tmp_path, FULL)
    done, seen = threading.Event(), []

    def read():
        while not done.is_set():
            seen.append(read_status(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(300):
        write_status(tmp_path, Status("training", step=step))
    done.set()
    reader.join()
    assert seen
    assert None not in seen


def test_a_run_lives_while_its_lock_is_held(tmp_path):
    assert not is_live(tmp_path)
    assert not is_live(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
    lock = lock_run(tmp_path)
    assert is_live(tmp_path)
    lock.release()
    assert not is_live(tmp_path)
    assert (tmp_path / ".lock").exists() == (os.name != "nt")


def test_a_lock_in_a_read_only_folder(tmp_path):
    lock = lock_run(tmp_path)
    (tmp_path / ".lock").chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert is_live(tmp_path)
        lock.release()
        assert not is_live(tmp_path)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="there are no shared locks")
def test_probes_of_other_processes_are_not_runs(tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("w") as probed:
        fcntl.flock(probed, fcntl.LOCK_SH)
        assert not is_live(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="replaces flock")
@pytest.mark.parametrize(
    ("error", "live"), [(errno.EWOULDBLOCK, True), (errno.EACCES, True), (errno.ENOSYS, True), (errno.EIO, False)]
)
def test_what_a_failed_probe_says(tmp_path, monkeypatch, error, live):
    """Without locks in the file system, filelock creates the file for a lock and removes it."""

    def fail(*_):
        raise OSError(error, os.strerror(error))

    (tmp_path / ".lock").touch()
    monkeypatch.setattr("fcntl.flock", fail)
    assert is_live(tmp_path) is live


def test_probes_never_keep_a_run_from_starting(tmp_path):
    """Threads probe without a pause while runs lock and release. Each lock is taken soon, and is seen while held."""
    (tmp_path / ".lock").touch()
    done, seen = threading.Event(), 0

    def probe():
        nonlocal seen
        while not done.is_set():
            is_live(tmp_path)
            seen += 1

    threads = [threading.Thread(target=probe) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        waits = []
        for _ in range(15):
            began = time.monotonic()
            lock = lock_run(tmp_path)
            waits.append(time.monotonic() - began)
            assert is_live(tmp_path)
            lock.release()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert seen > 100
    assert max(waits) < 5
    assert not is_live(tmp_path)
