"""Which vocabulary a checkpoint was trained with, and what happens when it is continued with another one."""

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

#: Two rows that point in directions as similar as this belong to one token. In a mini base the rows of two tokens have
#: cosines of up to 0.34; rows of one token before and after 300 steps of training have 0.999 or more.
SAME_TOKEN_COSINE = 0.9


@dataclass(frozen=True)
class CheckpointVocabulary:
    """The vocabulary that a checkpoint was trained with: token → id, the digest, and how it is known."""

    tokens: Mapping[str, int]
    digest: str
    source: str


def checkpoint_vocabulary(checkpoint: TrainingCheckpoint, given: str = "") -> tuple[CheckpointVocabulary | None, str]:
    """The vocabulary of a checkpoint: recorded in it, named by the user, beside it, or where its run read it.

    Args:
        checkpoint: of ours or of the stock Trainer.
        given: `--checkpoint-vocab`, or nothing.

    Returns:
        The vocabulary; or None, and what was found that is not it.

    Raises:
        ConfigError: the given one is not that of the checkpoint.
        VocabularyError: a file cannot be read.
    """
    info = checkpoint.info
    if checkpoint.record is not None and checkpoint.record.vocabulary is not None:
        tokens, digest = checkpoint.record.vocabulary.tokens, checkpoint.record.vocabulary.digest
        if given and load_vocabulary(given).digest != digest:
            raise ConfigError(
                f"{info.path} records its vocabulary, and --checkpoint-vocab {given} is another one. Leave it away."
            )
        if (size := max(tokens.values()) + 1) != info.vocab_size:
            return None, f"the one recorded in it has {size} tokens, so the file was edited"
        return CheckpointVocabulary(tokens, digest, "recorded in it"), ""
    model_args = checkpoint.config.get("model_args")
    places = {
        "--checkpoint-vocab": given,
        "beside it": checkpoint.path.parent / "vocab.json",
        "named in its configuration": model_args.get("tokenizer_file") if isinstance(model_args, Mapping) else None,
    }
    reasons = []
    for where, place in places.items():
        if not place or (where != "--checkpoint-vocab" and not Path(place).is_file()):
            continue
        vocabulary = load_vocabulary(place)
        if vocabulary.size == info.vocab_size:
            return CheckpointVocabulary(vocabulary.tokens, vocabulary.digest, f"{place}, {where}"), ""
        reasons.append(f"{place} ({where}) has {vocabulary.size} tokens and is not it")
        if where == "--checkpoint-vocab":
            raise ConfigError(f"{info.path} has {info.vocab_size} token rows, and {reasons[0]}. Give the right one.")
    return None, "; ".join(reasons)


def start_vocabularies(config: NewLanguageConfig, path: Path, rows: int) -> tuple[Vocabulary, Vocabulary]:
    """The vocabulary of the weights that a run starts from, and that of the run, which has to extend it.

    Args:
        config: of the run.
        path: the file with the weights.
        rows: how many token rows they have.

    Raises:
        CheckpointError: weights and their vocabulary do not belong together.
        VocabularyError: the vocabulary does not extend theirs.
    """
    vocabulary = load_vocabulary(Path(config.model_args.tokenizer_file))
    beside = path.parent / "vocab.json"
    old = load_vocabulary(
        config.checkpoint_vocab or (beside if beside.is_file() else Path(config.base_dir) / "vocab.json")
    )
    if rows > vocabulary.size:
        closed = count_closed_gaps(old.tokens, vocabulary.tokens)
        why = f" The base's gaps were closed, which moved {closed} ids." if closed else ""
        raise VocabularyError(
            f"{path} has {rows} token rows, and {vocabulary.path} only {vocabulary.size} tokens: "
            f"it is not an extension of the base's vocabulary.{why} Make one with `xtts-extend extend-vocab`."
        )
    if old.size != rows:
        raise CheckpointError(
            f"{path} has {rows} token rows, and {old.path} has {old.size} tokens: they do not belong together. "
            "Name the vocabulary of these weights with --checkpoint-vocab, or put it beside them."
        )
    require_extension(old, vocabulary)
    # those without merges were named when the vocabulary was loaded
    if dead := [token for token in dead_entries(old, vocabulary) if token not in vocabulary.without_merges]:
        warn_once(
            f"{vocabulary.path}: {len(dead)} of its {len(vocabulary.tokens) - len(old.tokens)} new entries are never "
            f"given, because other merges come before theirs, and their rows learn nothing: {first_ten(dead)}."
        )
    return old, vocabulary


def require_same_vocabulary(
    known: CheckpointVocabulary | None, reason: str, vocabulary: Vocabulary, info: CheckpointInfo
) -> None:
    """A checkpoint is continued only with the vocabulary that it was trained with, or migrated.

    Args:
        known, reason: what `checkpoint_vocabulary` returned.
        vocabulary: of the run.
        info: the checkpoint's header.

    Raises:
        VocabularyError: it is another one, or not known; what differs is said in words, with the ways on.
    """
    if known is None:
        raise VocabularyError(
            f"The vocabulary that {info.path} ({info.vocab_size} token rows) was trained with is not known: "
            f"{reason or 'it records none, and no vocab.json lies beside it'}. Name it with --checkpoint-vocab; or "
            "take only weights, with the rows of tokens that can be recognised, with --start-fresh."
        )
    if known.digest == vocabulary.digest:
        return
    change = compare_tokens(known.tokens, vocabulary.tokens)
    differs = change.describe() if change else "  the same tokens with the same ids, but other merges"
    raise VocabularyError(
        f"{info.path} was trained with another vocabulary ({known.source}) than {vocabulary.path}:\n{differs}\n"
        "Its rows and moments belong to those tokens. Continue with the vocabulary of the run (--vocab), or let every "
        "row follow its token: --on-vocab-change migrate, which goes on in a new run folder."
    )


