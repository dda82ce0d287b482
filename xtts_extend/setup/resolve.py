"""The configuration of a run: our defaults, then the base's or the recorded values, then flags, then overrides."""

from __future__ import annotations

from pathlib import Path

from xtts_extend.errors import ConfigError
from xtts_extend.run.config import NewLanguageConfig, copy_architecture, copy_recorded, read_json
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.setup.base import use_base
from xtts_extend.setup.flags import Flags, apply_flags
from xtts_extend.setup.hardware import has_bf16, loader_workers
from xtts_extend.setup.start import Mode, Start
from xtts_extend.text.vocabulary import load_vocabulary


def resolve_config(flags: Flags, start: Start, processes: int = 1) -> NewLanguageConfig:
    """The values of a run, each from the last place that names it; `validate_config` says whether they make sense.

    Args:
        flags: the command line.
        start: what the path is.
        processes: how many train together. A resume keeps the batch of all of them together.

    Raises:
        ConfigError: flags contradict each other, or something needed is missing.
    """
    config = NewLanguageConfig()
    if start.resumed:
        _apply_recorded(config, start.resumed, flags)
    elif start.run_folder:
        copy_recorded(config, start.settings)
    if start.resumed or start.run_folder:
        own_vocabulary = (start.run_folder or start.path.parent) / "vocab.json"
        if own_vocabulary.is_file():
            config.model_args.tokenizer_file = str(own_vocabulary)
        # weights are loaded by us; the stock Trainer records paths here
        config.model_args.xtts_checkpoint = config.model_args.gpt_checkpoint = ""
    given = flags.base_dir or config.base_dir
    if not given and flags.values.get("start_from"):
        given = str(start.path.parent)
    if not given:
        raise ConfigError(
            "--base-dir is missing: DVAE and mel statistics are read from there. Give the folder of the base model."
        )
    base_dir = Path(given).expanduser().absolute()
    if not start.resumed:
        config.started_from, config.started_from_digest = str(start.path.absolute()), ""
        copy_architecture(config, read_json(base_dir / "config.json"))
    use_base(config, base_dir)
    if start.resumed:
        config.batch_size = _batch_per_process(config.batch_size * start.resumed.processes, processes)
        if config.batch_frames:
            config.batch_frames = _batch_per_process(config.batch_frames * start.resumed.processes, processes)
    elif start.mode is not Mode.START_AGAIN:
        config.mixed_precision, config.precision = has_bf16(), "bf16" if has_bf16() else "fp16"
        config.num_loader_workers = config.num_eval_loader_workers = loader_workers()
    apply_flags(config, flags)
    if not start.resumed:
        config.started_from_vocab = config.checkpoint_vocab
        if not (_is_given(flags, "voice") or "voice" in start.settings):
            config.voice = _default_voice(config, start)
    config.train_manifests = [_absolute(spec) for spec in config.train_manifests]
    config.val_manifests = [_absolute(spec) for spec in config.val_manifests]
    config.replay = [_absolute(spec) for spec in config.replay]
    config.start_from = config.start_from and _absolute(config.start_from)
    for sentence in config.test_sentences:
        voice = sentence.get("speaker_wav") if isinstance(sentence, dict) else None
        if voice is not None:
            sentence["speaker_wav"] = [*map(_absolute, voice)] if isinstance(voice, list) else _absolute(voice)
    if config.language and config.language not in config.languages:
        config.languages = [*config.languages, config.language]
    return config


def _apply_recorded(config: NewLanguageConfig, checkpoint: TrainingCheckpoint, flags: Flags) -> None:
    """The values that the run of a checkpoint recorded, and what a run of the stock Trainer does not record."""
    copy_recorded(config, checkpoint.config)
    # they were asked for another start
    config.checkpoint_vocab, config.on_vocab_change = "", "stop"
    if checkpoint.record is not None:
        return
    # where new folders are made: beside its own, not where stock's record says; a file without its run folder (stock's
    # has a config.json) has no place beside it
    folder = checkpoint.path.absolute().parent
    beside = (folder / "config.json").is_file()
    config.output_path = str(folder.parent) if beside else NewLanguageConfig.output_path
    if "grad_accum_steps" not in checkpoint.config and not _is_given(flags, "grad_accum_steps"):
        config.grad_accum_steps = _counted_accumulation(checkpoint)


def _is_given(flags: Flags, key: str) -> bool:
    """Whether a flag or an override gives a value of the configuration."""
    return key in flags.values or any(item.startswith(f"--coqpit.{key}=") for item in flags.overrides)


def _default_voice(config: NewLanguageConfig, start: Start) -> str:
    """Whether the voice side trains in a run that starts and does not say: not beside new tokens or an adapter.

    New are the tokens that the base does not know, whatever the weights knew of them that the run starts from.
    """
    if config.adapter != "none":
        return "frozen"
    if start.training is None:
        base_rows = start.info.vocab_size
    elif start.training.record is not None:
        base_rows = start.training.record.base_rows.rows
    else:
        base_rows = load_vocabulary(Path(config.base_dir) / "vocab.json", quiet=True).size
    vocabulary = load_vocabulary(config.model_args.tokenizer_file, quiet=True)
    return "frozen" if vocabulary.size > base_rows else "trained"


def _counted_accumulation(checkpoint: TrainingCheckpoint) -> int:
    """Batches per update of a run that did not record it.

    Raises:
        ConfigError: its counters do not tell.
    """
    accumulated, counted = checkpoint.accumulation
    if accumulated:
        return accumulated
    raise ConfigError(
        f"{checkpoint.path} does not record how many batches were accumulated for an update ({counted}). Give "
        "--grad-accum-steps as it was: the grad_accum_steps of its TrainerArgs, 1 if there were none."
    )


def _batch_per_process(total: int, processes: int) -> int:
    """Samples per batch and process, so that the batch of all processes together stays as it was."""
    if total % processes:
        raise ConfigError(
            f"The run's batches have {total} samples, which {processes} processes cannot share evenly. "
            f"Start a number of processes that divides {total}."
        )
    return total // processes


def _absolute(spec: object) -> str:
    """A path (or a manifest's PATH:LANG) that a resume finds from another working directory."""
    return str(Path(str(spec)).expanduser().absolute())
