"""Open a checkpoint together with its base model, and match the token rows of the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from TTS.tts.layers.xtts.gpt import GPT

from xtts_extend.checkpoint.inspect import CheckpointInfo, inspect_checkpoint, weights_of
from xtts_extend.checkpoint.integrity import require_intact
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.errors import CheckpointError, DamagedError
from xtts_extend.model.adapter import add_adapter, is_adapter
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.frozen_rows import FrozenRowsEmbedding, FrozenRowsLinear
from xtts_extend.model.gpt_trainer import merged_weights, row_digests
from xtts_extend.model.learning_rates import configured_groups
from xtts_extend.model.migration import nearest_rows
from xtts_extend.model.voice import freeze_voice
from xtts_extend.run.config import NewLanguageConfig, copy_recorded
from xtts_extend.run.record import RunRecord
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.setup.vocabulary_change import SAME_TOKEN_COSINE, CheckpointVocabulary, checkpoint_vocabulary
from xtts_extend.text.vocabulary import Vocabulary, first_ten, load_vocabulary

#: Key in a repaired file under which the number of re-initialized new rows is stored.
REINITIALISED = "reinitialised_rows"


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint and its base model, with tensors memory-mapped from the files.

    Attributes:
        info: The checkpoint's header.
        content: The loaded content of the checkpoint.
        prefix: Prefix of the names of the GPT's tensors in the checkpoint.
        weights: The checkpoint's tensors, keyed by their names in `Xtts`.
        base: The base's tensors, keyed by their names in `Xtts`.
        base_file: The base's file.
        base_vocabulary: The vocabulary beside the base's file, if there is one.
        known: The vocabulary that the checkpoint was trained with, if it can be determined from the files.
        tokens: Token → row in the checkpoint, from `known` or else from the user's vocabulary; None if unknown.
        source: Where `tokens` comes from; if `tokens` is None, the reason why the vocabulary that was found is not
            the checkpoint's.
        rows: Indices of the checkpoint's rows that belong to tokens of the base, of shape (n,).
        base_rows: Indices of the same tokens' rows in the base, of shape (n,).
    """

    info: CheckpointInfo
    content: dict[str, Any]
    prefix: str
    weights: dict[str, Tensor]
    base: dict[str, Tensor]
    base_file: Path
    base_vocabulary: Vocabulary | None
    known: CheckpointVocabulary | None
    tokens: Mapping[str, int] | None
    source: str
    rows: Tensor
    base_rows: Tensor

    @cached_property
    def training(self) -> TrainingCheckpoint:
        """The content, interpreted according to the trainer that wrote it."""
        return TrainingCheckpoint.of(self.content, self.info)

    @property
    def record(self) -> RunRecord | None:
        """The record that our runs store; None in files written by the stock Trainer."""
        return self.training.record

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The run's configuration; empty if unknown."""
        return self.training.config

    @property
    def frozen_rows(self) -> int:
        """Number of rows that the run froze."""
        return self.record.base_rows.rows if self.record and self.record.base_rows.frozen else 0

    @property
    def adapter_rank(self) -> int:
        """Rank of the run's adapter; 0 if it has none."""
        return self.record.adapter.rank if self.record else 0

    @property
    def voice_was_frozen(self) -> bool:
        """Whether the run froze the voice side of the GPT."""
        return bool(self.recorded.get("voice") == "frozen")

    @property
    def new_rows(self) -> Tensor:
        """Indices of the checkpoint's rows for tokens that are not in the base, of shape (m,), excluding unused ids."""
        old = set(self.rows.tolist())
        all_rows = range(self.info.vocab_size) if self.tokens is None else sorted(self.tokens.values())
        return torch.tensor([row for row in all_rows if row not in old], dtype=torch.long)

    @property
    def vocabulary(self) -> Vocabulary:
        """A vocabulary with the checkpoint's tokens but no merges, because checkpoints do not record merges."""
        return Vocabulary(Path(self.info.path), dict(self.tokens or {}), [], "")

    @property
    def token_of(self) -> dict[int, str]:
        """Row in the checkpoint → its token, or "row N" for every row if the tokens are unknown."""
        if self.tokens is None:
            return {row: f"row {row}" for row in range(self.info.vocab_size)}
        return {row: token for token, row in self.tokens.items()}


