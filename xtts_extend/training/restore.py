"""What a checkpoint records beside weights and optimizer, and how all of it is taken up again."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xtts_extend.checkpoint.inspect import RECORD_KEY
from xtts_extend.data.sample import Sample
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, row_digests, xtts_weights
from xtts_extend.model.migration import Migration
from xtts_extend.run.config import DEFINES_THE_RUN, FIXED_FOR_THE_RUN, NewLanguageConfig, changes
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.record import RecordedAdapter, RecordedVocabulary, RunRecord, TrainedOn
from xtts_extend.run.recorded import OptimizerState, TrainingCheckpoint
from xtts_extend.setup.samples import data_digest
from xtts_extend.setup.vocabulary_change import checkpoint_vocabulary, migrate_checkpoint, require_same_vocabulary
from xtts_extend.setup.weights import stock_base_rows
from xtts_extend.text.vocabulary import load_vocabulary
from xtts_extend.training.schedules import restore_schedule
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")


def run_record(state: RunState) -> RunRecord:
    """What a checkpoint records of a run."""
    return RunRecord(
        vocabulary=RecordedVocabulary(state.vocabulary.tokens, state.vocabulary.digest),
        base_rows=state.model.base,
        state=state.position.state_dict(),
        base_dir=state.config.base_dir,
        adapter=RecordedAdapter(state.model.adapter_rank, state.model.adapter_state()),
        processes=state.ranks.size,
        data_digest=data_digest(state.train_samples),
        val_digest=data_digest(state.eval_samples),
        trained_on=TrainedOn.of(state.train_samples, state.config.language, state.model.xtts.tokenizer.encode),
    )


def checkpoint_state(state: RunState) -> dict[str, Any]:
    """What a checkpoint holds: a stock one's keys and ours."""
    position = state.position
    return {
        "config": state.config.to_dict(),
        "model": state.model.checkpoint_state(),
        "optimizer": [state.optimizer.state_dict()],
        "scheduler": [state.scheduler.state_dict()] if state.scheduler is not None else [],
        "scaler": state.scaler.state_dict() if state.scaler is not None else None,
        "step": position.step,
        "epoch": position.epoch,
        "model_loss": {"train_loss": position.train_loss, "eval_loss": position.best_value},
        RECORD_KEY: run_record(state).to_dict(),
    }


def checkpoint_size(model: ExtendedGPTTrainer) -> int:
    """Bytes of a checkpoint of a model: its tensors, and AdamW's two moments of what trains."""
    trained = sum(parameter.nbytes for parameter in model.xtts.gpt.parameters() if parameter.requires_grad)
    return int(1.01 * (sum(tensor.nbytes for tensor in model.checkpoint_state().values()) + 2 * trained))


@dataclass(frozen=True)
class Resumed:
    """A training checkpoint that may be resumed with a configuration and its samples.

    Attributes:
        checkpoint: its weights and record carried to the run's vocabulary.
        changed: keys of what defines the run and has changed; it takes effect.
        migration: to that vocabulary, if it is another one; it carries the moments.
        base_rows: the rows that are the base's, and whether they are frozen.
        freezes: whether the run freezes them, where there are new ones beside them.
    """

    checkpoint: TrainingCheckpoint
    changed: Sequence[str]
    migration: Migration | None
    base_rows: BaseRows
    freezes: bool


def check_resume(
    checkpoint: TrainingCheckpoint,
    config: NewLanguageConfig,
    train_samples: Sequence[Sample],
    ranks: Ranks,
    migration: Migration | None = None,
    allow_changes: bool = False,
) -> Resumed:
    """See that a resume gives the same run, before anything is written.

    Args:
        checkpoint: to be resumed.
        config: of the run that goes on.
        train_samples: its samples.
        ranks: its processes.
        migration: to its vocabulary.
        allow_changes: go on although something that defines the run has changed.

    Raises:
        CheckpointError: rows that were frozen have changed.
        ConfigError: what defines the run has changed; each value is listed.
    """
    found = migrate_checkpoint(checkpoint, migration, config) if migration else checkpoint
    changed = check_changes(found, config, train_samples, ranks.size, allow_changes)
    if found.record is not None:
        return Resumed(found, changed, migration, found.record.base_rows, config.freeze_base_rows)
    size = load_vocabulary(config.model_args.tokenizer_file).size
    base_rows = stock_base_rows(checkpoint, config, size, migration)
    return Resumed(found, changed, migration, base_rows, base_rows.frozen)


