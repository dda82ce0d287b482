"""A schedule that no file records goes on as if it had never been away."""

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
    """What `restore_schedule` sees of a run."""

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
    """A checkpoint as a Trainer before 0.3 saved a run, unless its schedule or our record of it is given."""
    optimizer = run.optimizer.state_dict()
    if not counted:
        optimizer["state"] = {}
    config = {"lr_scheduler": "some", "scheduler_after_epoch": run.config.scheduler_after_epoch}
    content = {"config": config, "optimizer": [optimizer], "scheduler": list(scheduler), **record}
    return TrainingCheckpoint.of(content, SimpleNamespace(path="checkpoint_11.pth", step=11, epoch=0))


def resumed(make, before, position, **content):
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
def test_the_schedule_is_where_it_was(name, params):
    def make():
        return Run(name, params)

    before = make()
    for _ in range(7):
        before.step()
    after, words = resumed(make, before, Position(step=7, epoch=3))
    assert words == "no scheduler (not recorded)"
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
def test_what_counts_is_what_moved_it(step, counted):
    def make():
        return Run("StepLR", {"step_size": 2, "gamma": 0.5})

    before = make()
    for _ in range(7):
        before.step()
    after, _ = resumed(make, before, Position(step=step, epoch=3), counted=counted)
    assert after.scheduler.last_epoch == 7


def test_by_epoch():
    def make():
        return Run("StepLR", {"step_size": 2, "gamma": 0.5}, by_epoch=True)

    before = make()
    for _ in range(3):
        before.step()
    after, _ = resumed(make, before, Position(step=99, epoch=3))
    require_equal(after.scheduler.state_dict(), before.scheduler.state_dict())


def test_a_rate_that_left_the_schedule_stays(caplog):
    """Earlier Trainers set the rate anew on a restart; the file's counts."""

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
    assert "It does not record its schedule: StepLR is set to where it is after 7 updates" in caplog.text
    assert "a learning rate of 0.0005 there, and the checkpoint was trained with 0.004 last" in caplog.text


def test_a_schedule_that_is_over():
    def make():
        return Run("OneCycleLR", {"max_lr": 1e-2, "total_steps": 20})

    with pytest.raises(CheckpointError, match=r"OneCycleLR cannot be moved past 40 updates: .*--start-fresh"):
        resumed(make, make(), Position(step=80), counted=False)


OURS = {"xtts_extend": RunRecord(None, BaseRows(3), {}).to_dict()}


@pytest.mark.parametrize("record", [{}, OURS], ids=["coqui", "xtts_extend"])
def test_a_recorded_one_is_restored(record):
    before, after = (Run("StepLR", {"step_size": 2, "gamma": 0.5}) for _ in range(2))
    for _ in range(3):
        before.step()
    assert restore_schedule(after, saved(before, scheduler=[before.scheduler.state_dict()], **record)) == "scheduler"
    assert after.scheduler.last_epoch == 3


def test_one_of_ours_has_to_be_there():
    run = Run("StepLR", {"step_size": 2, "gamma": 0.5})
    with pytest.raises(CheckpointError, match="holds 0 schedulers; this run has 1"):
        restore_schedule(run, saved(run, **OURS))
