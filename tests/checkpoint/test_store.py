"""A checkpoint is written completely or not at all."""

import errno
import os
import shutil
import stat
import subprocess

import pytest
import torch

from xtts_extend.checkpoint import store
from xtts_extend.errors import CheckFailed, CheckpointError, DiskFullError, MachineError
from xtts_extend.files import atomic_write

WEIGHTS = {
    "xtts.gpt.text_embedding.weight": torch.arange(6.0).reshape(3, 2),
    "xtts.gpt.gpt.h.0.ln_1.bias": torch.ones(2),
}
STATE = {"model": WEIGHTS, "step": 3}


def test_an_embedding_with_one_dimension_is_not_an_xtts_model(tmp_path):
    torch.save({"model": {**WEIGHTS, "xtts.gpt.text_embedding.weight": torch.ones(3)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="contains no XTTS model"):
        store.load_checkpoint(tmp_path / "a.pth")


def test_a_written_checkpoint_is_read_back(tmp_path):
    store.write_checkpoint(STATE, tmp_path / "checkpoint_3.pth")
    content, info = store.load_checkpoint(tmp_path / "checkpoint_3.pth")
    assert torch.equal(content["model"]["xtts.gpt.text_embedding.weight"], torch.arange(6.0).reshape(3, 2))
    assert (info.step, info.vocab_size) == (3, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_3.pth"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
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


def test_a_folder_that_cannot_be_flushed_is_a_warning(tmp_path, monkeypatch, caplog):
    flush = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr("xtts_extend.files.os.fsync", files_only)
    store.write_checkpoint(STATE, tmp_path / "checkpoint_3.pth")
    assert "cannot be flushed to disk (Invalid argument)" in caplog.text
    assert store.load_checkpoint(tmp_path / "checkpoint_3.pth")[1].step == 3


def test_an_interruption_leaves_no_partial_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_missing_run_folder_is_an_error(tmp_path):
    with pytest.raises(MachineError, match="its run folder .*gone no longer exists"):
        store.write_checkpoint(STATE, tmp_path / "gone" / "checkpoint_3.pth")


def test_runs_that_start_together_get_different_folders(tmp_path):
    folders = {store.make_run_folder(tmp_path / "ሩጫ [v2]", "xtts") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() for folder in folders)


def test_retention_keeps_the_newest_by_number(tmp_path):
    for step in (5, 10, 100, 20):
        (tmp_path / f"checkpoint_{step}.pth").touch()
    (tmp_path / "best_model_5.pth").touch()
    store.keep_newest(tmp_path, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint_20.pth", "checkpoint_100.pth", "best_model_5.pth"}


def state(step):
    return {**STATE, "step": step}


def test_the_best_model_is_a_link_and_older_ones_are_removed(tmp_path):
    for step in (5, 10):
        store.save_step(state(step), tmp_path, f"best_model_{step}.pth", 3)
    assert {file.name for file in tmp_path.iterdir()} == {"best_model_10.pth", "best_model.pth"}
    assert (tmp_path / "best_model.pth").samefile(tmp_path / "best_model_10.pth")
    assert store.load_checkpoint(tmp_path / "best_model.pth")[1].step == 10


def test_a_second_name_is_the_same_file(tmp_path):
    store.save_step(state(5), tmp_path, "best_model_5.pth", 3)
    store.save_second_name(tmp_path, "best_model_5.pth", "checkpoint_5.pth", 3)
    assert {file.name for file in tmp_path.iterdir()} == {"best_model_5.pth", "best_model.pth", "checkpoint_5.pth"}
    assert len({file.stat().st_ino for file in tmp_path.iterdir()}) == 1


def test_the_best_model_is_a_copy_where_links_fail(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    store.save_step(state(5), tmp_path, "best_model_5.pth", 3)
    assert (tmp_path / "best_model.pth").read_bytes() == (tmp_path / "best_model_5.pth").read_bytes()
    assert not (tmp_path / "best_model.pth").samefile(tmp_path / "best_model_5.pth")
    assert {file.name for file in tmp_path.iterdir()} == {"best_model_5.pth", "best_model.pth"}


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    store.save_step(state(3), tmp_path, "checkpoint_3.pth", 1)
    broken = {"model": {"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan])}, "step": 4}
    with pytest.raises(
        CheckFailed, match=r"At step 4, some weights are NaN or infinite \(tensors affected: 1; first: b\)"
    ):
        store.save_step(broken, tmp_path, "checkpoint_4.pth", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_3.pth"]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("not permitted to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def heavy(step, kilobytes=240):
    return {"model": {"xtts.gpt.text_embedding.weight": torch.full((kilobytes * 256, 1), float(step))}, "step": step}


def test_a_disk_that_is_really_full(small_disk, caplog):
    """Four files of 240 kB fit into 1 MB and five do not: all but the newest two are removed, and writing works."""
    for step in (1, 2, 3, 4):
        store.save_step(heavy(step), small_disk, f"checkpoint_{step}.pth", 9)
    kept = {step: (small_disk / f"checkpoint_{step}.pth").read_bytes() for step in (3, 4)}
    store.save_step(heavy(5), small_disk, "checkpoint_5.pth", 9)
    assert "Number of older checkpoints removed: 2. Retrying once" in caplog.text
    assert {file.name for file in small_disk.iterdir()} == {f"checkpoint_{step}.pth" for step in (3, 4, 5)}
    assert all((small_disk / f"checkpoint_{step}.pth").read_bytes() == content for step, content in kept.items())

    before = {file.name: file.read_bytes() for file in small_disk.iterdir() if not file.name.endswith("_3.pth")}
    with pytest.raises(DiskFullError, match=r"checkpoint_6\.pth could not be written: the disk is full"):
        store.save_step(heavy(6, kilobytes=800), small_disk, "checkpoint_6.pth", 9)
    assert {file.name: file.read_bytes() for file in small_disk.iterdir()} == before
    with pytest.raises(DiskFullError):
        store.save_step(heavy(7, kilobytes=800), small_disk, "checkpoint_7.pth", 9)
    assert {file.name: file.read_bytes() for file in small_disk.iterdir()} == before


def test_a_read_only_folder(small_disk):
    store.save_step(state(3), small_disk, "checkpoint_3.pth", 3)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(MachineError, match="Read-only file system"):
        store.save_step(state(4), small_disk, "checkpoint_4.pth", 3)
    assert store.load_checkpoint(small_disk / "checkpoint_3.pth")[1].step == 3


def test_required_space_counts_files_already_written(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("xtts_extend.checkpoint.store.shutil.disk_usage", lambda path: usage._replace(free=500))
    store.require_space(tmp_path, size=100, keep=2)
    assert "the run may need 0.0 GB more: 2 checkpoints of 0.0 GB" in caplog.text
    with pytest.raises(MachineError, match="use a different --output-dir, or lower --keep-checkpoints"):
        store.require_space(tmp_path, size=101, keep=2)
    (tmp_path / "checkpoint_1.pth").write_bytes(b"x" * 101)
    (tmp_path / "best_model.pth").hardlink_to(tmp_path / "checkpoint_1.pth")
    store.require_space(tmp_path, size=101, keep=2)
    with pytest.raises(MachineError):
        store.require_space(tmp_path, size=121, keep=2)


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    for name in (".checkpoint_5.pth.tmp", ".data-check.jsonl", "checkpoint_4.pth"):
        (tmp_path / name).touch()
    store.remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {".data-check.jsonl", "checkpoint_4.pth"}


def test_missing_and_unexpected_names_are_listed():
    store.require_fit({"a", "b"}, {"a", "b"}, "position")
    with pytest.raises(CheckpointError, match="1 missing: a; 1 unexpected: c"):
        store.require_fit({"a", "b"}, {"b", "c"}, "position")


def test_later_checkpoints_are_moved_and_not_lost(tmp_path):
    for name in ("checkpoint_4.pth", "checkpoint_8.pth", "best_model_4.pth", "best_model_8.pth"):
        (tmp_path / name).write_text(name)
    (tmp_path / "best_model.pth").hardlink_to(tmp_path / "best_model_8.pth")
    store.move_later_checkpoints(tmp_path, 4)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint_4.pth", "best_model_4.pth", "set-aside"}
    assert (tmp_path / "set-aside" / "checkpoint_8.pth").read_text() == "checkpoint_8.pth"
    assert (tmp_path / "set-aside" / "best_model_8.pth").read_text() == "best_model_8.pth"
    (tmp_path / "checkpoint_8.pth").write_text("another one")
    store.move_later_checkpoints(tmp_path, 4)
    assert (tmp_path / "set-aside" / "checkpoint_8.pth").read_text() == "checkpoint_8.pth"
    assert (tmp_path / "set-aside" / "checkpoint_8_2.pth").read_text() == "another one"
