"""The base that a run is compared with: distilled from, pulled towards, measured against."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xtts_extend.data.encoded import file_digest, is_encoded_set, read_index
from xtts_extend.data.manifest import Sample
from xtts_extend.errors import ConfigError
from xtts_extend.model.anchor import Anchor
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.setup.start import start_from, start_weights
from xtts_extend.setup.vocabulary_change import plan_migration

logger = logging.getLogger("trainer")


def needs_teacher(config: Any, samples: Sequence[Sample]) -> bool:
    """Whether there are replayed samples whose distributions the base has yet to say."""
    return getattr(config, "distill_weight", 0) > 0 and any(
        sample.get("replay") and not sample.get("has_distribution") for sample in samples
    )


def needs_base(config: Any, samples: Sequence[Sample]) -> bool:
    """Whether training compares with the base's weights."""
    return needs_teacher(config, samples) or getattr(config, "l2_sp", 0) > 0


def base_file(config: NewLanguageConfig) -> Path:
    """The file whose weights the run started from; where it is not there, as on another machine, the base's."""
    recorded, beside = Path(config.started_from), Path(config.base_dir) / "model.pth"
    return recorded if config.started_from and (recorded.is_file() or not beside.is_file()) else beside


def require_same_base(config: NewLanguageConfig, samples: Sequence[Sample]) -> None:
    """See that replay sets were made by the very file that the run starts from, and that the file stays the same.

    Raises:
        ConfigError: another model made a set, or the file has changed since the run began.
    """
    sets = [Path(path) for path in config.replay if is_encoded_set(Path(path))]
    if not sets and not needs_base(config, samples):
        return
    file = base_file(config)
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
    config.started_from_digest = digest
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


def load_reference(model: ExtendedGPTTrainer, config: NewLanguageConfig) -> None:
    """Load the weights that a run started from into the model of a resume; the checkpoint's own come later.

    Raises:
        CheckpointError: the file is damaged or does not fit.
    """
    start = start_from(base_file(config))
    # as it was started from, which was allowed then
    began = copy.copy(config)
    began.checkpoint_vocab, began.on_vocab_change = config.started_from_vocab, "migrate"
    migration = None
    if start.info.kind == "training":
        migration = plan_migration(start.record, start.recorded, start.info, began, resume=False)
    logger.info(" > compared with the model that the run started from, %s", start.path)
    model.xtts.load_state_dict(start_weights(began, start, migration)[0])
    model.holds_base = True


def equip(model: Any, config: Any, samples: Sequence[Sample]) -> None:
    """Give a model that holds the base's weights, its rows frozen, what its configuration trains it with.

    Raises:
        ConfigError: two ways exclude each other.
    """
    if getattr(config, "gradient_checkpointing", False):
        model.xtts.gpt.gpt.gradient_checkpointing = True
    if getattr(config, "compile", False):
        for block in model.xtts.gpt.gpt.h:
            block.compile(dynamic=True)
    if any(sample.get("replay") for sample in samples):
        model.distill_weight = config.distill_weight
    if needs_teacher(config, samples):
        model.take_teacher()
    if getattr(config, "l2_sp", 0) > 0:
        model.anchor = Anchor(model.xtts.gpt, model.base_rows)
    if getattr(config, "adapter", "none") == "lora":
        if model.anchor is not None:
            raise ConfigError("--l2-sp pulls the transformer, which --adapter lora does not train. Leave one away.")
        model.add_adapter(config.adapter_rank)
