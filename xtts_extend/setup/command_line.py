"""Build the command line that reproduces a recorded configuration: the inverse of `flags.apply_flags`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from coqpit import Coqpit

from xtts_extend.errors import ConfigError
from xtts_extend.run.config import (
    ABSENT,
    NewLanguageConfig,
    apply_override,
    copy_architecture,
    copy_recorded,
    lookup,
    read_json,
)
from xtts_extend.setup.flags import NOT_CONFIG, RENAMED, apply_flags, make_parser, parse_flags
from xtts_extend.setup.hardware import loader_workers

#: Keys that are not carried over to a new run: the source of its weights, and values set by the base and vocabulary.
NOT_CARRIED = frozenset(
    {
        "base_dir", "checkpoint_vocab", "on_vocab_change", "started_from", "started_from_vocab", "started_from_digest",
        "languages", "datasets", "run_description", "model_args.tokenizer_file", "model_args.dvae_checkpoint",
        "model_args.mel_norm_file", "model_args.gpt_checkpoint", "model_args.xtts_checkpoint",
        "model_args.gpt_number_text_tokens", "model_args.gpt_start_text_token", "model_args.gpt_stop_text_token",
        "model_args.num_chars",
    }
)  # fmt: skip


def flags_of_run(recorded: Mapping[str, object], base_dir: Path) -> tuple[list[str], list[str]]:
    """Return the flags, other than `--base-dir` and `--vocab`, that reproduce a recorded run's values in a new run.

    Args:
        recorded: Configuration from a checkpoint or a run's `config.json`. Missing keys keep their defaults.
        base_dir: Base directory of the new run.

    Returns:
        The flags for all values that differ from the defaults (`--coqpit.KEY=VALUE` for keys without a flag), and the
        keys whose recorded values cannot be expressed as overrides.
    """
    current, wanted = _defaults(base_dir), _defaults(base_dir)
    copy_recorded(wanted, recorded)
    arguments: list[str] = []
    covered: set[str] = set()
    for action in make_parser()._actions:
        key = RENAMED.get(action.dest, action.dest)
        value = lookup(wanted, key)
        if action.dest in NOT_CONFIG or key in NOT_CARRIED or value in (None, ABSENT):
            continue
        # A new run's default for `voice` depends on its tokens, so a recorded value is always passed.
        if value == lookup(current, key) and not (key == "voice" and "voice" in recorded):
            continue
        # apply_flags rejects --batch-size with --batch-frames, and --replay-share without --replay.
        if (key == "batch_size" and wanted.batch_frames is not None) or (key == "replay_share" and not wanted.replay):
            continue
        if parts := _format_flag(action, value):
            arguments += parts
            covered.add(key)
    iterations = int((wanted.lr_scheduler_params or {}).get("total_iters") or 0)
    warmup_params = {"start_factor": 1e-3, "total_iters": iterations}
    if wanted.lr_scheduler_params == warmup_params and wanted.lr_scheduler == "LinearLR":
        arguments += ["--warmup-steps", str(iterations * wanted.grad_accum_steps)]
    # The default of --amp depends on the hardware.
    if "mixed_precision" in recorded:
        arguments += ["--amp", wanted.precision if wanted.mixed_precision else "none"]
    apply_flags(current, parse_flags(arguments))
    inexpressible = []
    for key, value in _leaves(wanted):
        before = lookup(current, key)
        # In a configuration, None means that a value was not set.
        if key in NOT_CARRIED or key in covered or value == before or value is None:
            continue
        # For TensorBoard, this is the recorded run's own folder; for other dashboards, it is a server.
        if key == "logger_uri" and wanted.dashboard_logger == "tensorboard":
            continue
        override = f"--coqpit.{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        try:
            apply_override(current, override)
            arguments.append(override)
        except ConfigError:
            inexpressible.append(key)
    return arguments, inexpressible


def _defaults(base_dir: Path) -> NewLanguageConfig:
    """Return the configuration that `resolve_config` would build for a new run without flags."""
    config = NewLanguageConfig()
    if (base_dir / "config.json").is_file():
        copy_architecture(config, read_json(base_dir / "config.json"))
    config.num_loader_workers = config.num_eval_loader_workers = loader_workers()
    return config


def _format_flag(action: argparse.Action, value: object) -> list[str]:
    """Return a flag and its value as arguments, or no arguments if the flag cannot express the value."""
    (option, *_) = action.option_strings
    if action.nargs == 0:
        return [option] if value == action.const else []
    parts = []
    for item in value if isinstance(value, list) else [value]:
        text = _text(item)
        try:
            parsed = action.type(text) if callable(action.type) else text
        except (argparse.ArgumentTypeError, ValueError):
            return []
        if parsed != item or text.startswith("-"):
            return []
        parts += [option, text]
    return parts


def _text(value: object) -> str:
    """Return a value in the syntax of its flag; see the types in `flags.make_parser`."""
    if isinstance(value, Mapping) and {"text", "language", "speaker_wav"} <= value.keys():
        return f"{value['language']}:{value['speaker_wav']}:{value['text']}"
    if isinstance(value, Mapping):
        return ",".join(f"{language}={weight}" for language, weight in value.items())
    return str(value)


def _leaves(config: Coqpit, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted keys and values of a configuration. Lists and dicts count as values."""
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Coqpit):
            yield from _leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value
