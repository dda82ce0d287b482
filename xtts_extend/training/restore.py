"""What a checkpoint contains, and how it is checked and restored when a run is resumed."""

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
from xtts_extend.run.record import RecordedAdapter, RecordedVocabulary, RunRecord
from xtts_extend.run.recorded import OptimizerState, TrainingCheckpoint
from xtts_extend.setup.samples import data_digest
from xtts_extend.setup.vocabulary_change import checkpoint_vocabulary, migrate_checkpoint, require_same_vocabulary
from xtts_extend.setup.weights import stock_base_rows
from xtts_extend.text.vocabulary import load_vocabulary
from xtts_extend.training.schedules import restore_schedule
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")


def run_record(state: RunState) -> RunRecord:
    """Return what a checkpoint stores under the key `xtts_extend`."""
    return RunRecord(
        vocabulary=RecordedVocabulary(state.vocabulary.tokens, state.vocabulary.digest),
        base_rows=state.model.base,
        state=state.position.state_dict(),
        base_dir=state.config.base_dir,
        adapter=RecordedAdapter(state.model.adapter_rank, state.model.adapter_state()),
        processes=state.ranks.size,
        data_digest=state.train_digest,
        val_digest=state.eval_digest,
        trained_on=state.trained_on,
    )


def checkpoint_state(state: RunState) -> dict[str, Any]:
    """Return the contents of a checkpoint: the stock Trainer's keys and our own."""
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
    """Return a checkpoint's size in bytes: the model's tensors, plus AdamW's two moments for each trained parameter."""
    trained = sum(parameter.nbytes for parameter in model.xtts.gpt.parameters() if parameter.requires_grad)
    return int(1.01 * (sum(tensor.nbytes for tensor in model.checkpoint_state().values()) + 2 * trained))


@dataclass(frozen=True)
class Resumed:
    """A training checkpoint that has been checked and can be resumed from.

    Attributes:
        checkpoint: The checkpoint, with weights and record migrated to the run's vocabulary.
        changed: Keys of changed settings that define the run. The new values are used.
        migration: The migration to the run's vocabulary, for the optimizer's moments; None if the checkpoint already
            has that vocabulary.
        base_rows: The base model's token rows, and whether they are frozen in the checkpoint.
        freezes: Whether the run freezes these rows if there are new tokens.
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
    """Before anything is written, check that the checkpoint and the configuration belong to the same run.

    Args:
        checkpoint: The checkpoint to resume from.
        config: The configuration to resume with.
        train_samples: The training set to resume with.
        ranks: The processes that train together.
        migration: Migration to the run's vocabulary, or None if the checkpoint already has that vocabulary.
        allow_changes: Whether to accept changes to settings that define the run.

    Raises:
        CheckpointError: Frozen rows have changed.
        ConfigError: Settings that define the run have changed. The message lists them.
    """
    migrated = migrate_checkpoint(checkpoint, migration, config) if migration else checkpoint
    changed = check_changes(migrated, config, train_samples, ranks.size, allow_changes)
    if migrated.record is not None:
        return Resumed(migrated, changed, migration, migrated.record.base_rows, config.freeze_base_rows)
    size = load_vocabulary(config.model_args.tokenizer_file).size
    base_rows = stock_base_rows(checkpoint, config, size, migration)
    return Resumed(migrated, changed, migration, base_rows, base_rows.frozen)


def restore(state: RunState, resumed: Resumed) -> list[str]:
    """Restore and verify the weights, optimizer, scheduler, scaler and position, and log a summary.

    Args:
        state: The run's state, with a new optimizer and scheduler; it is updated.
        resumed: Result of `check_resume`.

    Returns:
        Descriptions of what was restored, for the log.

    Raises:
        CheckpointError: The checkpoint has missing, unknown or incompatible entries. The message names them.
        VocabularyError: The checkpoint was trained with a different vocabulary.
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
                f"{checkpoint.path} does not contain the state of the fp16 loss scaler. Resume with --amp none."
            )
        state.scaler.load_state_dict(dict(checkpoint.scaler))
    _apply_changes(state, resumed)
    _drop_incomparable_evaluations(state, record, resumed.changed)
    restored = [
        f"{len(checkpoint.model)} tensors",
        f"optimizer ({sum(len(optimizer['state']) for optimizer in checkpoint.optimizer)} moments)",
        schedule,
        "scaler" if state.scaler is not None else "no scaler (not used)",
    ]
    logger.info(" > Resuming %s", checkpoint.path)
    logger.info(
        " > Continuing after step %d (epoch %d, batch %d) with learning rate %.4g.",
        position.step,
        position.epoch,
        position.batch,
        state.learning_rate,
    )
    best = [f"best loss {position.best_value:.5f}"] if math.isfinite(position.best_value) else []
    logger.info(" > Restored and verified: %s.", ", ".join(restored + best))
    if record is None:
        logger.info(
            " > The best loss is unknown, because the stock Trainer does not record which samples and which type of "
            "loss its best loss is based on. The first evaluation will set it."
        )
        position.evaluation_due = bool(state.eval_samples and state.config.run_eval)
        logger.info(
            " > The stock Trainer does not record the position within the epoch, so epoch %d restarts from its first "
            "batch. Gradients of an unfinished accumulation are not in the checkpoint.",
            position.epoch,
        )
    return restored


