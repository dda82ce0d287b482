"""What a checkpoint records beside weights and optimizer, and how a trainer takes all of it up again."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from xtts_extend.checkpoint.inspect import CheckpointInfo
from xtts_extend.checkpoint.store import FORMAT_VERSION, adapter_tensors, load_checkpoint
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.gpt_trainer import row_digests, xtts_weights
from xtts_extend.model.migration import Migration
from xtts_extend.run.config import DEFINES_THE_RUN, FIXED_FOR_THE_RUN, changes, lookup
from xtts_extend.run.position import Position
from xtts_extend.run.recorded import as_recorded
from xtts_extend.setup.vocabulary_change import checkpoint_vocabulary, migrate_content, require_same_vocabulary
from xtts_extend.text.vocabulary import load_vocabulary
from xtts_extend.training.schedules import restore_schedules

logger = logging.getLogger("trainer")
#: The last version of checkpoints whose evaluations depended on how they were batched.
_LAST_BATCHED_VERSION = 2


def data_digest(samples: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of what the manifests say: file names as written there, texts and languages, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        for key in ("manifest_audio_file", "text", "language", "part_digest"):
            if key in sample:
                digest.update(str(sample[key]).encode() + b"\0")
        if sample.get("replay"):
            digest.update(b"replay\0")
    return digest.hexdigest()


def run_record(trainer: Any) -> dict[str, Any]:
    """The `xtts_extend` key of a checkpoint."""
    vocabulary = load_vocabulary(trainer.output_path / "vocab.json")
    return {
        "version": FORMAT_VERSION,
        "vocabulary": {"tokens": dict(vocabulary.tokens), "digest": vocabulary.digest},
        "base_rows": {
            "rows": trainer.model.base_rows,
            "frozen": trainer.model.rows_frozen,
            "digests": dict(trainer.model.base_digests),
        },
        "base_dir": getattr(trainer.config, "base_dir", ""),
        "adapter": {"rank": trainer.model.adapter_rank, "tensors": trainer.model.adapter_state()},
        "processes": trainer.ranks.size,
        "data_digest": data_digest(trainer.train_samples),
        "val_digest": data_digest(trainer.eval_samples),
        "state": trainer.position.state_dict(),
    }


def checkpoint_state(trainer: Any) -> dict[str, Any]:
    """What a checkpoint holds: a stock one's keys and `xtts_extend`."""
    position = trainer.position
    position.best_value = trainer.best_value
    return {
        "config": trainer.config.to_dict(),
        "model": trainer.model.checkpoint_state(),
        "optimizer": [optimizer.state_dict() for optimizer in trainer.optimizer],
        "scheduler": [scheduler.state_dict() for scheduler in trainer.scheduler if scheduler is not None],
        "scaler": trainer.scaler.state_dict() if trainer.scaler is not None else None,
        "step": position.step,
        "epoch": position.epoch,
        "model_loss": {"train_loss": position.train_loss, "eval_loss": trainer.best_value},
        "xtts_extend": run_record(trainer),
    }


def checkpoint_size(model: Any) -> int:
    """Bytes of a checkpoint of a model: its tensors, and AdamW's two moments of what trains."""
    trained = sum(parameter.nbytes for parameter in model.xtts.gpt.parameters() if parameter.requires_grad)
    return int(1.01 * (sum(tensor.nbytes for tensor in model.checkpoint_state().values()) + 2 * trained))


