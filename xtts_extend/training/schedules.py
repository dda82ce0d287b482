"""Learning rate schedules of a run that is resumed: as they were recorded, or moved to where their run was."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path

from torch.optim.lr_scheduler import LRScheduler

from xtts_extend.checkpoint.store import require_fit
from xtts_extend.errors import CheckpointError
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")
#: What some releases of torch keep in a schedule's state; none of it decides a learning rate.
_KEPT_BY_SOME_RELEASES = {"verbose", "_is_initial", "_get_lr_called_within_step"}


def restore_schedule(state: RunState, checkpoint: TrainingCheckpoint) -> str:
    """Restore the schedule of a run whose optimizer and position are restored.

    Releases of the stock Trainer before 0.3 recorded none: then a schedule is moved on by the updates, or epochs, that
    the run had made.

    Returns:
        What was restored, in words.

    Raises:
        CheckpointError: what is recorded does not fit the run's schedule, or a schedule cannot be moved.
    """
    scheduler, saved = state.scheduler, checkpoint.scheduler
    if scheduler is not None and not saved and checkpoint.record is None and checkpoint.config.get("lr_scheduler"):
        _advance(scheduler, *_progress(state, checkpoint), checkpoint.path)
        return "no scheduler (not recorded)"
    count = int(scheduler is not None)
    if count != len(saved):
        raise CheckpointError(
            f"The checkpoint holds {len(saved)} schedulers; this run has {count}. "
            "Leave the schedule (--warmup-steps, lr_scheduler) as it was."
        )
    if scheduler is None:
        return "no scheduler (the run has none)"
    require_fit(
        set(scheduler.state_dict()) - _KEPT_BY_SOME_RELEASES,
        set(saved[0]) - _KEPT_BY_SOME_RELEASES,
        "checkpoint's scheduler",
    )
    scheduler.load_state_dict(dict(saved[0]))
    return "scheduler"


def _progress(state: RunState, checkpoint: TrainingCheckpoint) -> tuple[int, str]:
    """How often a run moved its schedule, and what after: epochs or updates."""
    if state.config.scheduler_after_epoch:
        return state.position.epoch, "epochs"
    made = checkpoint.updates
    return made.pop() if len(made) == 1 else state.position.step // state.config.grad_accum_steps, "updates"


def _advance(scheduler: LRScheduler, times: int, what: str, path: Path) -> None:
    """Let a schedule that has not begun make its steps; the optimizer keeps the rates that are recorded."""
    groups = scheduler.optimizer.param_groups
    recorded = [dict(group) for group in groups]
    name = type(scheduler).__name__
    scheduler.base_lrs = [group.get("initial_lr", rate) for group, rate in zip(groups, scheduler.base_lrs, strict=True)]
    for group, rate in zip(groups, scheduler.base_lrs, strict=True):
        group["lr"] = rate
    try:
        with warnings.catch_warnings():
            # no update was made here before
            warnings.simplefilter("ignore")
            for _ in range(times):
                scheduler.step()
    except (ArithmeticError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not record its schedule, and {name} cannot be moved past {times} {what}: {error}. Take "
            "only its weights with --start-fresh."
        ) from error
    scheduled = [group["lr"] for group in groups]
    for group, before in zip(groups, recorded, strict=True):
        group.update(before)
    rates = [group["lr"] for group in groups]
    scheduler._last_lr = rates
    logger.info(" > It does not record its schedule: %s is set to where it is after %d %s.", name, times, what)
    if not all(math.isclose(one, other, rel_tol=1e-6) for one, other in zip(scheduled, rates, strict=True)):
        logger.warning(
            " > The schedule gives a learning rate of %.4g there, and the checkpoint was trained with %.4g last, which "
            "holds until the schedule changes it.",
            scheduled[0],
            rates[0],
        )
