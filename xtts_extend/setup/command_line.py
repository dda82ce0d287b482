"""The command line that gives a recorded configuration again: the inverse of `flags.apply_flags`."""

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

#: What belongs to a start itself: where from, and what follows from the base and the vocabulary.
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
    """What has to follow the recipe's `--base-dir` and `--vocab`, so that a new run has the values of a recorded one.

    Args:
        recorded: the configuration in a checkpoint or a run's `config.json`; keys that it lacks keep their defaults.
        base_dir: of the new run.

    Returns:
        Flags, and where there is none `--coqpit.KEY=VALUE`, of the values that are not the defaults; and the keys whose
        recorded value no override can express.
    """
    now, wanted = _defaults(base_dir), _defaults(base_dir)
    copy_recorded(wanted, recorded)
    given: list[str] = []
    said: set[str] = set()
    for action in make_parser()._actions:
        key = RENAMED.get(action.dest, action.dest)
        value = lookup(wanted, key)
        if action.dest in NOT_CONFIG or key in NOT_CARRIED or value in (None, ABSENT):
            continue
        # the default of a start depends on its tokens
        if value == lookup(now, key) and not (key == "voice" and "voice" in recorded):
            continue
        # flags that exclude each other, or need each other
        if (key == "batch_size" and wanted.batch_frames is not None) or (key == "replay_share" and not wanted.replay):
            continue
        if parts := _format_flag(action, value):
            given += parts
            said.add(key)
    moves = int((wanted.lr_scheduler_params or {}).get("total_iters") or 0)
    if wanted.lr_scheduler_params == {"start_factor": 1e-3, "total_iters": moves} and wanted.lr_scheduler == "LinearLR":
        given += ["--warmup-steps", str(moves * wanted.grad_accum_steps)]
    # its default depends on the hardware
    if "mixed_precision" in recorded:
        given += ["--amp", wanted.precision if wanted.mixed_precision else "none"]
    apply_flags(now, parse_flags(given))
    left_out = []
    for key, value in _leaves(wanted):
        before = lookup(now, key)
        # None is how a configuration says that a value was not set
        if key in NOT_CARRIED or key in said or value == before or value is None:
            continue
        # the folder of the recorded run's own curves; of other dashboards it is a server
        if key == "logger_uri" and wanted.dashboard_logger == "tensorboard":
            continue
        override = f"--coqpit.{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        try:
            apply_override(now, override)
            given.append(override)
        except ConfigError:
            left_out.append(key)
    return given, left_out


def _defaults(base_dir: Path) -> NewLanguageConfig:
    """The configuration of a new run of which nothing is said, as `resolve_config` makes it."""
    config = NewLanguageConfig()
    if (base_dir / "config.json").is_file():
        copy_architecture(config, read_json(base_dir / "config.json"))
    config.num_loader_workers = config.num_eval_loader_workers = loader_workers()
    return config


def _format_flag(action: argparse.Action, value: object) -> list[str]:
    """A flag with its value; nothing where the flag cannot say this value."""
    (option, *_) = action.option_strings
    if action.nargs == 0:
        return [option] if value == action.const else []
    parts = []
    for item in value if isinstance(value, list) else [value]:
        text = _text(item)
        try:
            means = action.type(text) if callable(action.type) else text
        except (argparse.ArgumentTypeError, ValueError):
            return []
        if means != item or text.startswith("-"):
            return []
        parts += [option, text]
    return parts


def _text(value: object) -> str:
    """A value as its flag reads it; see the flags' types in `arguments`."""
    if isinstance(value, Mapping) and {"text", "language", "speaker_wav"} <= value.keys():
        return f"{value['language']}:{value['speaker_wav']}:{value['text']}"
    if isinstance(value, Mapping):
        return ",".join(f"{language}={weight}" for language, weight in value.items())
    return str(value)


def _leaves(config: Coqpit, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values of a configuration; a list or a dict is a value."""
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Coqpit):
            yield from _leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value
