"""Files: what `is_locked` says of a lock, and what it leaves alone."""

from __future__ import annotations

import threading

import pytest
from filelock import FileLock

from xtts_extend.errors import MachineError
from xtts_extend.files import append_line, is_locked

fcntl = pytest.importorskip("fcntl", reason="Windows has no shared locks")


def test_the_probe_of_a_lock(tmp_path):
    file = tmp_path / ".lock"
    assert not is_locked(file)
    assert not file.exists()
    with FileLock(file):
        assert is_locked(file)
    assert not is_locked(file)
    with file.open("rb") as probe:
        fcntl.flock(probe, fcntl.LOCK_SH)
        assert not is_locked(file)
    assert not is_locked(tmp_path / "no" / ".lock")


def test_probes_do_not_keep_a_lock_from_its_owner(tmp_path):
    file, end = tmp_path / ".lock", threading.Event()
    file.touch()

    def probe() -> None:
        while not end.is_set():
            is_locked(file)

    threads = [threading.Thread(target=probe) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with FileLock(file, timeout=10):
                assert is_locked(file)
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_appended_lines(tmp_path):
    file = tmp_path / "lines"
    append_line(file, b"one")
    append_line(file, b"two")
    assert file.read_bytes() == b"one\ntwo\n"
    file.write_bytes(b"one\ntw")
    append_line(file, b"three")
    assert file.read_bytes() == b"one\ntw\nthree\n"
    with pytest.raises(MachineError, match=r"no/lines could not be written: No such file or directory\."):
        append_line(tmp_path / "no" / "lines", b"lost")
