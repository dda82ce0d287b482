"""The steps up to the first batch, one by one: classify the path, configure, check the data, load the base."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trainer.trainer_utils import get_optimizer, get_scheduler

from xtts_extend.checkpoint.inspect import (
    CheckpointInfo,
    inspect_checkpoint,
    load_pickled,
    newest_checkpoint,
    run_checkpoints,
)
from xtts_extend.checkpoint.soundness import Verification
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.data.audio import load_audio
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.model.embedding import extend_token_tensors
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, merged_weights, row_digests, xtts_weights
from xtts_extend.model.migration import Migration
from xtts_extend.model.voice import REFERENCE_RATE
from xtts_extend.run.config import (
    NewLanguageConfig,
    read_json,
    recordings,
    take_architecture,
    take_recorded,
)
from xtts_extend.run.history import resumed_from
from xtts_extend.run.recorded import accumulation_of, as_recorded, require_config
from xtts_extend.setup.base import require_codec, use_base
from xtts_extend.setup.flags import apply_flags
from xtts_extend.setup.hardware import has_bf16, loader_workers
from xtts_extend.setup.vocabulary_change import start_vocabularies
from xtts_extend.text.languages import validate_code
from xtts_extend.text.tokenizer import load_tokenizer, require_tag
from xtts_extend.text.vocabulary import romanized_spellings

logger = logging.getLogger("trainer")
#: What coqui's trainer can log to.
DASHBOARDS = ("tensorboard", "wandb", "mlflow", "aim", "clearml")


@dataclass(frozen=True)
class Start:
    """What the given path is, and what is done with it.

    Attributes:
        resume: continue a training checkpoint; else start at step 0 from its weights.
        path: the file.
        info: what its header says.
        recorded: the configuration that a training checkpoint holds; empty for a base model.
        record: the `xtts_extend` key of a training checkpoint of ours; empty otherwise.
        run_folder: a run that was killed before its first checkpoint: it starts again in this folder.
        verification: of a training checkpoint, under way.
    """

    resume: bool
    path: Path
    info: CheckpointInfo
    recorded: Mapping[str, Any]
    record: Mapping[str, Any]
    run_folder: Path | None = None
    verification: Verification | None = None


def classify_path(given: Mapping[str, Any], damaged: Collection[Path] = ()) -> Start:
    """Decide by content what `--checkpoint` (default: the base's `model.pth`) is, and whether it is continued.

    Args:
        given: the flags that were given.
        damaged: checkpoints that are passed over.

    Raises:
        CheckpointError: it is no sound checkpoint.
        ConfigError: neither `--checkpoint` nor `--base-dir` was given.
    """
    if "checkpoint" in given:
        target = Path(given["checkpoint"]).expanduser()
    elif "base_dir" in given:
        target = Path(given["base_dir"]).expanduser() / "model.pth"
    else:
        raise ConfigError("Neither --base-dir nor --checkpoint was given: there is nothing to start from.")
    if target.is_dir() and not run_checkpoints(target) and (source := resumed_from(target)):
        raise CheckpointError(
            f"{target} holds no checkpoint yet: it was made to continue {source}, and was stopped too early. Pass that "
            "checkpoint to --checkpoint again."
        )
    if _has_no_checkpoint_yet(target):
        return _start_again(target)
    is_run = target.is_dir() and bool(run_checkpoints(target))
    info = newest_checkpoint(target, without=damaged) if is_run else inspect_checkpoint(target)
    path = Path(info.path)
    training = info.kind == "training"
    fresh = bool(given.get("start_fresh"))
    if training:
        loaded = load_pickled(path, map_location="meta")
        content = as_recorded(loaded, path)
        verb = "only its weights are taken (--start-fresh)" if fresh else "it is continued"
        logger.info(" > %s is a training checkpoint (step %s, epoch %s): %s.", path, info.step, info.epoch, verb)
        recorded, record = content["config"], content.get("xtts_extend") or {}
        if not fresh:
            require_config(loaded, recorded, path)
        return Start(not fresh, path, info, recorded, record, verification=Verification(path))
    logger.info(
        " > %s is a base model (weights only, %d token rows): training starts at step 0.", path, info.vocab_size
    )
    if info.has_optimizer:
        logger.warning(
            " > It holds the state of an optimizer, but step %s and epoch %s: there is no run to continue.",
            info.step,
            info.epoch,
        )
    elif re.fullmatch(r"(checkpoint|best_model)_\d+\.pth", path.name):
        logger.warning(
            " > It is named like a training checkpoint, but its optimizer was stripped: there is no run to continue."
        )
    return Start(False, path, info, {}, {})


def _has_no_checkpoint_yet(target: Path) -> bool:
    """Whether this is the folder of a run that ended before its first checkpoint."""
    config = target / "config.json"
    return config.is_file() and not run_checkpoints(target) and bool(read_json(config).get("started_from"))


def _start_again(run: Path) -> Start:
    """Start the run of a folder again, with the settings and from the weights that it recorded."""
    start = start_from(Path(read_json(run / "config.json")["started_from"]))
    logger.info(" > %s holds no checkpoint: its run starts again, from %s.", run, start.path)
    return replace(start, recorded=read_json(run / "config.json"), run_folder=run.absolute())


def start_from(file: Path) -> Start:
    """The start of a run from the weights of a file, whatever else the file holds.

    Raises:
        CheckpointError: it is no sound checkpoint.
    """
    info = inspect_checkpoint(file, verify=True)
    content = as_recorded(load_pickled(file, map_location="meta"), file) if info.kind == "training" else {}
    return Start(False, Path(info.path), info, content.get("config", {}), content.get("xtts_extend") or {})


def build_config(
    given: Mapping[str, Any], overrides: Sequence[str], start: Start, processes: int = 1
) -> NewLanguageConfig:
    """The run's configuration: defaults, then the base's or the recorded values, then flags, then overrides.

    Args:
        given: the flags that were given.
        overrides: `--coqpit.KEY=VALUE`.
        start: what the path is.
        processes: how many train together. A resume keeps the batch of all of them together.

    Raises:
        ConfigError: values contradict each other or the files, or something needed is missing.
        DataError: the voice of a test sentence cannot be read.
        LanguageError: the language has no tag in the vocabulary.
    """
    config = NewLanguageConfig()
    if start.resume or start.run_folder:
        take_recorded(config, start.recorded)
        own_vocabulary = (start.run_folder or start.path.parent) / "vocab.json"
        if own_vocabulary.is_file():
            config.model_args.tokenizer_file = str(own_vocabulary)
        # the trainer restores them; the stock Trainer records paths here
        config.model_args.xtts_checkpoint = config.model_args.gpt_checkpoint = ""
    if start.resume:
        # they were asked for another start
        config.checkpoint_vocab, config.on_vocab_change = "", "stop"
        if start.info.written_by == "coqui":
            # where new folders are made: beside its own, not where stock's record says; a file without its run
            # folder (stock's has a config.json) has no place beside it
            folder = start.path.absolute().parent
            beside = (folder / "config.json").is_file()
            config.output_path = str(folder.parent) if beside else NewLanguageConfig().output_path
            said = "grad_accum_steps" in given or any(
                item.startswith("--coqpit.grad_accum_steps") for item in overrides
            )
            if "grad_accum_steps" not in start.recorded and not said:
                config.grad_accum_steps = _counted_accumulation(start)
    base_dir = Path(given.get("base_dir") or config.base_dir or "").expanduser().absolute()
    if not given.get("base_dir") and not config.base_dir:
        raise ConfigError(
            "--base-dir is missing: DVAE and mel statistics are read from there. Give the folder of the base model."
        )
    if not start.resume:
        config.started_from, config.started_from_digest = str(start.path.absolute()), ""
        take_architecture(config, read_json(base_dir / "config.json"))
    use_base(config, base_dir)
    if start.resume:
        before = start.record.get("processes", 1)
        config.batch_size = _batch_of_one(config.batch_size * before, processes)
        if config.batch_frames:
            config.batch_frames = _batch_of_one(config.batch_frames * before, processes)
    elif not start.run_folder:
        config.mixed_precision, config.precision = has_bf16(), "bf16" if has_bf16() else "fp16"
        config.num_loader_workers = config.num_eval_loader_workers = loader_workers()
    apply_flags(config, dict(given), overrides)
    if not start.resume:
        config.started_from_vocab = config.checkpoint_vocab
    if not config.language:
        raise ConfigError("--language is missing: give the code of the language to learn, as in its vocabulary tag.")
    validate_code(config.language)
    config.train_manifests = [_absolute(spec) for spec in config.train_manifests]
    config.val_manifests = [_absolute(spec) for spec in config.val_manifests]
    config.replay = [_absolute(spec) for spec in config.replay]
    if given.get("replay_share") and not config.replay:
        raise ConfigError("--replay-share is set, and there is nothing to replay: give --replay a set or a manifest.")
    if not config.train_manifests:
        raise ConfigError("--train-manifest is missing: give at least one manifest.")
    _require_fit(config, start)
    _require_sense(config)
    tokenizer = load_tokenizer(Path(config.model_args.tokenizer_file))
    for language in (config.language, *(sentence["language"] for sentence in config.test_sentences)):
        require_tag(tokenizer, language)
    if start.info.kind == "base":
        start_vocabularies(config, start.path, start.info.vocab_size)
    for sentence in config.test_sentences:
        voice = sentence["speaker_wav"]
        sentence["speaker_wav"] = [*map(_absolute, voice)] if isinstance(voice, list) else _absolute(voice)
        for file in recordings(sentence):
            load_audio(file, REFERENCE_RATE)
    if config.language not in config.languages:
        config.languages = [*config.languages, config.language]
    if not torch.cuda.is_available():
        if config.mixed_precision and config.precision == "fp16":
            raise ConfigError("--amp fp16 needs a GPU, and none is visible. Use --amp bf16 or none.")
        if config.use_grad_scaler:
            raise ConfigError("use_grad_scaler needs a GPU, and none is visible. Set --coqpit.use_grad_scaler=false.")
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            f"{torch.cuda.device_count()} GPUs are visible, and a process uses one. Choose it with "
            "CUDA_VISIBLE_DEVICES=0 before the command, or use all with torchrun --nproc_per_node "
            f"{torch.cuda.device_count()} in the place of python."
        )
    return config


def _counted_accumulation(start: Start) -> int:
    """Batches per update of a run that did not record it.

    Raises:
        ConfigError: its counters do not tell.
    """
    accumulated, counted = accumulation_of(as_recorded(load_checkpoint(start.path)[0], start.path))
    if accumulated:
        return accumulated
    raise ConfigError(
        f"{start.path} does not record how many batches were accumulated for an update ({counted}). Give "
        "--grad-accum-steps as it was: the grad_accum_steps of its TrainerArgs, 1 if there were none."
    )


def _batch_of_one(total: int, processes: int) -> int:
    """Samples per batch and process, so that the batch of all processes together stays as it was."""
    if total % processes:
        raise ConfigError(
            f"The run's batches have {total} samples, which {processes} processes cannot share evenly. "
            f"Start a number of processes that divides {total}."
        )
    return total // processes


def _absolute(spec: str) -> str:
    """A path (or a manifest's PATH:LANG) that a resume finds from another working directory."""
    return str(Path(spec).expanduser().absolute())


def _require_fit(config: NewLanguageConfig, start: Start) -> None:
    """The configuration's sizes against those of the weights, before a model is built from them."""
    model_args, found = config.model_args, start.info.architecture
    for name, stated, actual in (
        ("gpt_layers", model_args.gpt_layers, found.layers),
        ("gpt_n_model_channels", model_args.gpt_n_model_channels, found.channels),
    ):
        if stated != actual:
            raise ConfigError(
                f"config.json says {name} = {stated}, and {start.path} has {actual}. "
                "Take the config.json that belongs to these weights."
            )
    if model_args.gpt_n_heads < 1 or found.channels % model_args.gpt_n_heads:
        raise ConfigError(
            f"gpt_n_heads = {model_args.gpt_n_heads} does not divide gpt_n_model_channels = {found.channels}. "
            "Take the config.json that belongs to these weights."
        )


def _require_sense(config: NewLanguageConfig) -> None:
    """What overrides can set to anything is tried before data and weights are read."""
    try:
        optimizer = get_optimizer(
            config.optimizer, config.optimizer_params, config.lr, parameters=iter([torch.nn.Parameter(torch.zeros(1))])
        )
        get_scheduler(config.lr_scheduler, config.lr_scheduler_params, optimizer)
    except (AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"The optimizer {config.optimizer} {config.optimizer_params} with the schedule {config.lr_scheduler} "
            f"{config.lr_scheduler_params} cannot be made: {error}. Names and parameters are those of torch.optim."
        ) from error
    if config.dashboard_logger not in DASHBOARDS:
        raise ConfigError(f"dashboard_logger is {config.dashboard_logger!r}; one of {', '.join(DASHBOARDS)} is known.")
    for key in ("sample_rate", "dvae_sample_rate", "output_sample_rate"):
        if getattr(config.audio, key) < 1:
            raise ConfigError(
                f"audio.{key} is {getattr(config.audio, key)}; leave it as the base's config.json has it."
            )
    for sentence in config.test_sentences:
        if not isinstance(sentence, dict) or not {"text", "language", "speaker_wav"} <= sentence.keys():
            raise ConfigError(
                f"A test sentence is {sentence!r}; an object with text, language, speaker_wav is expected."
            )


def build_model(config: NewLanguageConfig) -> ExtendedGPTTrainer:
    """The network for this configuration and vocabulary, with the base's DVAE and mel statistics.

    Raises:
        CheckpointError: DVAE or mel statistics do not fit.
    """
    require_codec(config)
    return ExtendedGPTTrainer(config)


def load_base(
    model: ExtendedGPTTrainer, config: NewLanguageConfig, start: Start, migration: Migration | None = None
) -> None:
    """Load weights into the network, give new tokens their rows, and freeze the old ones if configured.

    Args:
        model, config, start: of the run.
        migration: of a training checkpoint whose weights are taken; None for a base model.

    Raises:
        CheckpointError: weights and base vocabulary do not belong together.
        VocabularyError: the vocabulary does not extend the base's.
    """
    weights, base_rows = start_weights(config, start, migration)
    model.load_base(weights, base_rows)
    if config.freeze_base_rows:
        model.freeze_base_rows()


def start_weights(
    config: NewLanguageConfig, start: Start, migration: Migration | None = None
) -> tuple[dict[str, Tensor], int]:
    """What a run starts from, with rows for its new tokens: weights of `Xtts`, and how many rows are the base's.

    Raises:
        CheckpointError, VocabularyError: as `load_base`.
    """
    content, info = load_checkpoint(start.path)
    weights = merged_weights(content)
    if migration:
        weights = migration.weights(weights, "gpt.")
        return weights, migration.base_rows or weights["gpt.text_embedding.weight"].shape[0]
    old, vocabulary = start_vocabularies(config, start.path, start.info.vocab_size)
    if vocabulary.size > info.vocab_size:
        spellings = romanized_spellings(old, vocabulary) if config.init == "romanized" else {}
        weights = extend_token_tensors(weights, vocabulary.size, config.init, spellings, config.training_seed)
    return weights, info.vocab_size


def freeze_if_base_rows_are_old(
    model: ExtendedGPTTrainer, config: NewLanguageConfig, start: Start, migration: Migration | None
) -> None:
    """A run of the stock Trainer trains all rows; freeze its old ones only if they still equal the base's."""
    if start.info.written_by != "coqui":
        return
    config.freeze_base_rows = False
    base_file = Path(config.base_dir) / "model.pth"
    if not base_file.is_file():
        logger.info(" > no model.pth in %s to compare old rows with: all rows are trained.", config.base_dir)
        return
    base = merged_weights(load_checkpoint(base_file)[0])
    rows = base["gpt.text_embedding.weight"].shape[0]
    digests = row_digests(base, rows)
    saved = xtts_weights(load_checkpoint(start.path)[0]["model"])
    if migration:
        saved = migration.weights(saved, "gpt.")
    if rows < model.vocab_size and row_digests(saved, rows) == digests:
        model.base_rows, model.base_digests = rows, digests
        model.freeze_base_rows()
        config.freeze_base_rows = True
