"""A training checkpoint that is exported: weights, vocabulary and base, and the proof that old rows are the base's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtts_extend.checkpoint.inspect import inspect_checkpoint
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.errors import CheckFailed, CheckpointError, ConfigError
from xtts_extend.model.adapter import merge
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.model.gpt_trainer import merged_weights, row_digests, xtts_weights
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary

logger = logging.getLogger("trainer")


@dataclass(frozen=True)
class FinishedRun:
    """What is exported.

    Attributes:
        checkpoint: the file.
        vocabulary: of the run.
        base_dir: the folder of the base's files.
        base_model: the file whose weights the run started from; it may have gone.
        weights: of `Xtts`; of a run with an adapter those of its base.
        rows_checked: whether old rows were frozen and proven to be the base's.
    """

    checkpoint: TrainingCheckpoint
    vocabulary: Vocabulary
    base_dir: Path
    base_model: Path
    weights: Mapping[str, Tensor]
    rows_checked: bool

    @classmethod
    def open(cls, path: Path, base_dir: Path | None = None) -> FinishedRun:
        """Open a training checkpoint, or the newest sound one of a run folder.

        Args:
            path: the file or folder.
            base_dir: the base's folder, where it is not the recorded one any more.

        Raises:
            CheckpointError: no sound training checkpoint, or its vocabulary has gone.
            ConfigError: a given base directory does not hold the base.
            CheckFailed: the run froze the old rows and they are not the base's.
        """
        info = inspect_checkpoint(path, verify=True)
        file = Path(info.path)
        if info.kind != "training":
            raise CheckpointError(
                f"{file} is a base model; only a run's checkpoint can be exported. Give checkpoint_N.pth or a run "
                "folder."
            )
        run = TrainingCheckpoint.open(file)
        run.require_config()
        record, config = run.record, run.config
        weights = xtts_weights(run.model)
        base = base_dir or Path((record.base_dir if record else "") or file.parent)
        started_from = Path(str(config.get("started_from") or base / "model.pth"))
        given = base_dir is not None or not started_from.is_file()
        rows_checked = _verify_base_rows(weights, record.base_rows if record else None, base_dir, base)

        vocab = file.parent / "vocab.json"
        model_args: Any = config["model_args"]
        vocabulary = load_vocabulary(vocab if vocab.is_file() else Path(model_args["tokenizer_file"]))
        if record and record.vocabulary and vocabulary.digest != record.vocabulary.digest:
            raise CheckpointError(
                f"{vocabulary.path} is not the vocabulary that {file} was trained with. Put the run's own beside it."
            )
        return cls(run, vocabulary, base, base / "model.pth" if given else started_from, weights, rows_checked)

    @property
    def path(self) -> Path:
        """The file."""
        return self.checkpoint.path

    @property
    def language(self) -> str:
        """Its code; empty where the run does not record it, as those of the stock Trainer."""
        return str(self.checkpoint.config.get("language") or "")

    @property
    def adapter(self) -> Mapping[str, Tensor]:
        """The tensors of an adapter; empty without one."""
        record = self.checkpoint.record
        return record.adapter.tensors if record else {}

    @cached_property
    def merged(self) -> dict[str, Tensor]:
        """The weights that speak all that the run learned, without an adapter beside them."""
        return merge(self.weights, self.adapter)

    @cached_property
    def base_weights(self) -> dict[str, Tensor]:
        """The weights that the run started from, under the names of `Xtts`.

        Raises:
            ConfigError: they are not there any more, or do not fit the run.
        """
        file = self.base_model
        if not file.is_file():
            raise ConfigError(f"{file}, which the run started from, is not there any more. Give --base-dir.")
        content, info = load_checkpoint(file)
        base = merged_weights(content)
        fits = base.keys() == self.weights.keys() and all(
            base[name].shape[1:] == tensor.shape[1:] and base[name].shape[:1] <= tensor.shape[:1]
            for name, tensor in self.weights.items()
        )
        if not fits or info.vocab_size > self.vocabulary.size:
            raise ConfigError(f"{file} is not what the run started from: it has other tensors. Give --base-dir.")
        return base

    @cached_property
    def base_vocabulary(self) -> Vocabulary:
        """Of these weights."""
        beside = self.base_model.parent / "vocab.json"
        return load_vocabulary(beside if beside.is_file() else self.base_dir / "vocab.json")


def _verify_base_rows(
    weights: Mapping[str, Tensor], recorded: BaseRows | None, base_dir: Path | None, recorded_base: Path
) -> bool:
    """Compare the old rows with the base's digests, and with the base itself where it is named."""
    if recorded is None or not recorded.frozen:
        logger.info(" > The run trained all rows (or recorded none): old rows are not compared with the base's.")
        return False
    rows, expected = recorded.rows, recorded.digests
    if base_dir is not None:
        base = base_dir / "model.pth"
        if not base.is_file():
            raise ConfigError(f"{base_dir} holds no model.pth. Give the folder of the base that the run started from.")
        content, info = load_checkpoint(base)
        # fewer, where the run went on from another run's weights: that one's new rows are old ones now
        own = min(info.vocab_size, rows)
        of_base = merged_weights(content)
        if info.vocab_size > rows or row_digests(of_base, own) != row_digests(weights, own):
            if info.vocab_size <= rows and (half := _half_precision(weights, own)):
                rounded = {key: tensor.to(half) for key, tensor in of_base.items() if key.endswith(TOKEN_TENSORS)}
                if row_digests(rounded, own) == row_digests(weights, own):
                    raise _rounded(rows, half, base_dir)
            raise CheckFailed(
                f"The {info.vocab_size} token rows of {base} are not the first of the {rows} that the run froze. Give "
                "the base of this run."
            )
    changed = [name for name, digest in row_digests(weights, rows).items() if digest != expected[name]]
    if changed and (half := _half_precision(weights, rows)):
        raise _rounded(rows, half, recorded_base)
    if changed:
        raise CheckFailed(
            f"The first {rows} rows of {', '.join(changed)} are not the base's any more, although the run froze them: "
            "old languages would sound different. The checkpoint was edited or damaged; export an earlier one."
        )
    return True


def _half_precision(weights: Mapping[str, Tensor], rows: int) -> torch.dtype | None:
    """The type of half precision that all of the first token rows are rounded to, if there is one."""
    parts = [weights[f"gpt.{name}"][:rows] for name in TOKEN_TENSORS]
    return next(
        (
            dtype
            for dtype in (torch.float16, torch.bfloat16)
            if all(torch.equal(part, part.to(dtype).to(part.dtype)) for part in parts)
        ),
        None,
    )


def _rounded(rows: int, half: torch.dtype, base: Path) -> CheckFailed:
    return CheckFailed(
        f"The first {rows} token rows are in half precision ({half}): they are the base's, rounded, although the run "
        "froze them, and old languages would sound different. The checkpoint was converted, or its run was resumed "
        f"from one that was. Put the base's rows back with `xtts-extend repair CHECKPOINT --base {base} --output NEW` "
        "and export NEW, or export the checkpoint as it was before."
    )