def restore(state: RunState, resumed: Resumed) -> list[str]:
    """Restore weights, optimizer, scheduler, scaler and position, check that all of it arrived, and say so.

    Args:
        state: of the run that goes on; its optimizer and scheduler are made.
        resumed: what it goes on from.

    Returns:
        What was restored, in words.

    Raises:
        CheckpointError: something is missing, left over, or does not fit; it is named.
        VocabularyError: the checkpoint was trained with another vocabulary.
    """
    checkpoint, record = resumed.checkpoint, resumed.checkpoint.record
    state.position = position = checkpoint.position
    if resumed.migration is None:
        known, reason = checkpoint_vocabulary(checkpoint, state.config.checkpoint_vocab)
        require_same_vocabulary(known, reason, state.vocabulary, checkpoint.info)
    state.model.restore_state(checkpoint.model, record.adapter.tensors if record else {})
    _report_rounding(checkpoint)
    _restore_optimizer(state, checkpoint.optimizer, resumed.migration)
    schedule = restore_schedule(state, checkpoint)
    if state.scaler is not None:
        if not checkpoint.scaler:
            raise CheckpointError(
                f"{checkpoint.path} holds no state of the fp16 loss scaler. Continue it with --amp none."
            )
        state.scaler.load_state_dict(dict(checkpoint.scaler))
    _apply_changes(state, resumed)
    _drop_incomparable_evaluations(state, record, resumed.changed)
    restored = [
        f"{len(checkpoint.model)} tensors",
        f"optimizer ({sum(len(part['state']) for part in checkpoint.optimizer)} moments)",
        schedule,
        "scaler" if state.scaler is not None else "no scaler (the run has none)",
    ]
    logger.info(" > Resuming %s", checkpoint.path)
    logger.info(
        " > step %d · epoch %d, batch %d done · learning rate %.4g",
        position.step,
        position.epoch,
        position.batch,
        state.learning_rate,
    )
    best = [f"best loss {position.best_value:.5f}"] if math.isfinite(position.best_value) else []
    logger.info(" > restored and checked: %s", ", ".join(restored + best))
    if record is None:
        logger.info(
            " > best loss unknown: the stock Trainer records neither the samples nor the measure. The first evaluation "
            "here is the one to beat."
        )
        position.evaluation_due = bool(state.eval_samples and state.config.run_eval)
        logger.info(
            " > written by the stock Trainer: it does not record the place within the epoch, so epoch %d starts at its "
            "first batch; gradients of a started accumulation are not in the file.",
            position.epoch,
        )
    return restored


def _drop_incomparable_evaluations(state: RunState, record: RunRecord | None, changed: Sequence[str]) -> None:
    """Let evaluations not count that cannot be compared with those from here on."""
    position = state.position
    reasons = []
    if record is not None and record.val_digest is not None:
        if record.val_digest != data_digest(state.eval_samples):
            reasons.append(" > the validation set changed: the best model so far is forgotten.")
        elif state.eval_samples and not record.evaluations_comparable:
            reasons.append(
                " > the run's evaluations so far depended on how they were batched, and cannot be compared with those "
                "from here on: the best loss so far is forgotten."
            )
    if any("conditioning_length" in key for key in changed):
        reasons.append(
            " > The conditioning length changed: the best loss so far is forgotten, and what is kept of old "
            "languages is not measured."
        )
    for reason in reasons:
        logger.info(reason)
        position.forget_best()
        position.base_losses = {}


