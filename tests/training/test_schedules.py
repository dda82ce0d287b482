"""A schedule that the checkpoint does not contain continues as if the run had not been interrupted."""

from types import SimpleNamespace

import pytest
import torch
from runs import require_equal
from trainer.trainer_utils import get_scheduler

from xtts_extend.errors import CheckpointError
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.run.position import Position
from xtts_extend.run.record import RunRecord
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.training.schedules import restore_schedule

RATES = (1e-3, 5e-4)


class Run:
    """A stand-in for `RunState` with what `restore_schedule` uses."""

    def __init__(self, name, params, *, by_epoch=False):
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in RATES]
        self.optimizer = torch.optim.AdamW(groups, lr=RATES[0])
        self.scheduler = get_scheduler(name, params, self.optimizer)
        self.config = SimpleNamespace(scheduler_after_epoch=by_epoch, grad_accum_steps=2)

    def step(self):
        for group in self.optimizer.param_groups:
            group["params"][0].grad = torch.ones(1)
        self.optimizer.step()
        self.scheduler.step()


def saved(run, *, counted=True, scheduler=(), **record):
    """Return a checkpoint as saved by a Trainer before 0.3; `scheduler` and `record` add what later ones contain."""
    optimizer = run.optimizer.state_dict()
    if not counted:
        optimizer["state"] = {}
    config = {"lr_scheduler": "some", "scheduler_after_epoch": run.config.scheduler_after_epoch}
    content = {"config": config, "optimizer": [optimizer], "scheduler": list(scheduler), **record}
    return TrainingCheckpoint.of(content, SimpleNamespace(path="checkpoint_11.pth", step=11, epoch=0))


def resumed(make, before, position, **content):
    """Return a new run with the restored state of `before`, and the result of `restore_schedule`."""
    after = make()
    after.position = position
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    return after, restore_schedule(after, saved(before, **content))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("StepLR", {"step_size": 2, "gamma": 0.5}),
        ("MultiStepLR", {"milestones": [3, 9], "gamma": 0.5, "last_epoch": -1}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("CosineAnnealingLR", {"T_max": 10}),
        ("CosineAnnealingWarmRestarts", {"T_0": 4, "T_mult": 2}),
        ("LinearLR", {"total_iters": 6}),
        ("OneCycleLR", {"max_lr": 1e-2, "total_steps": 20}),
        ("CyclicLR", {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 3, "cycle_momentum": False}),
        ("NoamLR", {"warmup_steps": 3}),
    ],
)
def test_the_schedule_is_advanced_to_the_position(name, params):
    def make():
        return Run(name, params)

    before = make()
    for _ in range(7):
        before.step()
    after, description = resumed(make, before, Position(step=7, epoch=3))
    assert description == "no scheduler (not saved)"
    for _ in range(6):
        require_equal(after.scheduler.state_dict(), before.scheduler.state_dict())
        require_equal(after.optimizer.state_dict()["param_groups"], before.optimizer.state_dict()["param_groups"])
        before.step()
        after.step()


@pytest.mark.parametrize(
    ("step", "counted"),
    [
        pytest.param(50, True, id="the optimizer's own counter, whatever the step is"),
        pytest.param(15, False, id="without one the step and the accumulation"),
    ],
)
def test_the_number_of_updates_is_found(step, counted):
    def make():
        return Run("StepLR", {"step_size": 2, "gamma": 0.5})

    before = make()
    for _ in range(7):
        before.step()
    after, _ = resumed(make, before, Position(step=step, epoch=3), counted=counted)
    assert after.scheduler.last_epoch == 7


def test_a_schedule_by_epoch():
    def make():
        return Run("StepLR", {"step_size": 2, "gamma": 0.5}, by_epoch=True)

    before = make()
    for _ in range(3):
        before.step()
    after, _ = resumed(make, before, Position(step=99, epoch=3))
    require_equal(after.scheduler.state_dict(), before.scheduler.state_dict())


def test_a_learning_rate_that_differs_from_the_schedule_is_kept(caplog):
    """Earlier Trainers set the learning rate again on a restart; the checkpoint's rate is used."""

    def make():
        return Run("StepLR", {"step_size": 5, "gamma": 0.5})

    before = make()
    for _ in range(7):
        before.step()
    for group in before.optimizer.param_groups:
        group["lr"] *= 8
    caplog.set_level("INFO", "trainer")
    after, _ = resumed(make, before, Position(step=7, epoch=0))
    assert [group["lr"] for group in after.optimizer.param_groups] == [rate * 4 for rate in RATES]
    assert after.scheduler.get_last_lr() == [rate * 4 for rate in RATES]
    assert "The checkpoint contains no schedule state, so StepLR was advanced by 7 updates." in caplog.text
    assert "a learning rate of 0.0005 at this point, but the checkpoint was last trained with 0.004." in caplog.text


def test_a_schedule_that_has_ended():
    def make():
        return Run("OneCycleLR", {"max_lr": 1e-2, "total_steps": 20})

    with pytest.raises(CheckpointError, match=r"OneCycleLR cannot be advanced by 40 updates: .*--start-fresh"):
        resumed(make, make(), Position(step=80), counted=False)


OURS = {"xtts_extend": RunRecord(None, BaseRows(3), {}).to_dict()}


@pytest.mark.parametrize("record", [{}, OURS], ids=["coqui", "xtts_extend"])
def test_a_saved_schedule_is_restored(record):
    before, after = (Run("StepLR", {"step_size": 2, "gamma": 0.5}) for _ in range(2))
    for _ in range(3):
        before.step()
    assert restore_schedule(after, saved(before, scheduler=[before.scheduler.state_dict()], **record)) == "scheduler"
    assert after.scheduler.last_epoch == 3


def test_our_checkpoints_must_contain_the_schedule():
    run = Run("StepLR", {"step_size": 2, "gamma": 0.5})
    with pytest.raises(CheckpointError, match=r"different numbers of schedulers \(0 and 1\)"):
        restore_schedule(run, saved(run, **OURS))