def match_vocabulary(config: NewLanguageConfig, start: Start) -> Migration | None:
    """How the rows of the weights get to the places of the run's vocabulary; None where they are there.

    Args:
        config: of the run.
        start: the file with the weights, and what is done with it.

    Raises:
        CheckpointError: the weights of a base and their vocabulary do not belong together.
        ConfigError, VocabularyError: the vocabulary does not extend the base's; or that of a training checkpoint is
            another one, and a migration was not asked for; or it is not known; or frozen rows would not come first.
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
        tokens = recognised_tokens(start.training, Path(config.base_dir))
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
        logger.info(" > every row follows its token (%d rows, now %d):", info.vocab_size, vocabulary.size)
        logger.info("%s", change.describe())
        for first in range(10, len(change.removed), 10):
            logger.info("  removed, too: %s", ", ".join(change.removed[first : first + 10]))
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
            f"The ids of {vocabulary.path} mix the {len(frozen)} tokens whose rows are frozen with others: only the "
            "first rows of a model can be frozen. Append new tokens (`xtts-extend extend-vocab`), or train all rows "
            "from here on with --no-freeze-base-rows."
        )
    return migration


def _spellings(
    added: list[str], tokens: Mapping[str, int], vocabulary: Vocabulary, config: NewLanguageConfig
) -> dict[str, list[str]]:
    """Tokens of the checkpoint that spell each added one in the base's vocabulary, for the init "romanized"."""
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
    """A training checkpoint with its weights and its record carried to another vocabulary; see `Migration`.

    The optimizer's moments stay as they are: `restore` carries them, which knows whose they are.

    Args:
        checkpoint: to be resumed.
        migration: to the vocabulary of the run that goes on.
        config: of that run.

    Raises:
        CheckpointError: rows that the checkpoint's run froze are not what they were.
    """
    _, prefix = weights_of({"model": checkpoint.model}, checkpoint.path)
    weights = migration.weights(checkpoint.model, prefix)
    record = checkpoint.record
    if record is None:
        return replace(checkpoint, model=weights)
    before = record.base_rows
    if before.frozen and row_digests(checkpoint.model, before.rows, prefix) != before.digests:
        raise CheckpointError(
            f"{checkpoint.path}: rows that its run froze have changed all the same: the file was edited. Use an "
            "earlier one."
        )
    vocabulary = load_vocabulary(config.model_args.tokenizer_file)
    frozen = before.frozen and config.freeze_base_rows
    rows = migration.base_rows or vocabulary.size
    now = replace(
        record,
        vocabulary=RecordedVocabulary(vocabulary.tokens, vocabulary.digest),
        base_rows=BaseRows(rows, frozen, row_digests(weights, rows, prefix) if frozen else {}),
        # a loss of other tokens is no measure for the best model
        state={**record.state, **no_best_model()},
    )
    settings = {**checkpoint.config, "freeze_base_rows": config.freeze_base_rows}
    return replace(checkpoint, model=weights, record=now, config=settings)


def recognised_tokens(checkpoint: TrainingCheckpoint, base_dir: Path) -> dict[str, int]:
    """Tokens of the base that rows of a checkpoint can be recognised as, because they point where the base's do.

    Returns:
        token → row of the checkpoint.

    Raises:
        ConfigError: the base has no weights to compare with.
        VocabularyError: not one row is recognised.
    """
    file = base_dir / "model.pth"
    if not file.is_file():
        raise ConfigError(f"{base_dir} holds no model.pth, which the rows have to be compared with.")
    base, _ = load_checkpoint(file)
    vocabulary = load_vocabulary(base_dir / "vocab.json")
    info = checkpoint.info
    rows = xtts_weights(checkpoint.model)[f"gpt.{TOKEN_TENSORS[0]}"]
    nearest, cosines = nearest_rows(rows, merged_weights(base)[f"gpt.{TOKEN_TENSORS[0]}"])
    names = {number: token for token, number in vocabulary.tokens.items()}
    found: dict[str, int] = {}
    # the most similar row first: a token has one row
    for row in cosines.argsort(descending=True, stable=True).tolist():
        token = names.get(int(nearest[row]))
        if cosines[row] < SAME_TOKEN_COSINE:
            break
        if token is not None:
            found.setdefault(token, row)
    if not found:
        raise VocabularyError(
            f"Not one of the {info.vocab_size} token rows of {info.path} resembles a row of {file}: it comes from "
            "another base, or its rows are noise. Start from the base."
        )
    missing = [token for token in vocabulary.tokens if token not in found]
    logger.info(
        " > its vocabulary is not known: %d of the base's %d tokens are recognised by their rows%s",
        len(found),
        len(vocabulary.tokens),
        f"; not: {first_ten(missing)}" if missing else "",
    )
    return found
