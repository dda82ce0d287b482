"""A run of the stock Trainer stays as it is, and a start that fails writes nothing, in no folder."""

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


@pytest.fixture(scope="module")
def stock_folder(corpus, tmp_path_factory):
    """The folder of a stock run with evaluations and a best model; whatever happens, it is the same at the end."""
    with pytest.MonkeyPatch.context() as patch:
        file = stock_run(corpus, tmp_path_factory.mktemp("others") / "runs", patch, evaluates=True)
    assert (file.parent / "best_model.pth").is_file()
    file.parent.chmod(0o555)
    before = listing(file.parent)
    yield file.parent
    assert listing(file.parent) == before


def listing(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Names and times of what a folder holds, and its own: whoever writes to a file changes its time of change."""
    return {
        file.relative_to(folder): (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        for file in (folder, *folder.rglob("*"))
        for found in [file.stat()]
    }


@pytest.mark.slow
def test_a_stock_run_is_continued_in_a_folder_beside_it(stock_folder, corpus, recipe, caplog):
    before = listing(stock_folder)
    recipe(corpus.stock_flags(stock_folder, max_steps=7))
    assert listing(stock_folder) == before
    (run,) = {entry for entry in stock_folder.parent.iterdir() if entry.name[0] != "."} - {stock_folder}
    assert f"Written by the stock Trainer: resuming in a new run folder, {run}" in caplog.text
    assert caplog.text.count("best loss unknown") == 1
    assert "measured again" not in caplog.text, "its own first evaluation is the one to beat, not the base's"
    # measured before it goes on
    assert {"best_model_6.pth", "checkpoint_7.pth", "config.json", "vocab.json"} <= {
        file.name for file in run.iterdir()
    }
    assert [line["step"] for line in read_metrics(run)[1]] == [6]
    caplog.clear()

    # the new folder continues there; the stock one again where it was, and names the new one
    recipe(["--checkpoint", run, "--max-steps", 8])
    assert checkpoint(run, 8)["xtts_extend"]["state"]["step"] == 8
    assert "best loss unknown" not in caplog.text
    output = stock_folder.parent
    recipe(corpus.stock_flags(stock_folder, max_steps=7, output_dir=output))
    assert f"{run} has continued this run before" in caplog.text
    assert len([entry for entry in output.iterdir() if entry.name[0] != "."]) == 3
    assert listing(stock_folder) == before


def refused(flags, monkeypatch):
    flags += ["--seed", "77"]


def failing_while_it_is_restored(flags, monkeypatch):
    monkeypatch.setattr(restore, "restore_schedule", lambda *_: 1 / 0)


def failing_in_the_first_batch(flags, monkeypatch):
    monkeypatch.setattr(ResumableTrainer, "train_step", lambda *_: 1 / 0)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(refused, id="refused"),
        pytest.param(failing_while_it_is_restored, id="while it is restored", marks=SLOW),
        pytest.param(failing_in_the_first_batch, id="in the first batch", marks=SLOW),
    ],
)
def test_a_start_that_fails_leaves_no_folder_behind(fail, stock_folder, corpus, recipe, tmp_path, monkeypatch, capsys):
    flags = corpus.stock_flags(stock_folder / "checkpoint_4.pth", output_dir=tmp_path)
    fail(flags, monkeypatch)
    before = listing(stock_folder)
    with pytest.raises((SystemExit, ZeroDivisionError)):
        recipe(flags)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name[0] != "."] == []
    assert listing(stock_folder) == before


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(refused, id="refused", marks=SLOW),
        pytest.param(failing_while_it_is_restored, id="while it is restored", marks=SLOW),
        pytest.param(failing_in_the_first_batch, id="in the first batch"),
    ],
)
def test_a_resume_that_fails_rewrites_nothing(fail, short_run, recipe, tmp_path, monkeypatch):
    run = shutil.copytree(short_run, tmp_path / "run")
    flags = ["--checkpoint", run / "checkpoint_4.pth", "--max-steps", 6, "--output-dir", tmp_path / "other"]
    given = list(flags)
    fail(given, monkeypatch)
    before = listing(run)
    with pytest.raises((SystemExit, ZeroDivisionError)):
        recipe(given)
    # all but the lock, and the folder's own time, which changes with it
    not_the_lock = {Path("."), Path(".lock")}
    after = listing(run)
    assert after.keys() - before.keys() <= {Path(".lock")}
    for name in before.keys() - not_the_lock:
        assert after[name] == before[name]
    monkeypatch.undo()
    recipe(flags)
    assert checkpoint(run, 6)["step"] == 6


def test_an_interrupt_before_the_first_batch_leaves_a_checkpoint(stock_folder, corpus, recipe, tmp_path, monkeypatch):
    """It says that the new folder can be continued: so it can."""

    def interrupt(trainer, *_):
        trainer.stop.number = signal.SIGINT
        raise Interrupted

    monkeypatch.setattr(ResumableTrainer, "train_step", interrupt)
    with pytest.raises(SystemExit):
        recipe(corpus.stock_flags(stock_folder / "checkpoint_4.pth", output_dir=tmp_path))
    assert checkpoint(only_run(tmp_path), 5)["step"] == 5


def test_a_new_folder_without_a_checkpoint_names_what_it_was_to_continue(fails, tmp_path):
    """As a kill before the first one leaves it."""
    append_event(tmp_path, "resume", **{"from": "runs/theirs/checkpoint_4.pth"})
    code, message = fails(["--checkpoint", str(tmp_path)])
    assert (code, "it was made to continue runs/theirs/checkpoint_4.pth" in message) == (2, True)
