"""The configuration of a run: what the base says, what an earlier run recorded, flags, and `--coqpit.KEY=VALUE`.

Later ones win, in this order: our defaults, the base's `config.json` (architecture, audio, languages), the values that
a checkpoint recorded, flags, overrides.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from coqpit import Coqpit

from xtts_extend.errors import ConfigError
from xtts_extend.model.coqui_trainer import GPTTrainerConfig


@dataclass
class NewLanguageConfig(GPTTrainerConfig):  # type: ignore[explicit-any]  # of the base, which ships no types
    """coqui's `GPTTrainerConfig` and what a new language needs beside it; saved as the run's `config.json`."""

    language: str = field(default="", metadata={"help": "Code of the language to learn."})
    base_dir: str = field(default="", metadata={"help": "Folder with the base model's files."})
    train_manifests: list[str] = field(default_factory=list, metadata={"help": "PATH or PATH:LANG each."})
    val_manifests: list[str] = field(default_factory=list, metadata={"help": "PATH or PATH:LANG each."})
    manifest_format: str = field(default="auto", metadata={"help": "auto, or a formatter registered with coqui."})
    columns: dict[str, str] = field(default_factory=dict, metadata={"help": "Role → column of the manifests."})
    language_weights: dict[str, float] = field(default_factory=dict, metadata={"help": "Shares of audio hours."})
    codes: str = field(default="", metadata={"help": "Set of codes that encode made, or is to be made."})
    max_bad_share: float = field(default=0.01, metadata={"help": "Stop when more of the samples are unusable."})
    replay: list[str] = field(default_factory=list, metadata={"help": "Sets or manifests of languages to keep."})
    replay_share: float = field(default=0.25, metadata={"help": "Share of replay among the samples, if there is any."})
    distill_weight: float = field(default=1.0, metadata={"help": "Of the divergence from the base on replay."})
    adapter: str = field(default="none", metadata={"help": "none, or lora: the transformer itself is not trained."})
    adapter_rank: int = field(default=16, metadata={"help": "Rank of the adapter's matrices."})
    # what older runs recorded and resume with; no flag sets them, and the next release removes them (`OF_OLDER_RUNS`)
    l2_sp: float = field(default=0.0, metadata={"help": "Of older runs: pull of the weights towards the base's."})
    layer_decay: float = field(default=1.0, metadata={"help": "Of older runs: rate of a layer by the one above's."})
    new_row_learning_rate: float | None = field(default=None, metadata={"help": "Of older runs: of new tokens' rows."})
    min_retention: float | None = field(default=None, metadata={"help": "The best model keeps old languages so well."})
    patience: int | None = field(default=None, metadata={"help": "Evaluations without a better model before the end."})
    init: str = field(default="romanized", metadata={"help": "Start of the new rows."})
    freeze_base_rows: bool = field(default=True, metadata={"help": "Keep the rows of old tokens as they are."})
    voice: str = field(default="trained", metadata={"help": "frozen, or trained: what makes a voice of recordings."})
    batch_frames: int | None = field(default=None, metadata={"help": "Budget of a batch instead of a count; 0: auto."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Compute again instead of keeping."})
    compile: bool = field(default=False, metadata={"help": "Compile the transformer's layers with torch.compile."})
    grad_accum_steps: int = field(default=64, metadata={"help": "Batches per optimizer step."})
    max_steps: int | None = field(default=None, metadata={"help": "Stop after this many batches."})
    max_minutes: float | None = field(default=None, metadata={"help": "Save and stop before so many minutes are over."})
    checkpoint_vocab: str = field(default="", metadata={"help": "Vocabulary of the checkpoint, where it has none."})
    on_vocab_change: str = field(default="stop", metadata={"help": "stop, or migrate: every row follows its token."})
    started_from: str = field(default="", metadata={"help": "File whose weights the run started from."})
    started_from_vocab: str = field(default="", metadata={"help": "Vocabulary of that file, if one was named."})
    start_from: str = field(default="", metadata={"help": "FOLDER:LANG of the language pack to start from."})
    started_from_digest: str = field(default="", metadata={"help": "SHA-256 of that file, if it is compared with."})
    # what is known to work for XTTS, from coqui's own recipe
    lr: float = 5e-6
    optimizer: str = "AdamW"
    optimizer_params: dict[str, object] = field(
        default_factory=lambda: {"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2}
    )
    optimizer_wd_only_on_weights: bool = True
    lr_scheduler: str | None = None
    scheduler_after_epoch: bool = False
    batch_size: int = 4
    eval_batch_size: int = 4
    epochs: int = 1000
    save_step: int = 1000
    save_n_checkpoints: int = 3
    print_step: int = 25
    plot_step: int = 25
    output_path: str = "runs"
    run_name: str = "xtts"
    run_description: str = "XTTS learns a new language"


#: Settings that lost in our measurements or never had one (docs/log.md): only a run that recorded a value has it.
OF_OLDER_RUNS = ("l2_sp", "layer_decay", "new_row_learning_rate")
#: What the saved optimizer and schedule depend on: it cannot change within a run. Names as in the configuration.
FIXED_FOR_THE_RUN = (
    "freeze_base_rows",
    "voice",
    "optimizer",
    "optimizer_wd_only_on_weights",
    "lr_scheduler",
    "lr_scheduler_params",
    "adapter",
    "adapter_rank",
)
#: What makes a run another run when it changes between a checkpoint and its resume.
DEFINES_THE_RUN = (
    "language",
    "batch_size",
    "batch_frames",
    "grad_accum_steps",
    "training_seed",
    "language_weights",
    "mixed_precision",
    "precision",
    "lr",
    "optimizer_params",
    "grad_clip",
    "replay_share",
    "distill_weight",
    *OF_OLDER_RUNS,
    "model_args.gpt_loss_text_ce_weight",
    "model_args.gpt_loss_mel_ce_weight",
    "model_args.max_wav_length",
    "model_args.max_text_length",
    "model_args.min_conditioning_length",
    "model_args.max_conditioning_length",
)


#: What a run that recorded nothing of it trained with: the defaults.
_NEVER_WITHOUT = (
    "voice",
    "batch_frames",
    "adapter",
    "replay_share",
    "distill_weight",
    *OF_OLDER_RUNS,
)


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist. A base directory has a config.json; check --base-dir.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON in UTF-8: {error}. Take the file that came with the model.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}; a JSON object was expected.")
    return content


#: How a model speaks and takes up a voice: an exported model speaks with the base's settings.
SAMPLING = (
    "temperature",
    "length_penalty",
    "repetition_penalty",
    "top_k",
    "top_p",
    "num_gpt_outputs",
    "gpt_cond_len",
    "gpt_cond_chunk_len",
    "max_ref_len",
    "sound_norm_refs",
)


def copy_architecture(config: NewLanguageConfig, base: Mapping[str, object]) -> None:
    """Copy architecture, audio, languages and sampling of a base's configuration; not its training values.

    Raises:
        ConfigError: the architecture is not there.
    """
    model_args = base.get("model_args")
    if not isinstance(model_args, Mapping) or "gpt_layers" not in model_args:
        raise ConfigError(
            "The base's config.json has no 'model_args' with 'gpt_layers'. Take the config.json of an XTTS model."
        )
    # paths of other machines, and values that the vocabulary decides
    skipped = {"tokenizer_file", "gpt_checkpoint", "gpt_number_text_tokens", "mel_norm_file", "dvae_checkpoint"}
    audio = base.get("audio")
    for part, values in ((config.model_args, model_args), (config.audio, audio if isinstance(audio, Mapping) else {})):
        known = {item.name for item in fields(part)}
        for key in known & set(values) - skipped:
            if values[key] is not None:
                setattr(part, key, values[key])
    for key in SAMPLING:
        if base.get(key) is not None:
            setattr(config, key, base[key])
    languages = base.get("languages")
    config.languages = list(languages) if isinstance(languages, list) and languages else list(config.languages)


def copy_recorded(config: Coqpit, recorded: Mapping[str, object]) -> None:
    """Copy the values that a checkpoint recorded; keys that this version does not know are left alone."""
    for item in fields(config):
        if item.name not in recorded:
            continue
        current, value = getattr(config, item.name), recorded[item.name]
        if isinstance(current, Coqpit) and isinstance(value, Mapping):
            copy_recorded(current, value)
        elif item.name != "datasets":
            setattr(config, item.name, value)


def recordings(sentence: Mapping[str, object]) -> list[str]:
    """The recordings of the voice that speaks a test sentence: coqui's `speaker_wav` is one path or several."""
    voice = sentence["speaker_wav"]
    return list(voice) if isinstance(voice, list) else [str(voice)]


