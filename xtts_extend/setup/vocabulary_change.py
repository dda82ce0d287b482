"""Find the vocabulary that a checkpoint was trained with, and resume with a different one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from xtts_extend.checkpoint.inspect import CheckpointInfo, weights_of
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.errors import CheckpointError, ConfigError, VocabularyError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.model.gpt_trainer import merged_weights, row_digests, xtts_weights
from xtts_extend.model.migration import Migration, nearest_rows
from xtts_extend.notices import warn_once
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.position import no_best_model
from xtts_extend.run.record import RecordedVocabulary
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.setup.start import Mode, Start
from xtts_extend.text.change import compare_tokens
from xtts_extend.text.verify import dead_entries
from xtts_extend.text.vocabulary import (
    Vocabulary,
    count_closed_gaps,
    first_ten,
    load_vocabulary,
    require_extension,
    romanized_spellings,
)

logger = logging.getLogger("trainer")

#: Minimum cosine similarity between two rows of the same token. In a mini base, it is at most 0.34 between rows of
#: different tokens, and at least 0.999 between a token's rows before and after 300 training steps.
SAME_TOKEN_COSINE = 0.9


@dataclass(frozen=True)
class CheckpointVocabulary:
    """The vocabulary that a checkpoint was trained with.

    Attributes:
        tokens: Mapping from tokens to ids.
        digest: SHA-256 of the vocabulary.
        source: Description of where the vocabulary was found.
    """

    tokens: Mapping[str, int]
    digest: str
    source: str


def checkpoint_vocabulary(
    checkpoint: TrainingCheckpoint, user_vocab: str = ""
) -> tuple[CheckpointVocabulary | None, str]:
    """Find a checkpoint's vocabulary in the file, in `user_vocab`, next to the file, or through its configuration.

    Args:
        checkpoint: A checkpoint from xtts_extend or the stock Trainer.
        user_vocab: Value of `--checkpoint-vocab`; empty if the flag is omitted.

    Returns:
        The vocabulary and an empty string; or None and the reason why the vocabularies that were found do not match.

    Raises:
        ConfigError: `user_vocab` is not the checkpoint's vocabulary.
        VocabularyError: A vocabulary file cannot be read.
    """
    info = checkpoint.info
    if checkpoint.record is not None and checkpoint.record.vocabulary is not None:
        tokens, digest = checkpoint.record.vocabulary.tokens, checkpoint.record.vocabulary.digest
        if user_vocab and load_vocabulary(user_vocab).digest != digest:
            raise ConfigError(
                f"{info.path} records its vocabulary, but --checkpoint-vocab {user_vocab} differs from it. Omit the "
                "flag."
            )
        if (size := max(tokens.values()) + 1) != info.vocab_size:
            return None, f"the vocabulary recorded in it has {size} tokens, so the file has been edited"
        return CheckpointVocabulary(tokens, digest, "recorded in it"), ""
    model_args = checkpoint.config.get("model_args")
    candidates = {
        "--checkpoint-vocab": user_vocab,
        "beside it": checkpoint.path.parent / "vocab.json",
        "named in its configuration": model_args.get("tokenizer_file") if isinstance(model_args, Mapping) else None,
    }
    reasons = []
    for source, file in candidates.items():
        if not file or (source != "--checkpoint-vocab" and not Path(file).is_file()):
            continue
        vocabulary = load_vocabulary(file)
        if vocabulary.size == info.vocab_size:
            return CheckpointVocabulary(vocabulary.tokens, vocabulary.digest, f"{file}, {source}"), ""
        reasons.append(f"{file} ({source}) has {vocabulary.size} tokens and does not match")
        if source == "--checkpoint-vocab":
            raise ConfigError(
                f"{info.path} has {info.vocab_size} token rows, but {reasons[0]}. Pass the vocabulary that the "
                "checkpoint was trained with."
            )
    return None, "; ".join(reasons)


def start_vocabularies(config: NewLanguageConfig, path: Path, rows: int) -> tuple[Vocabulary, Vocabulary]:
    """Load two vocabularies: that of the weights that a run starts from, and the run's own, which must extend it.

    Args:
        config: The run's configuration.
        path: The file with the weights.
        rows: Number of token rows in the weights.

    Returns:
        The vocabulary of the weights and the run's vocabulary.

    Raises:
        CheckpointError: The weights and their vocabulary do not belong together.
        VocabularyError: The run's vocabulary does not extend that of the weights.
    """
    vocabulary = load_vocabulary(Path(config.model_args.tokenizer_file))
    beside = path.parent / "vocab.json"
    old = load_vocabulary(
        config.checkpoint_vocab or (beside if beside.is_file() else Path(config.base_dir) / "vocab.json")
    )
    if rows > vocabulary.size:
        closed = count_closed_gaps(old.tokens, vocabulary.tokens)
        cause = f" Closing the gaps in the base's token ids changed {closed} of them." if closed else ""
        raise VocabularyError(
            f"{path} has {rows} token rows, but {vocabulary.path} has only {vocabulary.size} tokens, so this "
            f"vocabulary does not extend the base's.{cause} Create an extended vocabulary with `xtts-extend "
            "extend-vocab`."
        )
    if old.size != rows:
        raise CheckpointError(
            f"{path} has {rows} token rows, but {old.path} has {old.size} tokens: the two do not belong together. "
            "Pass the vocabulary of these weights with --checkpoint-vocab, or put it next to the weights as vocab.json."
        )
    require_extension(old, vocabulary)
    # load_vocabulary has already warned of entries without merges.
    if dead := [token for token in dead_entries(old, vocabulary) if token not in vocabulary.without_merges]:
        warn_once(
            f"{vocabulary.path}: {len(dead)} of its {len(vocabulary.tokens) - len(old.tokens)} new tokens can never "
            f"occur, because other merges take precedence. Their rows will learn nothing: {first_ten(dead)}."
        )
    return old, vocabulary


def require_same_vocabulary(
    known: CheckpointVocabulary | None, reason: str, vocabulary: Vocabulary, info: CheckpointInfo
) -> None:
    """Raise unless a checkpoint was trained with the run's vocabulary.

    Args:
        known: The checkpoint's vocabulary, as returned by `checkpoint_vocabulary`, or None.
        reason: The reason that `checkpoint_vocabulary` returned, if `known` is None.
        vocabulary: The run's vocabulary.
        info: Header of the checkpoint.

    Raises:
        VocabularyError: The checkpoint's vocabulary is unknown or differs. The message lists the differences and the
            flags that help.
    """
    if known is None:
        raise VocabularyError(
            f"The vocabulary that {info.path} ({info.vocab_size} token rows) was trained with is unknown: "
            f"{reason or 'the file records none, and there is no vocab.json next to it'}. Pass the vocabulary with "
            "--checkpoint-vocab, or use --start-fresh to keep only the weights and the rows of the tokens that can be "
            "recognized."
        )
    if known.digest == vocabulary.digest:
        return
    change = compare_tokens(known.tokens, vocabulary.tokens)
    differences = change.describe() if change else "  the same tokens with the same ids, but different merges"
    raise VocabularyError(
        f"{info.path} was trained with a different vocabulary ({known.source}) than {vocabulary.path}:\n{differences}\n"
        "The checkpoint's rows and optimizer moments belong to its own tokens. Pass the run's vocabulary as --vocab, "
        "or move every row to its token's new id with --on-vocab-change migrate, which resumes in a new run folder."
    )


def match_vocabulary(config: NewLanguageConfig, start: Start) -> Migration | None:
    """Return the migration of a checkpoint's rows to the run's vocabulary, or None if no migration is needed.

    Args:
        config: The run's configuration.
        start: The file with the weights, and how the run uses it.

    Raises:
        CheckpointError: The weights of a base model and their vocabulary do not belong together.
        ConfigError: `--checkpoint-vocab` is not the checkpoint's vocabulary.
        VocabularyError: The vocabulary does not extend the base's; a training checkpoint's vocabulary is unknown, or
            differs and no migration was requested; or frozen rows would not come first.
    """
    info = start.info
    if start.training is None:
        start_vocabularies(config, start.path, info.vocab_size)
        return None
    resume = start.mode is Mode.RESUME
    vocabulary = load_vocabulary(config.model_args.tokenizer_file)
    known, reason = checkpoint_vocabulary(start.training, config.checkpoint_vocab)
    if resume and (known is None or config.on_vocab_change != "migrate"):
        require_same_vocabulary(known, reason, vocabulary, info)
        return None
    tokens: Mapping[str, int]
    if known is None:
        tokens = recognized_tokens(start.training, Path(config.base_dir))
    elif resume and known.digest == vocabulary.digest:
        return None
    else:
        tokens = known.tokens
    change = compare_tokens(tokens, vocabulary.tokens)
    extends = vocabulary.size > info.vocab_size and not change.removed and not change.moved
    if known is not None and not extends and config.on_vocab_change != "migrate":
        require_same_vocabulary(known, reason, vocabulary, info)
    base_rows = start.training.record.base_rows if start.training.record else None
    if resume:
        old_rows = base_rows.rows if base_rows and base_rows.frozen else 0
        frozen = {token for token, row in tokens.items() if row < old_rows}
    elif extends:
        frozen = set(tokens)
    elif base_rows:
        frozen = {token for token, row in tokens.items() if row < base_rows.rows}
    else:
        frozen = set(tokens) & set(load_vocabulary(Path(config.base_dir) / "vocab.json").tokens)
    if change:
        logger.info(" > Migrating rows to the new vocabulary (from %d to %d rows):", info.vocab_size, vocabulary.size)
        logger.info("%s", change.describe())
        for first in range(10, len(change.removed), 10):
            logger.info("  also removed: %s", ", ".join(change.removed[first : first + 10]))
    migration = Migration.between(
        tokens,
        vocabulary.tokens,
        info.vocab_size,
        frozenset(frozen),
        init=config.init,
        spellings=_spellings(change.added, tokens, vocabulary, config),
        seed=config.training_seed,
    )
    if config.freeze_base_rows and frozen and not migration.base_rows:
        raise VocabularyError(
            f"Only the first rows of a model can be frozen, but {vocabulary.path} places new tokens before some of "
            f"the {len(frozen)} frozen ones. Append new tokens at the end (with `xtts-extend extend-vocab`), or train "
            "all rows with --no-freeze-base-rows."
        )
    return migration


def _spellings(
    added: list[str], tokens: Mapping[str, int], vocabulary: Vocabulary, config: NewLanguageConfig
) -> dict[str, list[str]]:
    """For --init romanized, return the tokens that spell each added token, if the checkpoint has them."""
    if config.init != "romanized" or not added:
        return {}
    base = load_vocabulary(Path(config.base_dir) / "vocab.json")
    names = {row: token for token, row in base.tokens.items()}
    by_id = romanized_spellings(base, vocabulary)
    return {
        token: [names[part] for part in by_id.get(vocabulary.tokens[token], ()) if names[part] in tokens]
        for token in added
    }


def migrate_checkpoint(
    checkpoint: TrainingCheckpoint, migration: Migration, config: NewLanguageConfig
) -> TrainingCheckpoint:
    """Return a training checkpoint with its weights and record migrated to a different vocabulary.

    The optimizer's moments are migrated later, by `restore`, which knows which parameters they belong to.

    Args:
        checkpoint: The checkpoint to resume from.
        migration: Mapping from its rows to the resumed run's vocabulary.
        config: Configuration of the resumed run.

    Raises:
        CheckpointError: Frozen rows have changed.
    """
    _, prefix = weights_of({"model": checkpoint.model}, checkpoint.path)
    weights = migration.weights(checkpoint.model, prefix)
    record = checkpoint.record
    if record is None:
        return replace(checkpoint, model=weights)
    before = record.base_rows
    if before.frozen and row_digests(checkpoint.model, before.rows, prefix) != before.digests:
        raise CheckpointError(
            f"{checkpoint.path}: frozen rows have changed, so the file has been edited. Use an earlier checkpoint."
        )
    vocabulary = load_vocabulary(config.model_args.tokenizer_file)
    frozen = before.frozen and config.freeze_base_rows
    rows = migration.base_rows or vocabulary.size
    now = replace(
        record,
        vocabulary=RecordedVocabulary(vocabulary.tokens, vocabulary.digest),
        base_rows=BaseRows(rows, frozen, row_digests(weights, rows, prefix) if frozen else {}),
        # Losses before and after the migration are measured on different tokens and cannot be compared.
        state={**record.state, **no_best_model()},
    )
    settings = {**checkpoint.config, "freeze_base_rows": config.freeze_base_rows}
    return replace(checkpoint, model=weights, record=now, config=settings)


def recognized_tokens(checkpoint: TrainingCheckpoint, base_dir: Path) -> dict[str, int]:
    """Recognize a checkpoint's rows as tokens of the base by their cosine similarity to the base's rows.

    Args:
        checkpoint: A checkpoint whose vocabulary is unknown.
        base_dir: Base directory with `model.pth` and `vocab.json`.

    Returns:
        Mapping from tokens to rows in the checkpoint.

    Raises:
        ConfigError: The base has no weights to compare with.
        VocabularyError: No row is recognized.
    """
    file = base_dir / "model.pth"
    if not file.is_file():
        raise ConfigError(
            f"{base_dir} has no model.pth to compare the checkpoint's rows with. Pass the base model's folder as "
            "--base-dir."
        )
    base, _ = load_checkpoint(file)
    vocabulary = load_vocabulary(base_dir / "vocab.json")
    info = checkpoint.info
    rows = xtts_weights(checkpoint.model)[f"gpt.{TOKEN_TENSORS[0]}"]
    nearest, cosines = nearest_rows(rows, merged_weights(base)[f"gpt.{TOKEN_TENSORS[0]}"])
    names = {number: token for token, number in vocabulary.tokens.items()}
    recognized: dict[str, int] = {}
    # The most similar rows come first, because each token is matched to only one row.
    for row in cosines.argsort(descending=True, stable=True).tolist():
        token = names.get(int(nearest[row]))
        if cosines[row] < SAME_TOKEN_COSINE:
            break
        if token is not None:
            recognized.setdefault(token, row)
    if not recognized:
        raise VocabularyError(
            f"None of the {info.vocab_size} token rows in {info.path} resembles a row in {file}, so the checkpoint "
            "comes from a different base or its rows are noise. Start from the base instead."
        )
    missing = [token for token in vocabulary.tokens if token not in recognized]
    logger.info(
        " > The checkpoint's vocabulary is unknown. Recognized %d of the base's %d tokens by their rows%s.",
        len(recognized),
        len(vocabulary.tokens),
        f"; not recognized: {first_ten(missing)}" if missing else "",
    )
    return recognized
