"""A run's status while it trains, and after it ended in every way."""

import errno
import json
import math
import os
from dataclasses import replace
from datetime import datetime, timezone

import pytest
import torch
from runs import checkpoint, only_run

from xtts_extend.errors import CheckFailed, MachineError
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.metrics import MetricsLog, read_metrics
from xtts_extend.run.position import Position
from xtts_extend.run.status import Status, read_status, write_status
from xtts_extend.training import reporting
from xtts_extend.training.pace import Pace
from xtts_extend.training.reporting import StatusReport
from xtts_extend.training.update import Updater


@pytest.fixture
def reported(monkeypatch):
    """A list of the statuses that runs write, each with the last step of metrics.jsonl at that moment."""
    written = []

    def write(run, status):
        write_status(run, status)
        assert read_status(run) == status
        steps = read_metrics(run)[0] if (run / "metrics.jsonl").exists() else []
        written.append((status, steps[-1]["step"] if steps else 0))

    monkeypatch.setattr(reporting, "write_status", write)
    return written


def phases(statuses):
    """Return the phases in order, each with its step, without repetitions."""
    seen = [(status.phase, status.step) for status, _ in statuses]
    return [item for index, item in enumerate(seen) if index == 0 or seen[index - 1] != item]


def test_a_run_and_its_resume(corpus, recipe, tmp_path, reported):
    sentence = f"am:{corpus.voice}:ሰላም።"
    flags = corpus.flags(output_dir=tmp_path, max_steps=2, eval_step=1, save_step=1, test_sentence=sentence)
    recipe([*flags, "--coqpit.print_step=1"])
    run = only_run(tmp_path)
    assert phases(reported) == [
        ("starting", 0), ("evaluating", 0), ("starting", 0), ("speaking", 0), ("starting", 0), ("training", 0),
        ("training", 1), ("evaluating", 1), ("saving", 1), ("evaluating", 1), ("training", 1), ("speaking", 1),
        ("training", 1), ("saving", 1), ("training", 1),
        ("training", 2), ("evaluating", 2), ("saving", 2), ("evaluating", 2), ("training", 2), ("speaking", 2),
        ("training", 2), ("saving", 2), ("training", 2), ("saving", 2), ("training", 2), ("finished", 2),
    ]  # fmt: skip
    # Metrics are on disk before a step is reported.
    assert [at for status, at in reported if status.losses] == [status.step for status, _ in reported if status.losses]
    last = read_status(run)
    steps, evaluations = read_metrics(run)
    assert last.losses == {name: steps[-1][name] for name in ("loss", "loss_text_ce", "loss_mel_ce")}
    assert last.last_evaluation["step"] == 2
    assert last.last_evaluation["languages"]["am"]["loss_mel_ce"] == evaluations[-1]["loss_mel_ce"]
    assert last.last_checkpoint == str(run / "checkpoint_2.pth")
    assert (last.error, last.epoch, last.pid, last.time_left_s) == (None, 0, os.getpid(), None)
    assert 0 < last.seconds_per_step < 60
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(last.updated)).total_seconds() < 60
    assert json.loads((run / "status.json").read_bytes())["phase"] == "finished"

    # A resume replaces what is there, and keeps what it knows from metrics and checkpoint.
    write_status(run, replace(last, phase="failed", error="It broke.", pid=1, last_evaluation=None))
    reported.clear()
    recipe(["--checkpoint", run, "--max-steps", 3, "--val-manifest", corpus.val, "--eval-step", 100, "--epochs", 1])
    first = reported[0][0]
    assert (first.phase, first.step, first.error, first.pid) == ("training", 2, None, os.getpid())
    assert first.last_evaluation == last.last_evaluation
    assert first.last_checkpoint == last.last_checkpoint
    assert read_status(run).last_checkpoint == str(run / "checkpoint_3.pth")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CheckFailed("The loss is not finite. Lower the learning rate."), "The loss is not finite. Lower the learning"),
        pytest.param(torch.OutOfMemoryError("CUDA out of memory."), "GPU", marks=pytest.mark.slow),
        pytest.param(ZeroDivisionError("a bug"), "ZeroDivisionError: a bug", marks=pytest.mark.slow),
    ],
    ids=["ours", "memory", "bug"],
)
def test_a_failed_run_says_why(corpus, recipe, tmp_path, monkeypatch, error, message):
    step = Updater.step

    def fail_in_the_second(updater, *args, **named):
        if updater.state.position.step == 1:
            raise error
        return step(updater, *args, **named)

    monkeypatch.setattr(Updater, "step", fail_in_the_second)
    with pytest.raises((SystemExit, ZeroDivisionError)):
        recipe(corpus.flags(output_dir=tmp_path, val_manifest=None))
    status = read_status(only_run(tmp_path))
    assert (status.phase, status.step) == ("failed", 1)
    assert message in status.error