def _report_rounding(checkpoint: TrainingCheckpoint) -> None:
    """Say that weights come from a file in half precision, and whether frozen rows lost what they had beyond it."""
    halves = {tensor.dtype for tensor in checkpoint.model.values()} & {torch.float16, torch.bfloat16}
    if not halves:
        return
    before = checkpoint.record.base_rows if checkpoint.record else BaseRows(0)
    rounded = before.frozen and row_digests(xtts_weights(checkpoint.model), before.rows) != before.digests
    logger.warning(
        " > Its weights are in half precision (%s): training goes on in float32 from their rounded values.%s",
        ", ".join(sorted(map(str, halves))),
        " The frozen rows are not exactly the base's any more, and an export will refuse them: xtts-extend repair "
        "restores them."
        if rounded
        else "",
    )


def check_changes(
    checkpoint: TrainingCheckpoint,
    config: NewLanguageConfig,
    train_samples: Sequence[Sample],
    processes: int,
    allow_changes: bool,
) -> list[str]:
    """Compare what a resume is about to do with what the checkpoint records.

    Returns:
        The keys of what defines the run and has changed.

    Raises:
        ConfigError: something changed that may not, or not without `allow_changes`; each is listed with both values.
    """
    fixed = changes(checkpoint.config, config, FIXED_FOR_THE_RUN)
    if fixed:
        raise ConfigError(
            "These values cannot change within a run (recorded → now):\n  "
            + "\n  ".join(fixed)
            + "\nLeave them as they were, or take only the weights with --start-fresh."
        )
    changed = changes(_with_batch_per_process(checkpoint, processes), config, DEFINES_THE_RUN)
    before = checkpoint.record.data_digest if checkpoint.record else None
    now = data_digest(train_samples)
    if before is not None and before != now:
        changed.append(f"training samples: digest {before[:12]} → {now[:12]}")
    if changed and not allow_changes:
        raise ConfigError(
            "The run would become another run; these values differ from the checkpoint (recorded → now):\n  "
            + "\n  ".join(changed)
            + "\nLeave them as they were, or continue all the same with --allow-changes."
        )
    for line in changed:
        logger.info(" > changed, as asked: %s", line)
    return [line.split(":")[0] for line in changed]


def _with_batch_per_process(checkpoint: TrainingCheckpoint, processes: int) -> Mapping[str, object]:
    """The recorded values with the batch size that gives as many processes as now the same batch together."""
    recorded: Mapping[str, Any] = checkpoint.config
    before = checkpoint.processes
    if not recorded or before == processes:
        return recorded
    frames = recorded.get("batch_frames")
    scaled = {"batch_frames": frames * before / processes} if frames else {}
    return {**recorded, "batch_size": recorded["batch_size"] * before / processes, **scaled}


def _restore_optimizer(state: RunState, saved: Sequence[OptimizerState], migration: Migration | None) -> None:
    if len(saved) != 1:
        raise CheckpointError(f"The checkpoint holds {len(saved)} optimizers; this run has 1.")
    (given,), optimizer = saved, state.optimizer
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    groups = [len(group["params"]) for group in optimizer.param_groups]
    saved_groups: list[dict[str, Any]] = given["param_groups"]
    found = [len(group["params"]) for group in saved_groups]
    if groups != found:
        raise CheckpointError(
            f"The checkpoint's optimizer has parameter groups of {found} tensors; this run has {groups}. "
            "Rows that were frozen, or rates and weight decay by group, differ; use the run's own settings."
        )
    fitted = {}
    known = set()
    for group, saved_group in zip(optimizer.param_groups, saved_groups, strict=True):
        shapes: dict[torch.Size, dict[str, torch.Size]] = {}
        for parameter, number in zip(group["params"], saved_group["params"], strict=True):
            known.add(number)
            name, moments = names[id(parameter)], given["state"].get(number, {})
            if parameter.shape not in shapes:
                shapes[parameter.shape] = _shapes_of_moments(optimizer, saved_group, parameter)
            expected = shapes[parameter.shape]
            if expected and not moments:
                raise CheckpointError(f"The checkpoint holds no moments of {name}. Its optimizer state is incomplete.")
            if lacking := expected.keys() - moments.keys():
                raise CheckpointError(f"The checkpoint's moments of {name} lack {', '.join(sorted(lacking))}.")
            if moments:
                fitted[number] = _fit_moments(moments, expected, name, state.model, migration)
    left_over = set(given["state"]) - known
    if left_over:
        raise CheckpointError(f"The checkpoint's optimizer holds moments of no parameter: {sorted(left_over)[:10]}.")
    optimizer.load_state_dict({**given, "state": fitted})
    # whether it is fused is recorded too; the loss scaler asks this attribute, which torch leaves as it was
    fused: Any = optimizer
    fused._step_supports_amp_scaling = all(group.get("fused") for group in optimizer.param_groups)
    if len(optimizer.state) != len(fitted):
        raise CheckpointError(f"Only {len(optimizer.state)} of {len(fitted)} moments arrived in the optimizer.")


