"""Build a run's configuration from defaults, the base's or the recorded values, flags and overrides, in that order."""

from __future__ import annotations

from pathlib import Path

from xtts_extend.data.source_spec import is_remote
from xtts_extend.errors import ConfigError
from xtts_extend.run.config import NewLanguageConfig, copy_architecture, copy_recorded, read_json
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.setup.base import use_base
from xtts_extend.setup.flags import Flags, apply_flags
from xtts_extend.setup.hardware import has_bf16, loader_workers
from xtts_extend.setup.start import Mode, Start
from xtts_extend.text.vocabulary import load_vocabulary


def resolve_config(flags: Flags, start: Start, processes: int = 1) -> NewLanguageConfig:
    """Return a run's configuration. Its values are checked later, by `validate_config`.

    Args:
        flags: The parsed command line.
        start: The checkpoint that the run starts or resumes from.
        processes: Number of processes that train together. A resumed run keeps its total batch size.

    Raises:
        ConfigError: Flags contradict each other, or a required one is missing.
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
        # The stock Trainer records paths here, but we load weights ourselves.
        config.model_args.xtts_checkpoint = config.model_args.gpt_checkpoint = ""
    folder = flags.base_dir or config.base_dir
    if not folder and flags.values.get("start_from"):
        folder = str(start.path.parent)
    if not folder:
        raise ConfigError(
            "--base-dir is missing. Pass the base model's folder, which contains the DVAE and the mel statistics."
        )
    base_dir = Path(folder).expanduser().absolute()
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
    """Copy a checkpoint's recorded values, and fill in what the stock Trainer does not record."""
    copy_recorded(config, checkpoint.config)
    # These flags applied when the run started, not when it is resumed.
    config.checkpoint_vocab, config.on_vocab_change = "", "stop"
    if checkpoint.record is not None:
        return
    # The recorded path may belong to another machine, so new run folders go next to the stock one. If there is no
    # config.json, the file was moved out of its run folder, and the default applies.
    folder = checkpoint.path.absolute().parent
    is_run_folder = (folder / "config.json").is_file()
    config.output_path = str(folder.parent) if is_run_folder else NewLanguageConfig.output_path
    if "grad_accum_steps" not in checkpoint.config and not _is_given(flags, "grad_accum_steps"):
        config.grad_accum_steps = _counted_accumulation(checkpoint)


def _is_given(flags: Flags, key: str) -> bool:
    """Return whether a flag or an override sets a configuration value."""
    return key in flags.values or any(item.startswith(f"--coqpit.{key}=") for item in flags.overrides)


def _default_voice(config: NewLanguageConfig, start: Start) -> str:
    """Return the default of `--voice` for a new run: frozen with new tokens or an adapter, otherwise trained.

    A token is new if the base lacks it, even if the run starts from weights that already have it.
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
    """Return the number of batches per optimizer step for a run that did not record it.

    Raises:
        ConfigError: The run's counters do not determine the number.
    """
    accumulated, evidence = checkpoint.accumulation
    if accumulated:
        return accumulated
    raise ConfigError(
        f"{checkpoint.path} does not record how many batches made up an optimizer step ({evidence}). Use "
        "--grad-accum-steps to pass the value from the run: grad_accum_steps in its TrainerArgs, or 1 if that was not "
        "set."
    )


def _batch_per_process(total: int, processes: int) -> int:
    """Return the batch size per process that keeps the total across all processes unchanged."""
    if total % processes:
        raise ConfigError(
            f"The run's total batch size of {total} is not divisible by {processes}, the number of processes. Use a "
            f"number of processes that divides {total} evenly."
        )
    return total // processes


def _absolute(spec: object) -> str:
    """Make a path (or a manifest's PATH:LANG) absolute, so that it is found from any working directory."""
    if is_remote(str(spec)):
        return str(spec)
    return str(Path(str(spec)).expanduser().absolute())
