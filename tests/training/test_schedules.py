"""A schedule that no file records goes on as if it had never been away."""

from types import SimpleNamespace

import pytest
import torch
from runs import require_equal
from trainer.trainer_utils import get_scheduler

from xtts_extend.errors import CheckpointError
from xtts_extend.run.position import Position
from xtts_extend.training.schedules import restore_schedules

RATES = (1e-3, 5e-4)


class Run:
    """What `restore_schedules` sees of a trainer."""

    def __init__(self, name, params, *, by_epoch=False):
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in RATES]
        self.optimizer = [torch.optim.AdamW(groups, lr=RATES[0])]
        self.scheduler = [get_scheduler(name, params, self.optimizer[0])]
        self.config = SimpleNamespace(scheduler_after_epoch=by_epoch, grad_accum_steps=2)

    def step(self):
        for group in self.optimizer[0].param_groups:
            group["params"][0].grad = torch.ones(1)
        self.optimizer[0].step()
        self.scheduler[0].step()


def content_of(run, *, counted=True, scheduler=()):
    """As a Trainer before 0.3 saved a run, and `as_recorded` reads it."""
    optimizer = run.optimizer[0].state_dict()
    if not counted:
        optimizer["state"] = {}
    config = {"lr_scheduler": "some", "scheduler_after_epoch": run.config.scheduler_after_epoch}
    return {"config": config, "optimizer": [optimizer], "scheduler": list(scheduler)}


def info(written_by="coqui"):
    return SimpleNamespace(path="checkpoint_11.pth", written_by=written_by)


def resumed(make, before, position, **content):
    after = make()
    after.optimizer[0].load_state_dict(before.optimizer[0].state_dict())
    words = restore_schedules(after, content_of(before, **content), position, info())
    return after, words


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
        require_equal(after.scheduler[0].state_dict(), before.scheduler[0].state_dict())
        require_equal(after.optimizer[0].state_dict()["param_groups"], before.optimizer[0].state_dict()["param_groups"])
        before.step()
        after.step()


def test_what_counts_is_what_moved_it():
    def make():
        return Run("StepLR", {"step_size": 2, "gamma": 0.5})

    before = make()
    for _ in range(7):
        before.step()
    # of the optimizer's own counter, whatever the step is; without one, of the step and the accumulation
    assert resumed(make, before, Position(step=50, epoch=3))[0].scheduler[0].last_epoch == 7
    assert resumed(make, before, Position(step=15, epoch=3), counted=False)[0].scheduler[0].last_epoch == 7


def test_by_epoch():
    def make():
        return Run("StepLR", {"step_size": 2, "gamma": 0.5}, by_epoch=True)

    before = make()
    for _ in range(3):
        before.step()
    after, _ = resumed(make, before, Position(step=99, epoch=3))
    require_equal(after.scheduler[0].state_dict(), before.scheduler[0].state_dict())


def test_a_rate_that_left_the_schedule_stays(caplog):
    """Earlier Trainers set the rate anew on a restart; the file's counts."""

    def make():
        return Run("StepLR", {"step_size": 5, "gamma": 0.5})

    before = make()
    for _ in range(7):
        before.step()
    for group in before.optimizer[0].param_groups:
        group["lr"] *= 8
    caplog.set_level("INFO", "trainer")
    after, _ = resumed(make, before, Position(step=7, epoch=0))
    assert [group["lr"] for group in after.optimizer[0].param_groups] == [rate * 4 for rate in RATES]
    assert after.scheduler[0].get_last_lr() == [rate * 4 for rate in RATES]
    assert "It does not record its schedule: StepLR is set to where it is after 7 updates" in caplog.text
    assert "a learning rate of 0.0005 there, and the checkpoint was trained with 0.004 last" in caplog.text


def test_a_schedule_that_is_over():
    def make():
        return Run("OneCycleLR", {"max_lr": 1e-2, "total_steps": 20})

    with pytest.raises(CheckpointError, match=r"OneCycleLR cannot be moved past 40 updates: .*--start-fresh"):
        resumed(make, make(), Position(step=80), counted=False)


@pytest.mark.parametrize("written_by", ["coqui", "xtts_extend"])
def test_a_recorded_one_is_restored_and_ours_has_to_be_there(written_by):
    before, after = (Run("StepLR", {"step_size": 2, "gamma": 0.5}) for _ in range(2))
    for _ in range(3):
        before.step()
    content = content_of(before, scheduler=[before.scheduler[0].state_dict()])
    assert restore_schedules(after, content, Position(), info(written_by)) == "scheduler"
    assert after.scheduler[0].last_epoch == 3
    with pytest.raises(CheckpointError, match="holds 0 schedulers; this run has 1"):
        restore_schedules(after, content_of(before), Position(), info("xtts_extend"))
