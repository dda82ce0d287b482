"""A checkpoint is there complete, or not at all."""

import errno

import pytest
import torch

from xtts_extend.checkpoint import store
from xtts_extend.errors import CheckpointError, MachineError
from xtts_extend.files import atomic_write

STATE = {"model": {"xtts.gpt.text_embedding.weight": torch.arange(6.0).reshape(3, 2)}, "step": 3}


def test_written_and_read_again(tmp_path):
    store.write_checkpoint(STATE, tmp_path / "checkpoint_3.pth")
    content, info = store.load_checkpoint(tmp_path / "checkpoint_3.pth")
    assert torch.equal(content["model"]["xtts.gpt.text_embedding.weight"], torch.arange(6.0).reshape(3, 2))
    assert (info.step, info.vocab_size) == (3, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_3.pth"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint_3.pth"
    store.write_checkpoint(STATE, path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xtts_extend.files.os.fsync", full)
    with pytest.raises(MachineError, match="the disk is full"):
        store.write_checkpoint({**STATE, "step": 4}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_3.pth"]


def test_an_interruption_leaves_no_partial_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_vanished_folder_is_an_error(tmp_path):
    with pytest.raises(MachineError, match="has vanished"):
        store.write_checkpoint(STATE, tmp_path / "gone" / "checkpoint_3.pth")


def test_runs_that_start_together_have_folders_of_their_own(tmp_path):
    folders = {store.make_run_folder(tmp_path / "ሩጫ [v2]", "xtts") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() for folder in folders)


def test_retention_keeps_the_newest_by_number(tmp_path):
    for step in (5, 10, 100, 20):
        (tmp_path / f"checkpoint_{step}.pth").touch()
    (tmp_path / "best_model_5.pth").touch()
    store.keep_newest(tmp_path, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint_20.pth", "checkpoint_100.pth", "best_model_5.pth"}


def test_the_best_model_is_a_link_and_older_ones_go(tmp_path):
    for step in (5, 10):
        (tmp_path / f"best_model_{step}.pth").write_text(str(step))
        store.mark_best(tmp_path, tmp_path / f"best_model_{step}.pth")
    assert {file.name for file in tmp_path.iterdir()} == {"best_model_10.pth", "best_model.pth"}
    assert (tmp_path / "best_model.pth").samefile(tmp_path / "best_model_10.pth")


def test_the_best_model_is_a_copy_where_links_fail(tmp_path, monkeypatch):
    (tmp_path / "best_model_5.pth").write_text("5")

    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    store.mark_best(tmp_path, tmp_path / "best_model_5.pth")
    assert (tmp_path / "best_model.pth").read_text() == "5"
    assert not (tmp_path / "best_model.pth").samefile(tmp_path / "best_model_5.pth")


def test_leftovers_of_a_kill_are_removed(tmp_path):
    for name in (".checkpoint_5.pth.tmp", ".data-check.jsonl", "checkpoint_4.pth"):
        (tmp_path / name).touch()
    store.remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {".data-check.jsonl", "checkpoint_4.pth"}


def test_fit_names_missing_and_left_over():
    store.require_fit({"a", "b"}, {"a", "b"}, "position")
    with pytest.raises(CheckpointError, match="1 missing: a; 1 left over: c"):
        store.require_fit({"a", "b"}, {"b", "c"}, "position")


def test_later_checkpoints_are_set_aside_and_not_lost(tmp_path):
    for name in ("checkpoint_4.pth", "checkpoint_8.pth", "best_model_4.pth", "best_model_8.pth"):
        (tmp_path / name).write_text(name)
    (tmp_path / "best_model.pth").hardlink_to(tmp_path / "best_model_8.pth")
    store.set_aside_later(tmp_path, 4)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint_4.pth", "best_model_4.pth", "set-aside"}
    assert (tmp_path / "set-aside" / "checkpoint_8.pth").read_text() == "checkpoint_8.pth"
    assert (tmp_path / "set-aside" / "best_model_8.pth").read_text() == "best_model_8.pth"
