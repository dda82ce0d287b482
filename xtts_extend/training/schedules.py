"""Restore a learning rate schedule from a checkpoint, or advance it to the run's position."""

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
#: Keys that only some torch releases store in a scheduler's state; no learning rate depends on them.
_RELEASE_DEPENDENT_KEYS = {"verbose", "_is_initial", "_get_lr_called_within_step"}


def restore_schedule(state: RunState, checkpoint: TrainingCheckpoint) -> str:
    """Restore the learning rate schedule, after the optimizer and the position have been restored.

    Stock Trainer releases before 0.3 do not save the schedule. In that case, it is advanced by the number of updates or
    epochs that the run had completed.

    Args:
        state: The run's state, with the optimizer and the position restored.
        checkpoint: The checkpoint to resume from.

    Returns:
        A description of what was restored, for the log.

    Raises:
        CheckpointError: The saved schedule does not match the run's schedule, or the schedule cannot be advanced.
    """
    scheduler, saved = state.scheduler, checkpoint.scheduler
    if scheduler is not None and not saved and checkpoint.record is None and checkpoint.config.get("lr_scheduler"):
        _advance(scheduler, *_progress(state, checkpoint), checkpoint.path)
        return "no scheduler (not saved)"
    count = int(scheduler is not None)
    if count != len(saved):
        raise CheckpointError(
            f"The checkpoint and this run have different numbers of schedulers ({len(saved)} and {count}). "
            "Use the original schedule (--warmup-steps, lr_scheduler)."
        )
    if scheduler is None:
        return "no scheduler (not used)"
    require_fit(
        set(scheduler.state_dict()) - _RELEASE_DEPENDENT_KEYS,
        set(saved[0]) - _RELEASE_DEPENDENT_KEYS,
        "checkpoint's scheduler",
    )
    scheduler.load_state_dict(dict(saved[0]))
    return "scheduler"


def _progress(state: RunState, checkpoint: TrainingCheckpoint) -> tuple[int, str]:
    """Return how many steps the schedule has taken, and their unit: "epochs" or "updates"."""
    if state.config.scheduler_after_epoch:
        return state.position.epoch, "epochs"
    updates = checkpoint.updates
    return updates.pop() if len(updates) == 1 else state.position.step // state.config.grad_accum_steps, "updates"


def _advance(scheduler: LRScheduler, steps: int, unit: str, path: Path) -> None:
    """Advance a fresh schedule by a number of steps, and keep the optimizer's restored learning rates."""
    groups = scheduler.optimizer.param_groups
    recorded = [dict(group) for group in groups]
    name = type(scheduler).__name__
    scheduler.base_lrs = [group.get("initial_lr", rate) for group, rate in zip(groups, scheduler.base_lrs, strict=True)]
    for group, rate in zip(groups, scheduler.base_lrs, strict=True):
        group["lr"] = rate
    try:
        with warnings.catch_warnings():
            # torch warns about scheduler steps without optimizer steps.
            warnings.simplefilter("ignore")
            for _ in range(steps):
                scheduler.step()
    except (ArithmeticError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} contains no schedule state, and {name} cannot be advanced by {steps} {unit}: "
            f"{error}. Use --start-fresh to load only the weights."
        ) from error
    scheduled = [group["lr"] for group in groups]
    for group, before in zip(groups, recorded, strict=True):
        group.update(before)
    rates = [group["lr"] for group in groups]
    scheduler._last_lr = rates
    logger.info(" > The checkpoint contains no schedule state, so %s was advanced by %d %s.", name, steps, unit)
    if not all(math.isclose(expected, rate, rel_tol=1e-6) for expected, rate in zip(scheduled, rates, strict=True)):
        logger.warning(
            " > The schedule gives a learning rate of %.4g at this point, but the checkpoint was last trained with "
            "%.4g. Training continues with the latter until the schedule changes it.",
            scheduled[0],
            rates[0],
        )
