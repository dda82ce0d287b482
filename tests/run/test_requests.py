"""Requests to a run are files in its folder."""

import os
from pathlib import Path

import pytest

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.run.requests import pending, request, request_files, served


def test_made_seen_and_served(tmp_path):
    assert pending(tmp_path) == set()
    for name in ("stop", "save", "evaluate", "save"):
        request(tmp_path, name)
    assert pending(tmp_path) == {"stop", "save", "evaluate"}
    served(tmp_path, "save")
    served(tmp_path, "save")
    assert pending(tmp_path) == {"stop", "evaluate"}


@pytest.mark.parametrize("name", ["", "Stop", "../stop", "stop.txt", "status.json", "stop; rm -rf ~", "አቁም"])
def test_unknown_requests_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="Expected stop, save or evaluate"):
        request(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_run_is_not_created(tmp_path):
    with pytest.raises(ConfigError, match="The run folder .* does not exist"):
        request(tmp_path / "run", "stop")
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "requests").write_text("a file", encoding="utf-8")
    with pytest.raises(MachineError, match=r"requests.stop could not be written"):
        request(tmp_path, "stop")
    assert pending(tmp_path) == set()


@pytest.mark.parametrize("name", ["stop", "STOP", "Stop.txt", "stop.TXT"])
def test_files_that_people_make(tmp_path, name):
    folder = tmp_path / "requests"
    folder.mkdir()
    (folder / name).write_bytes(b"\xff please")
    assert pending(tmp_path) == {"stop"}
    served(tmp_path, "stop")
    assert list(folder.iterdir()) == []


def test_everything_else_is_ignored(tmp_path):
    folder = tmp_path / "requests"
    (folder / "stop").mkdir(parents=True)
    for name in ("stopped", "save.part", ".evaluate", "delete", "evaluate.txt.txt"):
        (folder / name).touch()
    if os.name != "nt":
        (folder / "save").symlink_to(tmp_path / "missing")
    before = sorted(folder.iterdir())
    assert pending(tmp_path) == set()
    for name in ("stop", "save", "evaluate"):
        served(tmp_path, name)
    assert sorted(folder.iterdir()) == before


def test_the_same_file_written_again_is_another_request(tmp_path):
    request(tmp_path, "save")
    (first,) = request_files(tmp_path)
    os.utime(first.path, ns=(0, 0))
    assert set(request_files(tmp_path)) != {first}


def test_a_file_that_cannot_be_removed_is_an_error(tmp_path, monkeypatch):
    request(tmp_path, "stop")

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(MachineError, match="stop could not be removed: Permission denied"):
        served(tmp_path, "stop")
