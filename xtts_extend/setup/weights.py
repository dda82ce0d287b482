"""Load the weights that a run starts from, and determine which of their token rows are frozen."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.errors import VocabularyError
from xtts_extend.model.embedding import extend_token_tensors
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, merged_weights, row_digests, xtts_weights
from xtts_extend.model.migration import Migration
from xtts_extend.pack.model_folder import open_spec
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.setup.start import Start
from xtts_extend.setup.vocabulary_change import start_vocabularies
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary, require_extension, romanized_spellings

logger = logging.getLogger("trainer")


def resize_embeddings(
    start: Start, config: NewLanguageConfig, migration: Migration | None = None
) -> tuple[dict[str, Tensor], int]:
    """Read the weights that a run starts from, and add rows for new tokens.

    Args:
        start: The file with the weights.
        config: The run's configuration.
        migration: Mapping from a training checkpoint's rows to the run's vocabulary; None for a base model.

    Returns:
        The weights for `Xtts`, and the number of their token rows that belong to the base.

    Raises:
        CheckpointError: The weights and the base vocabulary do not belong together.
        VocabularyError: The vocabulary does not extend the base's.
    """
    weights = merged_weights(load_checkpoint(start.path)[0])
    if migration:
        weights = migration.weights(weights, "gpt.")
        return weights, migration.base_rows or weights["gpt.text_embedding.weight"].shape[0]
    base_rows = start.info.vocab_size
    old, vocabulary = start_vocabularies(config, start.path, base_rows)
    return _with_new_rows(weights, old, vocabulary, config), base_rows


def _with_new_rows(
    weights: dict[str, Tensor], old: Vocabulary, vocabulary: Vocabulary, config: NewLanguageConfig
) -> dict[str, Tensor]:
    """Return the weights, with new rows for any tokens that a vocabulary adds to the old one."""
    if vocabulary.size == old.size:
        return weights
    spellings = romanized_spellings(old, vocabulary) if config.init == "romanized" else {}
    return extend_token_tensors(weights, vocabulary.size, config.init, spellings, config.training_seed)


def load_start_from(model: ExtendedGPTTrainer, config: NewLanguageConfig) -> None:
    """Load the language pack that a run starts from into a model that holds the base's weights.

    The rows of the pack's tokens are trained like other new rows. Digests and frozen rows are still those of the base.

    Args:
        model: The run's model.
        config: The run's configuration, with `start_from` set.

    Raises:
        ConfigError: The model folder does not exist.
        PackError: The pack does not exist or is damaged.
        VocabularyError: The run's vocabulary does not extend the pack's.
    """
    folder, pack = open_spec(config.start_from)
    pack.require_intact()
    vocabulary = load_vocabulary(config.model_args.tokenizer_file)
    joined = pack.info.vocabulary.joined(folder.vocabulary)
    try:
        require_extension(joined, vocabulary)
    except VocabularyError as error:
        raise VocabularyError(
            f"{error} For --start-from {config.start_from}, extend the vocabulary with: extend-vocab --base-vocab "
            f"{config.start_from}."
        ) from error
    model.xtts.load_state_dict(_with_new_rows(pack.weights(folder.weights), joined, vocabulary, config))
    logger.info(
        " > Starting from the language pack %s (%d steps). Frozen rows and retention refer to the pack's base.",
        pack.path,
        pack.info.training.steps,
    )


def stock_base_rows(
    checkpoint: TrainingCheckpoint, config: NewLanguageConfig, vocab_size: int, migration: Migration | None = None
) -> BaseRows:
    """Return the base rows of a stock Trainer's run. They are frozen only if they still equal the base's rows.

    Args:
        checkpoint: A checkpoint from the stock Trainer, which trains all rows.
        config: Configuration of the resumed run.
        vocab_size: Number of token rows in the resumed run.
        migration: Mapping from the checkpoint's rows to the resumed run's vocabulary, if it changed.
    """
    base_file = Path(config.base_dir) / "model.pth"
    if not base_file.is_file():
        logger.info(
            " > There is no model.pth in %s to compare old rows with, so all rows are trained.", config.base_dir
        )
        return BaseRows(vocab_size)
    base = merged_weights(load_checkpoint(base_file)[0])
    rows = base["gpt.text_embedding.weight"].shape[0]
    digests = row_digests(base, rows)
    saved = xtts_weights(checkpoint.model)
    if migration:
        saved = migration.weights(saved, "gpt.")
    if rows < vocab_size and row_digests(saved, rows) == digests:
        return BaseRows(rows, True, digests)
    return BaseRows(vocab_size)