def apply_override(config: Coqpit, override: str) -> str:
    """Apply one `--coqpit.KEY=VALUE`; KEY may lead into nested configurations, dicts and lists.

    VALUE is read as JSON (`true`, `null`, `5e-6`, `[1, 2]`) and as plain text otherwise.

    Returns:
        The KEY.

    Raises:
        ConfigError: there is no such key, or the value has another type.
    """
    key, separator, text = override.removeprefix("--coqpit.").partition("=")
    if not separator:
        raise ConfigError(f"{override} has no value; write --coqpit.KEY=VALUE.")
    *parents, last = key.split(".")
    target: object = config
    try:
        for name in parents:
            target = getattr(target, name) if isinstance(target, Coqpit) else _item(target, name)
        current = getattr(target, last) if isinstance(target, Coqpit) else _item(target, last, may_be_new=True)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"--coqpit.{key}: the configuration has no such key. Check the spelling.") from error
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        value = text
    if isinstance(target, Coqpit):
        expected = typing.get_type_hints(type(target))[last]
        value = _coerce(value, text, expected, key)
        setattr(target, last, value)
    elif isinstance(target, list):
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = _coerce(value, text, type(current), key) if current is not None else value
    return key


def _item(container: object, name: str, may_be_new: bool = False) -> object:
    if isinstance(container, list):
        return container[int(name)]
    if isinstance(container, dict):
        return container.get(name) if may_be_new else container[name]
    raise TypeError(f"{type(container).__name__} has no items")


