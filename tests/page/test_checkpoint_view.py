"""What each checkpoint is, and what resuming it would do."""

import json
import os
from datetime import datetime, timezone

import pytest
import torch
from run_folders import append_history, write_checkpoint

from xtts_extend.page import checkpoint_view
from xtts_extend.page.checkpoint_view import verdict, view_checkpoints
from xtts_extend.page.jobs import Job


def by_name(run):
    return {view.name: view for view in view_checkpoints(run)}


def test_checkpoints_of_ours(run):
    for step in (8, 12):
        write_checkpoint(run / f"checkpoint_{step}.pth", step)
    write_checkpoint(run / "best_model_10.pth", 10)
    (run / "best_model.pth").hardlink_to(run / "best_model_10.pth")
    views = view_checkpoints(run)
    assert [view.name for view in views] == ["checkpoint_8.pth", "best_model_10.pth", "checkpoint_12.pth"]
    first = views[0]
    assert (first.step, first.epoch, first.kind, first.written_by) == (8, 1, "training", "xtts_extend")
    assert (first.is_intact, first.size_bytes) == (True, (run / "checkpoint_8.pth").stat().st_size)
    assert [view.resuming for view in views] == [
        "Continues in this folder at step 9. best_model_10.pth, checkpoint_12.pth will be moved to set-aside.",
        "Continues in this folder at step 11. checkpoint_12.pth will be moved to set-aside.",
        "Continues in this folder at step 13.",
    ]


def test_a_live_run_is_not_resumed(run, live):
    write_checkpoint(run / "checkpoint_8.pth", 8)
    live.add(run)
    assert by_name(run)["checkpoint_8.pth"].resuming == "The run is training. Stop it first."


def test_a_finished_run(run):
    write_checkpoint(run / "checkpoint_8.pth", 8)
    append_history(run, ("start", 0), ("end", 8))
    expected = "Continues in this folder at step 9. The run is finished: give it more steps or epochs."
    assert by_name(run)["checkpoint_8.pth"].resuming == expected


def test_a_run_of_the_stock_trainer(run):
    """Its `checkpoint_N` holds N + 1 batches, and its `best_model_N` N."""
    for name, updates in (("checkpoint_4.pth", 5), ("best_model_4.pth", 4)):
        optimizer = {"state": {0: {"step": updates}}, "param_groups": [{}]}
        write_checkpoint(run / name, 4, xtts_extend=None, optimizer=optimizer)
    views = by_name(run)
    assert {view.written_by for view in views.values()} == {"stock Trainer"}
    end = "in a new run folder. This folder is not changed."
    assert views["checkpoint_4.pth"].resuming == f"Continues at step 6 {end}"
    assert views["best_model_4.pth"].resuming == f"Continues at step 5 {end}"


def test_weights_alone(run):
    write_checkpoint(run / "checkpoint_3.pth", 3, xtts_extend=None, optimizer=None)
    write_checkpoint(run / "checkpoint_5.pth", 5, xtts_extend=None, epoch=None)
    views = by_name(run)
    assert (views["checkpoint_3.pth"].kind, views["checkpoint_3.pth"].written_by) == ("base", "another tool")
    assert views["checkpoint_3.pth"].resuming.startswith("Starts a new run at step 0")
    assert views["checkpoint_5.pth"].resuming.startswith("Cannot be resumed: it does not record its epoch.")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04 half an archive", b"a text", b"\x80\x04K"])
def test_damaged_files_are_named_with_what_is_taken_instead(run, content, monkeypatch):
    # It would read other files to their end.
    monkeypatch.setattr("xtts_extend.checkpoint.inspect.newest_checkpoint", None)
    write_checkpoint(run / "checkpoint_8.pth", 8)
    (run / "checkpoint_1200.pth").write_bytes(content)
    view = by_name(run)["checkpoint_1200.pth"]
    assert (view.kind, view.step, view.is_intact, view.written_by) == ("damaged", 1200, False, "")
    assert str(run / "checkpoint_1200.pth") in view.problem
    assert view.resuming == "Cannot be used. The run will resume from checkpoint_8.pth (step 8)."
    (run / "checkpoint_8.pth").unlink()
    expected = "The run cannot be resumed from this checkpoint or any other."
    assert by_name(run)["checkpoint_1200.pth"].resuming == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"xtts_extend": {"version": 3}},
        {"xtts_extend": {"version": 99, "base_rows": {"rows": 2, "frozen": True, "digests": {}}, "state": {}}},
        {"xtts_extend": {"version": 3, "base_rows": 5, "state": []}},
        {"optimizer": [{"state": {0: {"step": "x"}}, "param_groups": [{}]}], "xtts_extend": None},
    ],
)
def test_records_that_cannot_be_read(run, changes):
    write_checkpoint(run / "checkpoint_8.pth", 8, **changes)
    view = by_name(run)["checkpoint_8.pth"]
    assert (view.kind, view.is_intact) == ("training", False)
    assert view.resuming == f"Cannot be resumed: {view.problem}"


def test_strange_entries(run, tmp_path):
    (run / "checkpoint_1.pth").mkdir()
    (run / "checkpoint_2.pth").symlink_to(tmp_path / "gone")
    assert {view.kind for view in view_checkpoints(run)} == {"damaged"}
    assert view_checkpoints(tmp_path / "gone") == []


def test_headers_are_read_once(run, monkeypatch):
    file = write_checkpoint(run / "checkpoint_8.pth", 8)
    view_checkpoints(run)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_view, "load_pickled", None)
        assert view_checkpoints(run)[0].step == 8
    write_checkpoint(file, 9, extra=torch.zeros(50))
    assert by_name(run)["checkpoint_8.pth"].step == 9


def job(folder, name, checkpoint, text, created, kind="inspect"):
    (folder / name).mkdir()
    (folder / name / "log.txt").write_text(text, encoding="utf-8")
    arguments = ("inspect", "--json", str(checkpoint))
    return Job(folder / name, kind, "Examination", arguments, created, "")


def test_the_verdict_of_the_doctor(run, tmp_path):
    file, other = write_checkpoint(run / "checkpoint_8.pth", 8), write_checkpoint(run / "checkpoint_9.pth", 9)
    said = json.dumps({"verdict": "healthy", "reason": "–"}, indent=2)
    later = datetime.fromtimestamp(file.stat().st_mtime + 60, timezone.utc).isoformat()
    jobs = [
        job(tmp_path, "1", file, f"{said}\n", later),
        job(tmp_path, "2", file, f" > a warning {{\n{said.replace('healthy', 'diverged')}\n > more\n", later),
        job(tmp_path, "3", file, "error: no base\n", later),
        job(tmp_path, "4", file, "{\n half", later),
        job(tmp_path, "5", file, said, later, kind="export"),
        job(tmp_path, "6", file, said, "not a time"),
    ]
    assert verdict(file, reversed(jobs)) == {"verdict": "diverged", "reason": "–"}
    assert verdict(file, jobs[:1])["verdict"] == "healthy"
    assert verdict(other, jobs) is None
    assert verdict(run / "gone.pth", jobs) is None
    os.utime(file, (file.stat().st_mtime + 120,) * 2)
    assert verdict(file, jobs) is None, "the file was written after the verdict"