def _shapes_of_moments(
    optimizer: torch.optim.Optimizer, options: Mapping[str, Any], parameter: torch.Tensor
) -> dict[str, torch.Size]:
    """Names and shapes of what an optimizer with these options keeps of a parameter: seen after a step of a stand-in.

    Numbers count as tensors without dimensions.
    """
    stand_in = torch.zeros_like(parameter, requires_grad=True)
    stand_in.grad = torch.zeros_like(parameter)
    kind: Any = type(optimizer)
    own = kind([{**copy.deepcopy(dict(options)), "params": [stand_in]}], lr=options["lr"])
    own.step()
    return {key: torch.as_tensor(value).shape for key, value in own.state[stand_in].items() if value is not None}


def _fit_moments(
    moments: Mapping[str, Any],
    expected: Mapping[str, torch.Size],
    name: str,
    model: ExtendedGPTTrainer,
    migration: Migration | None,
) -> dict[str, Any]:
    """The moments of one parameter, carried to another vocabulary; of a run that froze rows later, the new rows'.

    Args:
        moments: as saved.
        expected: their shapes.
        name: of the parameter.
        model: of the run that goes on.
        migration: to another vocabulary, if any.
    """
    has_token_rows = ".new." in name or name.endswith(TOKEN_TENSORS)
    fitted = {}
    for key, value in moments.items():
        if migration and has_token_rows and isinstance(value, torch.Tensor) and value.ndim:
            value = migration.moments(value)
        if isinstance(value, torch.Tensor) and value.ndim and value.shape != expected.get(key, value.shape):
            if model.rows_frozen and ".new." in name and value.shape[0] == model.vocab_size:
                value = value[model.base_rows :]
            else:
                raise CheckpointError(
                    f"The checkpoint's {key} of {name} has shape {tuple(value.shape)}; expected "
                    f"{tuple(expected[key])}. The checkpoint belongs to another model."
                )
        fitted[key] = value
    return fitted


def _apply_changes(state: RunState, resumed: Resumed) -> None:
    """Let changed values take effect where a restored state would hide them."""
    changed, position, config = set(resumed.changed), state.position, state.config
    if {"lr", "layer_decay", "new_row_learning_rate"} & changed:
        rates = [group["lr"] for group in state.model.get_optimizer().param_groups]
        for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
            # where the schedule has brought it
            before = group.get("initial_lr", group["lr"])
            group["lr"] = rate * (group["lr"] / before if before else 1)
            if "initial_lr" in group:
                group["initial_lr"] = rate
        if state.scheduler is not None:
            state.scheduler.base_lrs = rates
    if "optimizer_params" in changed:
        for group in state.optimizer.param_groups:
            for key, value in config.optimizer_params.items():
                # the group without weight decay keeps none
                if key != "weight_decay" or group["weight_decay"]:
                    group[key] = value
    if "batch_size" in changed:
        recorded: Mapping[str, Any] = resumed.checkpoint.config
        total = int(recorded["batch_size"]) * resumed.checkpoint.processes
        position.batch = position.batch * total // (config.batch_size * state.ranks.size)
        logger.info(" > the place in the epoch is now after %d batches of the new size.", position.batch)
    if "batch_frames" in changed:
        position.start_epoch(position.epoch)
        logger.info(" > other batches than before: epoch %d begins again.", position.epoch)
