"""The steps up to the first batch, in their order: from flags to everything that a trainer is made of."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_extend.checkpoint.inspect import other_checkpoint
from xtts_extend.errors import CheckpointError, ConfigError, XttsExtendError
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.model.migration import Migration
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.ranks import Ranks
from xtts_extend.setup.reference import load_reference, needs_base, require_same_base
from xtts_extend.setup.samples import RunSamples, encode_run, load_samples
from xtts_extend.setup.start import (
    Start,
    build_config,
    build_model,
    classify_path,
    freeze_if_base_rows_are_old,
    load_base,
)
from xtts_extend.setup.vocabulary_change import plan_migration
from xtts_extend.training.evaluation import old_languages
from xtts_extend.training.restore import knows_base_losses

logger = logging.getLogger("trainer")


@dataclass(frozen=True)
class Prepared:
    """What a trainer is made of: see `prepare`."""

    start: Start
    config: NewLanguageConfig
    samples: RunSamples
    model: ExtendedGPTTrainer
    migration: Migration | None


def prepare(given: Mapping[str, Any], overrides: Sequence[str], ranks: Ranks) -> Prepared:
    """Classify the given path, configure, check the data, build the model and load a base into it.

    A training checkpoint is not loaded: the trainer does that. Its checksums are compared meanwhile; when that of a
    run folder's newest checkpoint is not sound, all begins again with the one before.

    Args:
        given: the flags that were given.
        overrides: `--coqpit.KEY=VALUE`.
        ranks: the processes; rank 0 checks the data first, the others find its cache.

    Raises:
        XttsExtendError: see the parts.
    """
    damaged: list[Path] = []
    while True:
        start = classify_path(given, damaged)
        config = build_config(given, overrides, start, ranks.size)
        migration = None
        if start.info.kind == "training":
            migration = plan_migration(start.record, start.recorded, start.info, config, resume=start.resume)
        with ranks.main_first():
            samples = load_samples(config)
            require_same_base(config, samples.train)
        model = build_model(config)
        try:
            if start.verification:
                start.verification.require_sound()
        except CheckpointError as error:
            if not Path(given["checkpoint"]).expanduser().is_dir():
                raise CheckpointError(f"{error}{other_checkpoint(start.path)}") from error
            logger.warning(" > passed over: %s", error)
            damaged.append(start.path)
            continue
        languages = {sample["language"] for sample in samples.evaluation}
        if not start.resume:
            load_base(model, config, start, migration)
            require_old_languages(model, config, languages)
        else:
            freeze_if_base_rows_are_old(model, config, start, migration)
            if needs_base(config, samples.train):
                load_reference(model, config)
            elif not knows_base_losses(start.record, samples.evaluation):
                try:
                    load_reference(model, config)
                except XttsExtendError as error:
                    if config.min_retention:
                        raise
                    logger.warning(
                        " > the start is not measured again, and retention of old languages cannot be measured: %s",
                        error,
                    )
        with ranks.main_first():
            samples = encode_run(samples, config, model.codec, model.xtts.tokenizer)
        return Prepared(start, config, samples, model, migration)


def require_old_languages(model: ExtendedGPTTrainer, config: NewLanguageConfig, languages: Iterable[str]) -> None:
    """A limit on what is kept needs something to measure.

    Raises:
        ConfigError: there is a limit, and no old language is evaluated.
    """
    if config.min_retention and not old_languages(languages, model, config):
        raise ConfigError(
            "--min-retention is set, and no language that the base knows is evaluated. Give recordings in those to "
            "keep, as --val-manifest PATH:LANG."
        )
