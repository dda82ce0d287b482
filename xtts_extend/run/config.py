"""The configuration of a run.

Sources, in order of increasing precedence: our defaults, the base's `config.json` (architecture, audio, languages), the
values recorded in a checkpoint, flags, and `--coqpit.KEY=VALUE` overrides.
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
class NewLanguageConfig(GPTTrainerConfig):  # type: ignore[explicit-any]  # The base class ships no types.
    """coqui's `GPTTrainerConfig` with the settings for a new language. It is saved as the run's `config.json`.

    >>> config = NewLanguageConfig(language="am", max_steps=1000)
    >>> config.lr, config.batch_size, config.grad_accum_steps
    (5e-06, 4, 64)
    """

    language: str = field(default="", metadata={"help": "Code of the language to learn."})
    base_dir: str = field(default="", metadata={"help": "Folder with the base model's files."})
    train_manifests: list[str] = field(default_factory=list, metadata={"help": "Training data: PATH or PATH:LANG."})
    val_manifests: list[str] = field(default_factory=list, metadata={"help": "Validation set: PATH or PATH:LANG."})
    manifest_format: str = field(
        default="auto", metadata={"help": "auto, or the name of a formatter registered with coqui."}
    )
    columns: dict[str, str] = field(default_factory=dict, metadata={"help": "Columns of the manifests, by role."})
    language_weights: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Relative share of the audio that each language gets."}
    )
    codes: str = field(default="", metadata={"help": "Folder of cached audio codes to use or create."})
    max_bad_share: float = field(
        default=0.01, metadata={"help": "Stop if more than this share of the samples is unusable."}
    )
    replay: list[str] = field(
        default_factory=list, metadata={"help": "Replay sets, or manifests in languages to keep."}
    )
    replay_share: float = field(
        default=0.25, metadata={"help": "Share of the samples that are replayed, if `replay` is set."}
    )
    distill_weight: float = field(
        default=1.0, metadata={"help": "Weight of the loss that penalizes diverging from the base on replayed samples."}
    )
    adapter: str = field(
        default="none", metadata={"help": "none, or lora, which freezes the transformer's own weights."}
    )
    adapter_rank: int = field(default=16, metadata={"help": "Rank of the adapter's matrices."})
    # These are used only when older runs are resumed (`OF_OLDER_RUNS`). No flag sets them, and the next release removes
    # them.
    l2_sp: float = field(
        default=0.0, metadata={"help": "Older runs only: weight of L2-SP, which pulls weights toward the base."}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "Older runs only: factor by which the learning rate decays per layer."}
    )
    new_row_learning_rate: float | None = field(
        default=None, metadata={"help": "Older runs only: learning rate of new token rows."}
    )
    min_retention: float | None = field(default=None, metadata={"help": "Minimum retention of the best model."})
    patience: int | None = field(default=None, metadata={"help": "Stop after N evaluations without a new best model."})
    init: str = field(default="romanized", metadata={"help": "Initial values of new token rows."})
    freeze_base_rows: bool = field(default=True, metadata={"help": "Freeze the rows of old tokens."})
    voice: str = field(default="trained", metadata={"help": "Whether the voice side is frozen or trained."})
    batch_frames: int | None = field(
        default=None, metadata={"help": "Batch size in frames, which replaces batch_size. 0 means auto."}
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations to save memory."})
    compile: bool = field(default=False, metadata={"help": "Compile the transformer's layers with torch.compile."})
    grad_accum_steps: int = field(default=64, metadata={"help": "Number of batches per optimizer step."})
    max_steps: int | None = field(default=None, metadata={"help": "Stop after this many batches."})
    max_minutes: float | None = field(default=None, metadata={"help": "Save and stop within this many minutes."})
    checkpoint_vocab: str = field(
        default="", metadata={"help": "Vocabulary of a checkpoint that does not record its own."}
    )
    on_vocab_change: str = field(
        default="stop", metadata={"help": "stop, or migrate, which moves rows to their tokens' new ids."}
    )
    started_from: str = field(default="", metadata={"help": "File whose weights the run started from."})
    started_from_vocab: str = field(default="", metadata={"help": "Vocabulary of `started_from`, if one was passed."})
    start_from: str = field(default="", metadata={"help": "FOLDER:LANG of the language pack to start from."})
    started_from_digest: str = field(
        default="", metadata={"help": "SHA-256 of `started_from`, recorded if that file will be needed again."}
    )
    # Values known to work for XTTS, from coqui's own recipe.
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


#: Deprecated settings that did not help in our measurements or were never measured (docs/log.md). Only older runs use
#: them.
OF_OLDER_RUNS = ("l2_sp", "layer_decay", "new_row_learning_rate")
#: Configuration keys that cannot change within a run, because the saved optimizer and schedule depend on them.
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
#: Configuration keys that define a run. Resuming with different values requires `--allow-changes`.
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


#: Configuration keys for which a missing value in an older checkpoint means the default.
_NEVER_WITHOUT = (
    "voice",
    "batch_frames",
    "adapter",
    "replay_share",
    "distill_weight",
    *OF_OLDER_RUNS,
)


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object from a file.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8 or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist. Check --base-dir. A base directory contains a config.json."
        ) from error
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is not a JSON file in UTF-8: {error}. Use the file that came with the model."
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


#: Configuration keys for inference. An exported model copies their values from its base.
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
    """Copy a base's architecture, audio, language and inference settings, but not its training values.

    Args:
        config: Configuration to write to.
        base: Content of the base's `config.json`.

    Raises:
        ConfigError: The base's configuration has no architecture.
    """
    model_args = base.get("model_args")
    if not isinstance(model_args, Mapping) or "gpt_layers" not in model_args:
        raise ConfigError(
            "The base's config.json has no 'model_args' with 'gpt_layers'. Use the config.json of an XTTS model."
        )
    # These are paths on another machine, and a value that depends on the vocabulary.
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
    """Copy the values that a checkpoint recorded. Unknown keys are ignored."""
    for item in fields(config):
        if item.name not in recorded:
            continue
        current, value = getattr(config, item.name), recorded[item.name]
        if isinstance(current, Coqpit) and isinstance(value, Mapping):
            copy_recorded(current, value)
        elif item.name != "datasets":
            setattr(config, item.name, value)


def recordings(sentence: Mapping[str, object]) -> list[str]:
    """Return the recordings of a test sentence's voice. coqui's `speaker_wav` is a single path or a list of paths."""
    voice = sentence["speaker_wav"]
    return list(voice) if isinstance(voice, list) else [str(voice)]


def apply_override(config: Coqpit, override: str) -> str:
    """Apply one `--coqpit.KEY=VALUE`. Dots in KEY select entries of nested configurations, dicts and lists.

    VALUE is parsed as JSON (`true`, `null`, `5e-6`, `[1, 2]`), or treated as text if it is not JSON.

    >>> config = NewLanguageConfig()
    >>> apply_override(config, "--coqpit.optimizer_params.betas.1=0.999")
    'optimizer_params.betas.1'
    >>> config.optimizer_params["betas"]
    [0.9, 0.999]

    Returns:
        The KEY.

    Raises:
        ConfigError: The key does not exist, or the value has the wrong type.
    """
    key, separator, text = override.removeprefix("--coqpit.").partition("=")
    if not separator:
        raise ConfigError(f"{override} has no value. Write --coqpit.KEY=VALUE.")
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
    """Return the value converted to the expected type, if no information is lost (1 → 1.0, anything → text)."""
    kinds = typing.get_args(expected) if typing.get_origin(expected) in (typing.Union, types.UnionType) else (expected,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if any(isinstance(kind, type) and type(value) is kind for kind in kinds):
        return value
    if float in kinds and type(value) is int:
        return float(value)
    if str in kinds:
        return text
    names = " or ".join(kind.__name__ for kind in kinds)
    raise ConfigError(f"--coqpit.{key}: expected {names.replace('NoneType', 'null')}, got {text}.")


#: Result of `lookup` for a missing key.
ABSENT = object()


def lookup(values: object, key: str) -> object:
    """Return the value of a dotted key in a configuration or its recorded dict, or `ABSENT` if it is missing."""
    for name in key.split("."):
        values = values.get(name, ABSENT) if isinstance(values, Mapping) else getattr(values, name, ABSENT)
    return values


def changes(recorded: Mapping[str, object], config: Coqpit, keys: Sequence[str] = DEFINES_THE_RUN) -> list[str]:
    """Return the values that differ from the recorded ones, each as a line "key: recorded → now".

    Args:
        recorded: Configuration recorded in a checkpoint.
        config: Configuration of the resumed run.
        keys: Dotted keys to compare. Keys that are not recorded are skipped unless their absence means the default.
    """
    changed = []
    for key in keys:
        before, now = lookup(recorded, key), lookup(config, key)
        if before is ABSENT and key in _NEVER_WITHOUT:
            before = NewLanguageConfig.__dataclass_fields__[key].default
        if before is not ABSENT and before != now:
            changed.append(f"{key}: {before} → {now}")
    return changed