@pytest.mark.slow
def test_a_failed_stop_is_a_failure(corpus, fails, tmp_path, monkeypatch):
    """The time is over after the first step, and the disk is full."""

    def disk_is_full(content, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_is_full)
    assert fails([*corpus.flags(output_dir=tmp_path, val_manifest=None), "--max-minutes=0.001"])[0] == 1
    status = read_status(only_run(tmp_path))
    assert (status.phase, status.last_checkpoint) == ("failed", None)
    assert "checkpoint_1.pth could not be written: the disk is full" in status.error


@pytest.mark.slow
def test_a_status_that_cannot_be_written_is_one_warning(corpus, recipe, tmp_path, monkeypatch, caplog):
    """Nor can the metrics between checkpoints, whose lines are written with the checkpoint."""
    flush = MetricsLog.flush

    def disk_is_full(run, status):
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush_with_checkpoints_only(log, *, to_disk=True):
        if not to_disk:
            raise MachineError("metrics.jsonl could not be written: No space left on device.")
        flush(log)

    monkeypatch.setattr(reporting, "write_status", disk_is_full)
    monkeypatch.setattr(MetricsLog, "flush", flush_with_checkpoints_only)
    recipe([*corpus.flags(output_dir=tmp_path, val_manifest=None, max_steps=3), "--coqpit.print_step=1"])
    run = only_run(tmp_path)
    assert caplog.text.count("status.json could not be written: No space left on device") == 1
    assert caplog.text.count("metrics.jsonl could not be written: No space left on device") == 1
    assert [line["step"] for line in read_metrics(run)[0]] == [1, 2, 3]
    assert checkpoint(run, 3)["step"] == 3
    assert read_status(run) is None


@pytest.mark.slow
def test_numbers_that_are_not_finite(corpus, fails, tmp_path, monkeypatch):
    clean = ExtendedGPTTrainer.train_step

    def train_step(self, batch, criterion):
        outputs, losses = clean(self, batch, criterion)
        return outputs, {name: value * math.nan for name, value in losses.items()}

    monkeypatch.setattr(ExtendedGPTTrainer, "train_step", train_step)
    flags = [*corpus.flags(output_dir=tmp_path, val_manifest=None), "--coqpit.print_step=1"]
    assert fails(flags)[0] == 1
    status = read_status(only_run(tmp_path))
    assert status.phase == "failed"
    assert "3 updates in a row were skipped" in status.error
    assert status.losses == dict.fromkeys(("loss", "loss_text_ce", "loss_mel_ce"))


def test_only_rank_0_reports_and_not_before_it_begins(tmp_path):
    for is_main in (False, True):
        report = StatusReport(tmp_path, is_main=is_main)
        report.enter("training")
        report.step({"loss": 1.0, "loss_text_ce": 0.25, "loss_mel_ce": 0.75}, Pace(0.5, 10.0))
        assert list(tmp_path.iterdir()) == []
        report.begin(Position(step=3, epoch=1))
        assert (tmp_path / "status.json").exists() == is_main
    expected = Status("training", 3, 1, {"loss": 1.0, "loss_text_ce": 0.25, "loss_mel_ce": 0.75}, 0.5, 10.0)
    status = read_status(tmp_path)
    assert status == replace(expected, updated=status.updated)