def _coerce(value: object, text: str, expected: object, key: str) -> object:
    """`value` if it has the expected type, with the conversions that lose nothing (1 → 1.0, anything → text)."""
    kinds = typing.get_args(expected) if typing.get_origin(expected) in (typing.Union, types.UnionType) else (expected,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if any(isinstance(kind, type) and type(value) is kind for kind in kinds):
        return value
    if float in kinds and type(value) is int:
        return float(value)
    if str in kinds:
        return text
    names = " or ".join(kind.__name__ for kind in kinds)
    raise ConfigError(f"--coqpit.{key}={text}: {names.replace('NoneType', 'null')} was expected.")


#: What `lookup` gives for a key that is not there.
ABSENT = object()


def lookup(values: object, key: str) -> object:
    """The value under a dotted key of a configuration or of its recorded dict; `ABSENT` when it is not there."""
    for name in key.split("."):
        values = values.get(name, ABSENT) if isinstance(values, Mapping) else getattr(values, name, ABSENT)
    return values


def changes(recorded: Mapping[str, object], config: Coqpit, keys: Sequence[str] = DEFINES_THE_RUN) -> list[str]:
    """What would make a resumed run another run: a line "key: recorded → now" each.

    Keys that are not recorded do not count, but for those of which the default was always meant.
    """
    found = []
    for key in keys:
        before, now = lookup(recorded, key), lookup(config, key)
        if before is ABSENT and key in _NEVER_WITHOUT:
            before = NewLanguageConfig.__dataclass_fields__[key].default
        if before is not ABSENT and before != now:
            found.append(f"{key}: {before} → {now}")
    return found
