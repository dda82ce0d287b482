"""The run folder of a stock run is never changed, and a start that fails writes nothing into any folder."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from runs import checkpoint, only_run, stock_run

from xtts_extend.run.history import append_event
from xtts_extend.run.metrics import read_metrics
from xtts_extend.training import restore
from xtts_extend.training.signals import Interrupted
from xtts_extend.training.trainer import ResumableTrainer


@pytest.fixture
def evaluated_folder(corpus, tmp_path):
    """The folder of a stock run with evaluations and a best model, beside which runs may be written."""
    with pytest.MonkeyPatch.context() as patch:
        folder = stock_run(corpus, tmp_path / "runs", patch, evaluates=True).parent
    assert (folder / "best_model.pth").is_file()
    folder.chmod(0o555)
    return folder


@pytest.fixture
def stock_folder(stock_file):
    """The folder of the shared stock run; it must not change during a test."""
    before = listing(stock_file.parent)
    yield stock_file.parent
    assert listing(stock_file.parent) == before


def listing(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Return inodes, sizes and times of a folder and its files; any write changes a file's ctime."""
    return {
        file.relative_to(folder): (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for file in (folder, *folder.rglob("*"))
        for stat in [file.stat()]
    }


@pytest.mark.slow
def test_a_stock_run_resumes_in_a_folder_beside_it(evaluated_folder, corpus, recipe, caplog):
    before = listing(evaluated_folder)
    recipe(corpus.stock_flags(evaluated_folder, max_steps=7))
    assert listing(evaluated_folder) == before
    (run,) = {entry for entry in evaluated_folder.parent.iterdir() if entry.name[0] != "."} - {evaluated_folder}
    assert f"The checkpoint was written by the stock Trainer. Resuming in a new run folder, {run}" in caplog.text
    assert caplog.text.count("The best loss is unknown") == 1
    assert "measured again" not in caplog.text, "its own first evaluation is the one to beat, not the base's"
    # measured before it goes on
    assert {"best_model_6.pth", "checkpoint_7.pth", "config.json", "vocab.json"} <= {
        file.name for file in run.iterdir()
    }
    assert [line["step"] for line in read_metrics(run)[1]] == [6]
    caplog.clear()

    # The new folder resumes where it stopped. The stock folder resumes from its own checkpoint and names the new one.
    recipe(["--checkpoint", run, "--max-steps", 8])
    assert checkpoint(run, 8)["xtts_extend"]["state"]["step"] == 8
    assert "The best loss is unknown" not in caplog.text
    output = evaluated_folder.parent
    recipe(corpus.stock_flags(evaluated_folder, max_steps=7, output_dir=output))
    assert f"This run has already been resumed in {run}." in caplog.text
    assert len([entry for entry in output.iterdir() if entry.name[0] != "."]) == 3
    assert listing(evaluated_folder) == before


def change_the_seed(flags, monkeypatch):
    flags += ["--seed", "77"]


def fail_in_restore(flags, monkeypatch):
    monkeypatch.setattr(restore, "restore_schedule", lambda *_: 1 / 0)


def fail_in_the_first_batch(flags, monkeypatch):
    monkeypatch.setattr(ResumableTrainer, "train_step", lambda *_: 1 / 0)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(change_the_seed, id="refused"),
        pytest.param(fail_in_restore, id="while it is restored", marks=SLOW),
        pytest.param(fail_in_the_first_batch, id="in the first batch", marks=SLOW),
    ],
)
def test_a_start_that_fails_leaves_no_folder_behind(fail, stock_folder, corpus, recipe, tmp_path, monkeypatch, capsys):
    flags = corpus.stock_flags(stock_folder / "checkpoint_4.pth", output_dir=tmp_path)
    fail(flags, monkeypatch)
    with pytest.raises((SystemExit, ZeroDivisionError)):
        recipe(flags)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name[0] != "."] == []


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(change_the_seed, id="refused", marks=SLOW),
        pytest.param(fail_in_restore, id="while it is restored", marks=SLOW),
        pytest.param(fail_in_the_first_batch, id="in the first batch"),
    ],
)
def test_a_resume_that_fails_rewrites_nothing(fail, short_run, recipe, tmp_path, monkeypatch):
    run = shutil.copytree(short_run, tmp_path / "run")
    flags = ["--checkpoint", run / "checkpoint_4.pth", "--max-steps", 6, "--output-dir", tmp_path / "other"]
    failing_flags = list(flags)
    fail(failing_flags, monkeypatch)
    before = listing(run)
    with pytest.raises((SystemExit, ZeroDivisionError)):
        recipe(failing_flags)
    # The lock file may change, and with it the folder's time.
    may_change = {Path("."), Path(".lock")}
    after = listing(run)
    assert after.keys() - before.keys() <= {Path(".lock")}
    for name in before.keys() - may_change:
        assert after[name] == before[name]
    monkeypatch.undo()
    recipe(flags)
    assert checkpoint(run, 6)["step"] == 6


def test_an_interrupt_before_the_first_batch_leaves_a_checkpoint(stock_folder, corpus, recipe, tmp_path, monkeypatch):
    """The log says that the new folder can be resumed, so it must contain a checkpoint."""

    def interrupt(trainer, *_):
        trainer.stop.number = signal.SIGINT
        raise Interrupted

    monkeypatch.setattr(ResumableTrainer, "train_step", interrupt)
    with pytest.raises(SystemExit):
        recipe(corpus.stock_flags(stock_folder / "checkpoint_4.pth", output_dir=tmp_path))
    assert checkpoint(only_run(tmp_path), 5)["step"] == 5


def test_a_new_folder_without_a_checkpoint_names_the_original_run(fails, tmp_path):
    """A kill before the first checkpoint leaves such a folder."""
    append_event(tmp_path, "resume", **{"from": "runs/theirs/checkpoint_4.pth"})
    code, message = fails(["--checkpoint", str(tmp_path)])
    assert (code, "its run resumed from runs/theirs/checkpoint_4.pth and stopped" in message) == (2, True)