def open_checkpoint_with_base(checkpoint: Path, base: Path, vocab: Path | None) -> OpenedCheckpoint:
    """Open a checkpoint and its base model, and match the token rows of the two.

    Args:
        checkpoint: A checkpoint file, or a run folder, in which case its newest intact checkpoint is opened.
        base: A base directory, or its `model.pth`.
        vocab: The vocabulary to use if the checkpoint's is unknown and this one has as many tokens as there are rows.

    Raises:
        DamagedError: The checkpoint is damaged.
        CheckpointError: One of the two is not an XTTS model, or the checkpoint was not trained from this base.
        VocabularyError: A vocabulary cannot be read.
    """
    info = inspect_checkpoint(checkpoint, verify=True)
    content, _ = load_checkpoint(Path(info.path))
    _, prefix = weights_of(content, Path(info.path))
    try:
        base_info = inspect_checkpoint(base)
        base_file = Path(base_info.path)
        require_intact(base_file)
    except DamagedError as error:
        # Callers assume that a DamagedError is about the checkpoint.
        raise CheckpointError(str(error)) from error
    if _sizes(base_info) != _sizes(info):
        raise CheckpointError(
            f"{info.path} has {_sizes(info)}, but {base_file} has {_sizes(base_info)}, so the checkpoint was not "
            "trained from this base. Pass the base that the run started from."
        )
    base_content, _ = load_checkpoint(base_file)
    weights, base_weights = merged_weights(content), merged_weights(base_content)
    _require_same_architecture(weights, base_weights, info.path, base_file)
    beside = base_file.parent / "vocab.json"
    base_vocabulary = load_vocabulary(beside) if beside.is_file() else None
    training = TrainingCheckpoint.of(content, info)
    known, source = checkpoint_vocabulary(training)
    tokens = known.tokens if known else None
    if known is None and vocab is not None and (given := load_vocabulary(vocab)).size == info.vocab_size:
        tokens, source = given.tokens, f"{vocab}, passed as --vocab"
    if tokens is not None and base_vocabulary is not None:
        pairs = [(tokens[token], row) for token, row in base_vocabulary.tokens.items() if token in tokens]
        # In released vocabularies, some ids have no token.
        unnamed = set(range(base_info.vocab_size)) - set(base_vocabulary.tokens.values()) - set(tokens.values())
        pairs += [(row, row) for row in sorted(unnamed) if row < info.vocab_size]
    else:
        pairs = [(row, row) for row in range(min(info.vocab_size, base_info.vocab_size))]
    rows, base_rows = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    _require_its_base(training.record, weights, base_weights, rows, base_rows, info.path, base_file)
    return OpenedCheckpoint(
        info,
        content,
        prefix,
        weights,
        base_weights,
        base_file,
        base_vocabulary,
        known,
        tokens,
        known.source if known else source,
        rows,
        base_rows,
    )


def _require_same_architecture(
    weights: Mapping[str, Tensor], base: Mapping[str, Tensor], path: str, file: Path
) -> None:
    """Raise unless the GPTs in both files have the same tensors, except for token rows, and the base's are finite."""

    def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        gpt = {key.removeprefix("gpt."): tuple(tensor.shape) for key, tensor in state.items() if key.startswith("gpt.")}
        return {name: shape[1:] if name in TOKEN_TENSORS else shape for name, shape in gpt.items()}

    found, expected = shapes(weights), shapes(base)
    differ = sorted({name for name in {*found, *expected, *TOKEN_TENSORS} if found.get(name) != expected.get(name)})
    if differ or not found.keys() >= set(TOKEN_TENSORS):
        raise CheckpointError(
            f"{path} and {file} differ in the names or shapes of {len(differ)} tensors "
            f"({first_ten(differ) or 'text_head'}), so the checkpoint was not trained from this base. Pass the base "
            "that the run started from."
        )
    if broken := [key for key, tensor in base.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"The base {file} contains NaN or infinity ({first_ten(broken)}). Use an intact copy.")