def knows_base_losses(record: Mapping[str, Any], eval_samples: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a checkpoint says what the base's losses on these samples were."""
    same = record.get("val_digest") == data_digest(eval_samples)
    return not eval_samples or (same and evaluated_alike(record))


def evaluated_alike(record: Mapping[str, Any]) -> bool:
    """Whether the evaluations that a checkpoint records can be compared with this release's."""
    return record.get("version", 0) > _LAST_BATCHED_VERSION


def was_judged(content: Mapping[str, Any]) -> bool:
    """Whether a run of ours had evaluated when it wrote this checkpoint, so that there is a start to compare with."""
    return math.isfinite(content.get("xtts_extend", {}).get("state", {}).get("best_value", math.inf))


def load_run(path: Path, migration: Migration | None, config: Any) -> tuple[dict[str, Any], CheckpointInfo]:
    """A training checkpoint's content, its weights and record carried to another vocabulary, and its header.

    Raises:
        CheckpointError: it is none.
    """
    loaded, info = load_checkpoint(path)
    if info.kind != "training":
        raise CheckpointError(
            f"{path} is a base model (weights alone): there is no run in it to continue. Start from it: "
            "model.load_base(), and no restore_path."
        )
    content = as_recorded(loaded, path)
    return migrate_content(content, info, migration, config) if migration else content, info


def freeze_recorded_rows(model: Any, content: Mapping[str, Any]) -> None:
    """Freeze the rows that the checkpoint's run froze; before the optimizer is made."""
    record = content.get("xtts_extend")
    if record:
        model.base_rows = record["base_rows"]["rows"]
        model.base_digests = dict(record["base_rows"]["digests"])
        if record["base_rows"]["frozen"]:
            model.freeze_base_rows()


def restore(
    trainer: Any,
    content: dict[str, Any],
    info: CheckpointInfo,
    changed: Sequence[str],
    migration: Migration | None = None,
) -> tuple[Position, list[str]]:
    """Restore weights, optimizer, scheduler, scaler and position, check that all of it arrived, and say so.

    Args:
        trainer: a `ResumableTrainer` whose optimizer and scheduler are made.
        content: of the checkpoint.
        info: its header.
        changed: what `check_changes` returned; it takes effect.
        migration: carries the moments, where `migrate_content` has carried the weights.

    Returns:
        The position, and what was restored, in words.

    Raises:
        CheckpointError: something is missing, left over, or does not fit; it is named.
        VocabularyError: the checkpoint was trained with another vocabulary.
    """
    position = Position.of(content, info)
    if migration is None:
        vocabulary = load_vocabulary(Path(trainer.config.model_args.tokenizer_file))
        known, reason = checkpoint_vocabulary(content.get("xtts_extend", {}), content.get("config") or {}, info)
        require_same_vocabulary(known, reason, vocabulary, info)
    trainer.model.restore_state(content["model"], adapter_tensors(content))
    _name_rounding(content)
    _restore_optimizers(trainer, content["optimizer"], migration)
    schedule = restore_schedules(trainer, content, position, info)
    if trainer.scaler is not None:
        if not content.get("scaler"):
            raise CheckpointError(f"{info.path} holds no state of the fp16 loss scaler. Continue it with --amp none.")
        trainer.scaler.load_state_dict(content["scaler"])
    _apply_changes(trainer, content, changed, position)
    judged_by = content.get("xtts_extend", {}).get("val_digest")
    if judged_by is not None and judged_by != data_digest(trainer.eval_samples):
        logger.info(" > the validation set changed: the best model so far is forgotten.")
        position.forget_best()
        position.base_losses = {}
    elif judged_by is not None and trainer.eval_samples and not evaluated_alike(content["xtts_extend"]):
        logger.info(
            " > the run's evaluations so far depended on how they were batched, and cannot be compared with those from "
            "here on: the best loss so far is forgotten."
        )
        position.forget_best()
        position.base_losses = {}
    if any("conditioning_length" in key for key in changed):
        logger.info(
            " > The conditioning length changed: the best loss so far is forgotten, and what is kept of old "
            "languages is not measured."
        )
        position.forget_best()
        position.base_losses = {}
    restored = [
        f"{len(content['model'])} tensors",
        f"optimizer ({sum(len(part['state']) for part in content['optimizer'])} moments)",
        schedule,
        "scaler" if trainer.scaler is not None else "no scaler (the run has none)",
    ]
    logger.info(" > Resuming %s", info.path)
    logger.info(
        " > step %d · epoch %d, batch %d done · learning rate %.4g",
        position.step,
        position.epoch,
        position.batch,
        trainer.optimizer[0].param_groups[0]["lr"],
    )
    best = [f"best loss {position.best_value:.5f}"] if math.isfinite(position.best_value) else []
    logger.info(" > restored and checked: %s", ", ".join(restored + best))
    if info.written_by == "coqui":
        logger.info(
            " > best loss unknown: the stock Trainer records neither the samples nor the measure. The first evaluation "
            "here is the one to beat."
        )
        position.evaluation_due = bool(trainer.eval_samples and trainer.config.run_eval)
        logger.info(
            " > written by the stock Trainer: it does not record the place within the epoch, so epoch %d starts at its "
            "first batch; gradients of a started accumulation are not in the file.",
            position.epoch,
        )
    return position, restored


def _name_rounding(content: Mapping[str, Any]) -> None:
    """Say that weights come from a file in half precision, and whether frozen rows lost what they had beyond it."""
    halves = {tensor.dtype for tensor in content["model"].values()} & {torch.float16, torch.bfloat16}
    if not halves:
        return
    before = content.get("xtts_extend", {}).get("base_rows", {})
    weights = xtts_weights(content["model"])
    rounded = before.get("frozen") and row_digests(weights, before["rows"]) != before["digests"]
    logger.warning(
        " > Its weights are in half precision (%s): training goes on in float32 from their rounded values.%s",
        ", ".join(sorted(map(str, halves))),
        " The frozen rows are not exactly the base's any more, and an export will refuse them: xtts-extend repair "
        "restores them."
        if rounded
        else "",
    )


def check_changes(
    config: Any,
    train_samples: Sequence[Mapping[str, Any]],
    processes: int,
    content: Mapping[str, Any],
    allow_changes: bool,
) -> list[str]:
    """Compare what a resume is about to do with what the checkpoint records.

    Returns:
        The keys of what defines the run and has changed.

    Raises:
        ConfigError: something changed that may not, or not without `allow_changes`; each is listed with both values.
    """
    recorded = content.get("config") or {}
    fixed = changes(recorded, config, FIXED_FOR_THE_RUN)
    if fixed:
        raise ConfigError(
            "These values cannot change within a run (recorded → now):\n  "
            + "\n  ".join(fixed)
            + "\nLeave them as they were, or take only the weights with --start-fresh."
        )
    changed = changes(_per_process(recorded, content, processes), config, DEFINES_THE_RUN)
    before = content.get("xtts_extend", {}).get("data_digest")
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


def _per_process(recorded: Mapping[str, Any], content: Mapping[str, Any], processes: int) -> Mapping[str, Any]:
    """The recorded values with the batch size that gives as many processes as now the same batch together."""
    before = content.get("xtts_extend", {}).get("processes", 1)
    if not recorded or before == processes:
        return recorded
    frames = recorded.get("batch_frames")
    scaled = {"batch_frames": frames * before / processes} if frames else {}
    return {**recorded, "batch_size": recorded["batch_size"] * before / processes, **scaled}


def _restore_optimizers(trainer: Any, saved: Sequence[dict[str, Any]], migration: Migration | None) -> None:
    if len(saved) != len(trainer.optimizer):
        raise CheckpointError(f"The checkpoint holds {len(saved)} optimizers; this run has {len(trainer.optimizer)}.")
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    for optimizer, state in zip(trainer.optimizer, saved, strict=True):
        groups = [len(group["params"]) for group in optimizer.param_groups]
        found = [len(group["params"]) for group in state["param_groups"]]
        if groups != found:
            raise CheckpointError(
                f"The checkpoint's optimizer has parameter groups of {found} tensors; this run has {groups}. "
                "Rows that were frozen, or rates and weight decay by group, differ; use the run's own settings."
            )
        fitted = {}
        known = set()
        for group, saved_group in zip(optimizer.param_groups, state["param_groups"], strict=True):
            shapes: dict[torch.Size, dict[str, torch.Size]] = {}
            for parameter, number in zip(group["params"], saved_group["params"], strict=True):
                known.add(number)
                name, moments = names[id(parameter)], state["state"].get(number, {})
                if parameter.shape not in shapes:
                    shapes[parameter.shape] = _shapes_of_moments(optimizer, saved_group, parameter)
                expected = shapes[parameter.shape]
                if expected and not moments:
                    raise CheckpointError(
                        f"The checkpoint holds no moments of {name}. Its optimizer state is incomplete."
                    )
                if lacking := expected.keys() - moments.keys():
                    raise CheckpointError(f"The checkpoint's moments of {name} lack {', '.join(sorted(lacking))}.")
                if moments:
                    fitted[number] = _fit_moments(moments, expected, name, trainer.model, migration)
        left_over = set(state["state"]) - known
        if left_over:
            raise CheckpointError(
                f"The checkpoint's optimizer holds moments of no parameter: {sorted(left_over)[:10]}."
            )
        optimizer.load_state_dict({**state, "state": fitted})
        # whether it is fused is recorded too; the loss scaler asks this attribute, which torch leaves as it was
        optimizer._step_supports_amp_scaling = all(group.get("fused") for group in optimizer.param_groups)
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
    model: Any,
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


def _apply_changes(trainer: Any, content: Mapping[str, Any], changed: Sequence[str], position: Position) -> None:
    """Let changed values take effect where a restored state would hide them."""
    recorded = content.get("config") or {}
    if {"lr", "layer_decay", "new_row_learning_rate"} & set(changed):
        rates = [group["lr"] for group in trainer.model.get_optimizer().param_groups]
        for optimizer, scheduler in zip(trainer.optimizer, trainer.scheduler, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                # where the schedule has brought it
                before = group.get("initial_lr", group["lr"])
                group["lr"] = rate * (group["lr"] / before if before else 1)
                if "initial_lr" in group:
                    group["initial_lr"] = rate
            if scheduler is not None:
                scheduler.base_lrs = rates
    if "optimizer_params" in changed:
        for optimizer in trainer.optimizer:
            for group in optimizer.param_groups:
                for key, value in trainer.config.optimizer_params.items():
                    # the group without weight decay keeps none
                    if key != "weight_decay" or group["weight_decay"]:
                        group[key] = value
    if "batch_size" in changed:
        before = int(lookup(recorded, "batch_size")) * content.get("xtts_extend", {}).get("processes", 1)
        position.batch = position.batch * before // (trainer.config.batch_size * trainer.ranks.size)
        logger.info(" > the place in the epoch is now after %d batches of the new size.", position.batch)
    if "batch_frames" in changed:
        position.start_epoch(position.epoch)
        logger.info(" > other batches than before: epoch %d begins again.", position.epoch)
