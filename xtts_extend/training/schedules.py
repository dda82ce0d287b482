"""Learning rate schedules of a run that is resumed: as they were recorded, or moved to where their run was."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from xtts_extend.checkpoint.inspect import CheckpointInfo
from xtts_extend.checkpoint.store import require_fit
from xtts_extend.errors import CheckpointError
from xtts_extend.run.position import Position
from xtts_extend.run.recorded import updates_of

logger = logging.getLogger("trainer")
#: What some releases of torch keep in a schedule's state; none of it decides a learning rate.
_KEPT_BY_SOME_RELEASES = {"verbose", "_is_initial", "_get_lr_called_within_step"}


def restore_schedules(trainer: Any, content: Mapping[str, Any], position: Position, info: CheckpointInfo) -> str:
    """Restore the schedules of a trainer whose optimizers are restored.

    Releases of the stock Trainer before 0.3 recorded none: then a schedule is moved on by the updates, or epochs, that
    the run had made.

    Args:
        trainer: a `ResumableTrainer`.
        content: of the checkpoint, as `as_recorded` returns it.
        position: of the run.
        info: the checkpoint's header.

    Returns:
        What was restored, in words.

    Raises:
        CheckpointError: what is recorded does not fit the trainer's schedules, or a schedule cannot be moved.
    """
    schedulers = [scheduler for scheduler in trainer.scheduler if scheduler is not None]
    saved: Sequence[Mapping[str, Any]] = content["scheduler"]
    if schedulers and not saved and info.written_by == "coqui" and content["config"].get("lr_scheduler"):
        for scheduler in schedulers:
            _move(scheduler, *_progress(trainer.config, content, position), info)
        return "no scheduler (not recorded)"
    if len(schedulers) != len(saved):
        raise CheckpointError(
            f"The checkpoint holds {len(saved)} schedulers; this run has {len(schedulers)}. "
            "Leave the schedule (--warmup-steps, lr_scheduler) as it was."
        )
    for scheduler, state in zip(schedulers, saved, strict=True):
        require_fit(
            set(scheduler.state_dict()) - _KEPT_BY_SOME_RELEASES,
            set(state) - _KEPT_BY_SOME_RELEASES,
            "checkpoint's scheduler",
        )
        scheduler.load_state_dict(dict(state))
    return "scheduler" if saved else "no scheduler (the run has none)"


def _progress(config: Any, content: Mapping[str, Any], position: Position) -> tuple[int, str]:
    """How often a run moved its schedule, and what after: epochs or updates."""
    if config.scheduler_after_epoch:
        return position.epoch, "epochs"
    made = updates_of(content)
    return made.pop() if len(made) == 1 else position.step // config.grad_accum_steps, "updates"


def _move(scheduler: Any, times: int, what: str, info: CheckpointInfo) -> None:
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
            f"{info.path} does not record its schedule, and {name} cannot be moved past {times} {what}: {error}. Take "
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