def _drop_incomparable_evaluations(state: RunState, record: RunRecord | None, changed: Sequence[str]) -> None:
    """Reset the best model if its evaluation cannot be compared with those of the resumed run."""
    position = state.position
    reasons = []
    if record is not None and record.val_digest is not None:
        if record.val_digest != state.eval_digest:
            reasons.append(" > The validation set has changed, so the best loss is reset.")
        elif state.eval_samples and not record.evaluations_comparable:
            reasons.append(
                " > The run's evaluations so far depended on how samples were batched and cannot be compared with "
                "new ones, so the best loss is reset."
            )
    if any("conditioning_length" in key for key in changed):
        reasons.append(
            " > The conditioning length has changed, so the best loss is reset and the retention of old languages is "
            "no longer measured."
        )
    for reason in reasons:
        logger.info(reason)
        position.forget_best()
        position.base_losses = {}


def _report_rounding(checkpoint: TrainingCheckpoint) -> None:
    """Warn if the checkpoint's weights are in half precision, and say whether this has rounded the frozen rows."""
    half_dtypes = {tensor.dtype for tensor in checkpoint.model.values()} & {torch.float16, torch.bfloat16}
    if not half_dtypes:
        return
    recorded = checkpoint.record.base_rows if checkpoint.record else BaseRows(0)
    rounded = recorded.frozen and row_digests(xtts_weights(checkpoint.model), recorded.rows) != recorded.digests
    logger.warning(
        " > The checkpoint's weights are in half precision (%s), so training continues in float32 from the rounded "
        "values.%s",
        ", ".join(sorted(map(str, half_dtypes))),
        " The frozen rows no longer match the base model's, so the model cannot be exported. Run xtts-extend repair to "
        "restore them."
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
    """Compare the current settings and samples with those that the checkpoint recorded.

    Args:
        checkpoint: The checkpoint to resume from.
        config: The configuration to resume with.
        train_samples: The training set to resume with.
        processes: Number of processes that train together.
        allow_changes: Whether to accept changes to settings that define the run.

    Returns:
        Keys of changed settings that define the run.

    Raises:
        ConfigError: A setting has changed that must never change, or that may change only with `allow_changes`. The
            message lists old and new values.
    """
    fixed = changes(checkpoint.config, config, FIXED_FOR_THE_RUN)
    if fixed:
        raise ConfigError(
            "These values cannot change within a run (recorded → now):\n  "
            + "\n  ".join(fixed)
            + "\nUse the recorded values, or load only the weights with --start-fresh."
        )
    changed = changes(_with_batch_per_process(checkpoint, processes), config, DEFINES_THE_RUN)
    before = checkpoint.record.data_digest if checkpoint.record else None
    now = data_digest(train_samples)
    if before is not None and before != now:
        changed.append(f"training samples: digest {before[:12]} → {now[:12]}")
    if changed and not allow_changes:
        raise ConfigError(
            "These values define the run and differ from the checkpoint (recorded → now):\n  "
            + "\n  ".join(changed)
            + "\nUse the recorded values, or accept the changes with --allow-changes."
        )
    for line in changed:
        logger.info(" > Accepted with --allow-changes: %s", line)
    return [line.split(":")[0] for line in changed]


def _with_batch_per_process(checkpoint: TrainingCheckpoint, processes: int) -> Mapping[str, object]:
    """Return the recorded values, with batch sizes scaled to keep the total batch size for `processes` processes."""
    recorded: Mapping[str, Any] = checkpoint.config
    before = checkpoint.processes
    if not recorded or before == processes:
        return recorded
    frames = recorded.get("batch_frames")
    scaled = {"batch_frames": frames * before / processes} if frames else {}
    return {**recorded, "batch_size": recorded["batch_size"] * before / processes, **scaled}


def _restore_optimizer(state: RunState, saved: Sequence[OptimizerState], migration: Migration | None) -> None:
    if len(saved) != 1:
        raise CheckpointError(
            f"Expected 1 optimizer in the checkpoint, got {len(saved)}. Load only the weights with --start-fresh."
        )
    (saved_state,), optimizer = saved, state.optimizer
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved_groups: list[dict[str, Any]] = saved_state["param_groups"]
    saved_sizes = [len(group["params"]) for group in saved_groups]
    if sizes != saved_sizes:
        raise CheckpointError(
            f"Expected optimizer parameter groups with {sizes} tensors, but the checkpoint's have {saved_sizes}. "
            "The frozen rows, or the groups' learning rates or weight decay, differ. Use the settings that the run was "
            "trained with."
        )
    fitted = {}
    known = set()
    for group, saved_group in zip(optimizer.param_groups, saved_groups, strict=True):
        shapes: dict[torch.Size, dict[str, torch.Size]] = {}
        for parameter, number in zip(group["params"], saved_group["params"], strict=True):
            known.add(number)
            name, moments = names[id(parameter)], saved_state["state"].get(number, {})
            if parameter.shape not in shapes:
                shapes[parameter.shape] = _shapes_of_moments(optimizer, saved_group, parameter)
            expected = shapes[parameter.shape]
            if expected and not moments:
                raise CheckpointError(f"The checkpoint has no moments for {name}: its optimizer state is incomplete.")
            if missing := expected.keys() - moments.keys():
                raise CheckpointError(f"The checkpoint's moments for {name} are missing {', '.join(sorted(missing))}.")
            if moments:
                fitted[number] = _fit_moments(moments, expected, name, state.model, migration)
    unknown = set(saved_state["state"]) - known
    if unknown:
        raise CheckpointError(f"The checkpoint's optimizer has moments for unknown parameters: {sorted(unknown)[:10]}.")
    optimizer.load_state_dict({**saved_state, "state": fitted})
    # The loss scaler reads this attribute, which torch does not update when `fused` is restored.
    fused: Any = optimizer
    fused._step_supports_amp_scaling = all(group.get("fused") for group in optimizer.param_groups)
    if len(optimizer.state) != len(fitted):
        raise CheckpointError(
            f"Expected moments for {len(fitted)} parameters after loading, got {len(optimizer.state)}."
        )


def _shapes_of_moments(
    optimizer: torch.optim.Optimizer, options: Mapping[str, Any], parameter: torch.Tensor
) -> dict[str, torch.Size]:
    """Return the names and shapes of a parameter's moments in an optimizer, determined by a step on a dummy parameter.

    Plain numbers have the shape (). `options` are those of the parameter's group, such as `lr` and `amsgrad`.
    """
    dummy = torch.zeros_like(parameter, requires_grad=True)
    dummy.grad = torch.zeros_like(parameter)
    optimizer_class: Any = type(optimizer)
    dummy_optimizer = optimizer_class([{**copy.deepcopy(dict(options)), "params": [dummy]}], lr=options["lr"])
    dummy_optimizer.step()
    moments = dummy_optimizer.state[dummy]
    return {key: torch.as_tensor(value).shape for key, value in moments.items() if value is not None}


def _fit_moments(
    moments: Mapping[str, Any],
    expected: Mapping[str, torch.Size],
    name: str,
    model: ExtendedGPTTrainer,
    migration: Migration | None,
) -> dict[str, Any]:
    """Return the moments of the parameter `name`, migrated to the run's vocabulary and reduced to its trained rows.

    Raises:
        CheckpointError: A moment does not have the expected shape.
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
                    f"Expected shape {tuple(expected[key])} for the checkpoint's {key} of {name}, got "
                    f"{tuple(value.shape)}. The checkpoint belongs to a different model."
                )
        fitted[key] = value
    return fitted


def _apply_changes(state: RunState, resumed: Resumed) -> None:
    """Apply changed settings that the restored optimizer, schedule and position would otherwise override."""
    changed, position, config = set(resumed.changed), state.position, state.config
    if {"lr", "layer_decay", "new_row_learning_rate"} & changed:
        rates = [group["lr"] for group in state.model.get_optimizer().param_groups]
        for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
            # Keep the factor that the schedule has reached.
            initial = group.get("initial_lr", group["lr"])
            group["lr"] = rate * (group["lr"] / initial if initial else 1)
            if "initial_lr" in group:
                group["initial_lr"] = rate
        if state.scheduler is not None:
            state.scheduler.base_lrs = rates
    if "optimizer_params" in changed:
        for group in state.optimizer.param_groups:
            for key, value in config.optimizer_params.items():
                # Groups without weight decay stay that way.
                if key != "weight_decay" or group["weight_decay"]:
                    group[key] = value
    if "batch_size" in changed:
        recorded: Mapping[str, Any] = resumed.checkpoint.config
        total = int(recorded["batch_size"]) * resumed.checkpoint.processes
        position.batch = position.batch * total // (config.batch_size * state.ranks.size)
        logger.info(" > The batch size has changed. Counting %d batches of the new size as completed.", position.batch)
    if "batch_frames" in changed:
        position.start_epoch(position.epoch)
        logger.info(" > The composition of the batches has changed, so epoch %d restarts.", position.epoch)