def _require_its_base(
    record: RunRecord | None,
    weights: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    rows: Tensor,
    base_rows: Tensor,
    path: str,
    file: Path,
) -> None:
    """Raise if the base's token rows neither equal those that our run started from nor resemble the checkpoint's."""
    if record is None or not record.base_rows.digests or not len(rows):
        return
    count = min(record.base_rows.rows, base["gpt.text_head.bias"].shape[0])
    if row_digests(base, count) == record.base_rows.digests:
        return
    embedding = f"gpt.{TOKEN_TENSORS[0]}"
    _, cosines = nearest_rows(weights[embedding][rows], base[embedding])
    if float(cosines.mean()) < SAME_TOKEN_COSINE / 2:
        raise CheckpointError(
            f"The token rows of {file} do not resemble those at the start of the run that wrote {path}, so the run "
            "did not start from this base. Pass the base that the run started from."
        )


def _sizes(info: CheckpointInfo) -> str:
    return f"{info.architecture.layers} layers × {info.architecture.channels} channels"


def moments_by_name(opened: OpenedCheckpoint) -> dict[str, dict[str, Any]] | None:
    """Return the optimizer's state, keyed by parameter name in the GPT (such as "text_head.weight").

    In checkpoints, the parameters are numbered in an order that follows from the architecture and the configuration.
    The order is taken from a GPT on the meta device.

    Returns:
        Parameter name → state, excluding frozen rows and adapters. None if the file has no optimizer state, or if its
        optimizer state is for different parameters.
    """
    if not opened.training.optimizer:
        return None
    config = NewLanguageConfig()
    config.optimizer_wd_only_on_weights = False
    copy_recorded(config, opened.recorded)
    args = config.model_args
    with torch.device("meta"):
        gpt = GPT(
            layers=args.gpt_layers,
            model_dim=args.gpt_n_model_channels,
            heads=args.gpt_n_heads,
            number_text_tokens=opened.info.vocab_size,
            num_audio_tokens=args.gpt_num_audio_tokens,
            use_perceiver_resampler=args.gpt_use_perceiver_resampler,
        )
        if opened.frozen_rows:
            gpt.text_embedding = FrozenRowsEmbedding(gpt.text_embedding, opened.frozen_rows)
            gpt.text_head = FrozenRowsLinear(gpt.text_head, opened.frozen_rows)
        if opened.voice_was_frozen:
            freeze_voice(gpt)
        if opened.adapter_rank:
            add_adapter(gpt, opened.adapter_rank)
    names = {id(parameter): name.replace(".new.", ".") for name, parameter in gpt.named_parameters()}
    saved: Mapping[str, Any] = opened.training.optimizer[0]
    groups = [[names[id(part)] for part in group["params"]] for group in configured_groups(gpt, config)]
    if [len(group) for group in groups] != [len(group["params"]) for group in saved["param_groups"]]:
        return None
    return {
        name: saved["state"][number]
        for named, group in zip(groups, saved["param_groups"], strict=True)
        for name, number in zip(named, group["params"], strict=True)
        if number in saved["state"] and not is_adapter(name)
    }


def row_moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the parts of a parameter's optimizer state that have its shape (for AdamW, exp_avg and exp_avg_sq)."""
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and value.ndim}


def expected_shape(opened: OpenedCheckpoint, name: str) -> tuple[int, ...]:
    """Return the expected shape of a parameter's moments: its own shape, minus the rows that the run froze."""
    shape = tuple(opened.weights[f"gpt.{name}"].shape)
    return (shape[0] - opened.frozen_rows, *shape[1:]) if name in TOKEN_TENSORS else shape
