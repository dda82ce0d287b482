"""The base model that a run distills from, is pulled toward, and measures retention against."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from xtts_extend.data.encoded import is_encoded_set, read_index
from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import values
from xtts_extend.errors import ConfigError, XttsExtendError
from xtts_extend.files import file_digest
from xtts_extend.model.anchor import Anchor
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.record import RunRecord
from xtts_extend.setup.samples import RunSamples, data_digest
from xtts_extend.setup.start import start_from
from xtts_extend.setup.vocabulary_change import match_vocabulary
from xtts_extend.setup.weights import resize_embeddings
from xtts_extend.text.languages import language_tag

logger = logging.getLogger("trainer")


def _needs_teacher(config: NewLanguageConfig, samples: Sequence[Sample]) -> bool:
    """Return whether the base has to compute distributions for some replayed samples."""
    return config.distill_weight > 0 and any(
        sample.replay and not (sample.encoded and sample.encoded.has_distribution) for sample in samples
    )


def _needs_base(config: NewLanguageConfig, samples: Sequence[Sample]) -> bool:
    """Return whether training compares the model with the base's weights."""
    return _needs_teacher(config, samples) or config.l2_sp > 0


def _base_file(config: NewLanguageConfig) -> Path:
    """Return the file that the run started from or, if it is missing (on a different machine, say), the base's file."""
    recorded, base_model = Path(config.started_from), Path(config.base_dir) / "model.pth"
    return recorded if config.started_from and (recorded.is_file() or not base_model.is_file()) else base_model


def base_digest(config: NewLanguageConfig, samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of the model that a run is compared with. Its replay sets must come from the same model.

    Returns:
        The digest. If the run is not compared with a file, this is the recorded digest, which may be empty.

    Raises:
        ConfigError: The file is missing or has changed since the run began, or a replay set was made with a
            different model.
    """
    sets = [Path(path) for path in config.replay if is_encoded_set(Path(path))]
    if not sets and not _needs_base(config, samples):
        return str(config.started_from_digest)
    file = _base_file(config)
    if not file.is_file():
        raise ConfigError(
            f"The run is compared with the model that it started from, but {file} is missing. Restore the file."
        )
    digest = file_digest(file)
    if config.started_from_digest not in ("", digest):
        raise ConfigError(
            f"{file} is not the file that the run started from, {config.started_from}: their digests differ. Restore "
            "the original file, or pass its folder as --base-dir."
        )
    longest = config.model_args.max_conditioning_length
    for folder in sets:
        index = read_index(folder)
        if index.get("base_digest", digest) != digest:
            raise ConfigError(
                f"The replay set {folder} was made with a model other than {file}, so training on it would teach "
                "that other model's speech. Use make-replay to create a set with the right model. To start from a "
                "run's checkpoint, export it first, and start from the exported model."
            )
        if index.get("conditioning", [longest])[-1] != longest:
            raise ConfigError(
                f"The replay set {folder} was made with conditioning audio of up to {index['conditioning'][-1]} "
                f"samples, but max_conditioning_length is {longest} in this run. Create the set again with a "
                "matching --conditioning-s."
            )
    return digest


def load_reference(
    model: ExtendedGPTTrainer, config: NewLanguageConfig, samples: RunSamples, record: RunRecord | None
) -> bool:
    """Load the weights that a resumed run started from, if the run is compared with them.

    Args:
        model: The run's model. The checkpoint's own weights are loaded later.
        config: The run's configuration.
        samples: The run's samples.
        record: The checkpoint's record, which may already hold the base's losses.

    Returns:
        Whether the weights were loaded.

    Raises:
        XttsExtendError: The weights are needed, but the file is missing, damaged or does not match the model.
    """
    if _needs_base(config, samples.train):
        _load_starting_weights(model, config)
        return True
    measured = (
        record is not None and record.evaluations_comparable and record.val_digest == data_digest(samples.evaluation)
    )
    if measured or not samples.evaluation:
        return False
    try:
        _load_starting_weights(model, config)
    except XttsExtendError as error:
        if config.min_retention:
            raise
        logger.warning(
            " > Training continues without measuring retention, because the starting model's losses are unknown. %s",
            error,
        )
        return False
    return True


def _load_starting_weights(model: ExtendedGPTTrainer, config: NewLanguageConfig) -> None:
    start = start_from(_base_file(config))
    # The run was started from these weights, so a migration that was allowed then must be allowed again.
    start_config = copy.copy(config)
    start_config.checkpoint_vocab, start_config.on_vocab_change = config.started_from_vocab, "migrate"
    logger.info(" > Comparing with the model that the run started from: %s.", start.path)
    weights, _ = resize_embeddings(start, start_config, match_vocabulary(start_config, start))
    model.xtts.load_state_dict(weights)


def prepare_training(model: ExtendedGPTTrainer, config: NewLanguageConfig, samples: Sequence[Sample]) -> None:
    """Set up a model for training: gradient checkpointing, compilation, teacher, anchor and adapter, as configured.

    Args:
        model: The run's model. It has the base's weights, and its base rows are frozen.
        config: The run's configuration.
        samples: The training samples.

    Raises:
        ConfigError: Two of the configured methods are mutually exclusive.
    """
    if config.gradient_checkpointing:
        model.xtts.gpt.gpt.gradient_checkpointing = True
    if config.compile:
        for block in model.xtts.gpt.gpt.h:
            block.compile(dynamic=True)
    if any(values(samples, "replay")):
        model.distill_weight = config.distill_weight
    if _needs_teacher(config, samples):
        model.create_teacher()
    if config.l2_sp > 0:
        model.anchor = Anchor(model.xtts.gpt, model.base_rows)
    if config.adapter == "lora":
        if model.anchor is not None:
            raise ConfigError(
                "l2_sp pulls the transformer's weights toward the base, but --adapter lora freezes them. Omit one of "
                "the two settings."
            )
        model.add_adapter(config.adapter_rank)


def old_languages(languages: Iterable[str], model: ExtendedGPTTrainer, config: NewLanguageConfig) -> list[str]:
    """Return the languages that the base knows: those whose tag has a token, except the one to learn."""
    return [language for language in languages if language != config.language and not _is_new(language, model)]


def _is_new(language: str, model: ExtendedGPTTrainer) -> bool:
    """Return whether a language is new, that is, whether the base has no token for its tag."""
    return bool(model.xtts.tokenizer.tokenizer.token_to_id(language_tag(language)) >= model.base_rows)


def can_export_as_pack(model: ExtendedGPTTrainer, samples: Sequence[Sample]) -> bool:
    """Return whether a run can be exported as a language pack.

    It can if the voice side and the old rows are frozen and exactly one language is new. In a model folder, the base
    then speaks all other languages exactly as before.

    Args:
        model: The run's model.
        samples: The training samples.
    """
    new_languages = [language for language in set(values(samples, "language")) if _is_new(language, model)]
    return model.voice_frozen and model.rows_frozen and len(new_languages) == 1


def require_old_languages(model: ExtendedGPTTrainer, config: NewLanguageConfig, samples: Sequence[Sample]) -> None:
    """Raise if a minimum retention is set but retention cannot be measured.

    Raises:
        ConfigError: --min-retention is set, but no validation set is in an old language.
    """
    if config.min_retention and not old_languages(set(values(samples, "language")), model, config):
        raise ConfigError(
            "--min-retention is set, but none of the validation sets is in a language that the base knows. For each "
            "language to keep, pass recordings with --val-manifest PATH:LANG."
        )
