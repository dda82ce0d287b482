"""The base that a run is compared with: distilled from, pulled towards, measured against."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from xtts_extend.data.encoded import file_digest, is_encoded_set, read_index
from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError, XttsExtendError
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
    """Whether there are replayed samples whose distributions the base has yet to say."""
    return config.distill_weight > 0 and any(
        sample.replay and not (sample.encoded and sample.encoded.has_distribution) for sample in samples
    )


def _needs_base(config: NewLanguageConfig, samples: Sequence[Sample]) -> bool:
    """Whether training compares with the base's weights."""
    return _needs_teacher(config, samples) or config.l2_sp > 0


def _base_file(config: NewLanguageConfig) -> Path:
    """The file whose weights the run started from; where it is not there, as on another machine, the base's."""
    recorded, beside = Path(config.started_from), Path(config.base_dir) / "model.pth"
    return recorded if config.started_from and (recorded.is_file() or not beside.is_file()) else beside


def base_digest(config: NewLanguageConfig, samples: Sequence[Sample]) -> str:
    """The digest of the file that a run is compared with, the very file that made its replay sets.

    Returns:
        As recorded, or nothing, where the run is compared with none.

    Raises:
        ConfigError: another model made a set, or the file has changed since the run began.
    """
    sets = [Path(path) for path in config.replay if is_encoded_set(Path(path))]
    if not sets and not _needs_base(config, samples):
        return str(config.started_from_digest)
    file = _base_file(config)
    if not file.is_file():
        raise ConfigError(
            f"The run is compared with the model that it started from, and {file} is not there any more. Put it back."
        )
    digest = file_digest(file)
    if config.started_from_digest not in ("", digest):
        raise ConfigError(
            f"{file} is not the file that the run started from, {config.started_from}: its digest is another one. Put "
            "the file back that was there, or give its folder as --base-dir."
        )
    longest = config.model_args.max_conditioning_length
    for folder in sets:
        index = read_index(folder)
        if index.get("base_digest", digest) != digest:
            raise ConfigError(
                f"The replay set {folder} was made by another model than {file}: it would teach what that one says. "
                "Make a set with make-replay and this model; export a run's checkpoint first, and start from what it "
                "exported."
            )
        if index.get("conditioning", [longest])[-1] != longest:
            raise ConfigError(
                f"The replay set {folder} was made with conditioning of up to {index['conditioning'][-1]} samples; "
                f"max_conditioning_length is {longest} here. Make the set with the same --conditioning-s."
            )
    return digest


def load_reference(
    model: ExtendedGPTTrainer, config: NewLanguageConfig, samples: RunSamples, record: RunRecord | None
) -> bool:
    """Load the weights that a run started from into the model of a resume, if it is compared with them.

    Args:
        model: of the run; the checkpoint's own weights come later.
        config, samples: of the run.
        record: of the checkpoint, which may hold the losses of the base already.

    Returns:
        Whether the model holds them.

    Raises:
        XttsExtendError: they are needed, and the file is not there, damaged, or does not fit.
    """
    if _needs_base(config, samples.train):
        _load_base_of(model, config)
        return True
    measured = (
        record is not None and record.evaluations_comparable and record.val_digest == data_digest(samples.evaluation)
    )
    if measured or not samples.evaluation:
        return False
    try:
        _load_base_of(model, config)
    except XttsExtendError as error:
        if config.min_retention:
            raise
        logger.warning(
            " > the start is not measured again, and retention of old languages cannot be measured: %s", error
        )
        return False
    return True


def _load_base_of(model: ExtendedGPTTrainer, config: NewLanguageConfig) -> None:
    start = start_from(_base_file(config))
    # as it was started from, which was allowed then
    began = copy.copy(config)
    began.checkpoint_vocab, began.on_vocab_change = config.started_from_vocab, "migrate"
    logger.info(" > compared with the model that the run started from, %s", start.path)
    weights, _ = resize_embeddings(start, began, match_vocabulary(began, start))
    model.xtts.load_state_dict(weights)


def prepare_training(model: ExtendedGPTTrainer, config: NewLanguageConfig, samples: Sequence[Sample]) -> None:
    """Give a model that holds the base's weights, its rows frozen, what its configuration trains it with.

    Raises:
        ConfigError: two ways exclude each other.
    """
    if config.gradient_checkpointing:
        model.xtts.gpt.gpt.gradient_checkpointing = True
    if config.compile:
        for block in model.xtts.gpt.gpt.h:
            block.compile(dynamic=True)
    if any(sample.replay for sample in samples):
        model.distill_weight = config.distill_weight
    if _needs_teacher(config, samples):
        model.create_teacher()
    if config.l2_sp > 0:
        model.anchor = Anchor(model.xtts.gpt, model.base_rows)
    if config.adapter == "lora":
        if model.anchor is not None:
            raise ConfigError("l2_sp pulls the transformer, which --adapter lora does not train. Leave one away.")
        model.add_adapter(config.adapter_rank)


def old_languages(languages: Iterable[str], model: ExtendedGPTTrainer, config: NewLanguageConfig) -> list[str]:
    """Those of the languages that the base knew: their tag is a token of it, and they are not the one to learn."""
    return [language for language in languages if language != config.language and not _is_new(language, model)]


def _is_new(language: str, model: ExtendedGPTTrainer) -> bool:
    """Whether the base has no token for the tag of a language."""
    return bool(model.xtts.tokenizer.tokenizer.token_to_id(language_tag(language)) >= model.base_rows)


def can_export_as_pack(model: ExtendedGPTTrainer, samples: Sequence[Sample]) -> bool:
    """Whether what a run learns can be kept apart from its base, for one new language: voices and old rows are frozen.

    In a model folder the base then speaks all other languages exactly as before.

    Args:
        model: of the run.
        samples: that it is trained on.
    """
    new = [language for language in {sample.language for sample in samples} if _is_new(language, model)]
    return model.voice_frozen and model.rows_frozen and len(new) == 1


def require_old_languages(model: ExtendedGPTTrainer, config: NewLanguageConfig, samples: Sequence[Sample]) -> None:
    """A limit on what is kept needs something to measure.

    Raises:
        ConfigError: there is a limit, and no old language is evaluated.
    """
    if config.min_retention and not old_languages({sample.language for sample in samples}, model, config):
        raise ConfigError(
            "--min-retention is set, and no language that the base knows is evaluated. Give recordings in those to "
            "keep, as --val-manifest PATH:LANG."
        )
