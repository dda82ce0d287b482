"""Files: what `is_locked` says of a lock, and what it leaves alone."""

from __future__ import annotations

import hashlib
import logging
import threading

import pytest
from filelock import FileLock

from xtts_extend.errors import ConfigError, DataError, DiskFullError, MachineError
from xtts_extend.files import append_line, file_digest, is_locked, locked_folder, require_space

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


def test_digests(tmp_path):
    file = tmp_path / "ሰላም a"
    file.write_bytes(b"one")
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()
    assert file_digest(file, "md5") == hashlib.md5(b"one").hexdigest()
    file.write_bytes(b"other")
    assert file_digest(file) == hashlib.sha256(b"other").hexdigest()
    with pytest.raises(DataError, match="none cannot be read: No such file"):
        file_digest(tmp_path / "none")


def test_space_on_the_disk_of_a_folder_that_does_not_exist(tmp_path):
    require_space(tmp_path / "a" / "b", 1, "x")
    with pytest.raises(DiskFullError, match=r"x needs 1e\+09 GB more on the disk of .*b, which has"):
        require_space(tmp_path / "a" / "b", 10**18, "x")
    assert not (tmp_path / "a").exists()


def test_a_locked_folder_is_waited_for(tmp_path, caplog):
    folder = tmp_path / "new" / "folder"
    caplog.set_level(logging.INFO, "trainer")
    with locked_folder(folder, "Waiting."):
        assert is_locked(folder / ".lock")
        done = []

        def wait():
            with locked_folder(folder, "Waiting."):
                done.append(True)

        other = threading.Thread(target=wait)
        other.start()
        other.join(0.2)
        assert caplog.messages == [" > Waiting."]
        assert not done
    other.join()
    assert done == [True]
    assert not is_locked(folder / ".lock")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; expected a folder"), locked_folder(tmp_path / "file", "Waiting."):
        pass
