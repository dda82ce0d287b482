"""A training checkpoint to export: its weights, vocabulary and base, and a check that its old rows match the base's."""

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
    """A training checkpoint with everything that an export needs.

    Attributes:
        checkpoint: The opened checkpoint file.
        vocabulary: The run's vocabulary.
        base_dir: The folder that contains the base's files.
        base_model: The file whose weights the run started from, which may no longer exist.
        weights: The run's weights under the names of `Xtts`. If the run has an adapter, these are the base's.
        rows_checked: Whether old rows were frozen and verified to match the base's.
    """

    checkpoint: TrainingCheckpoint
    vocabulary: Vocabulary
    base_dir: Path
    base_model: Path
    weights: Mapping[str, Tensor]
    rows_checked: bool

    @classmethod
    def open(cls, path: Path, base_dir: Path | None = None) -> FinishedRun:
        """Open a training checkpoint, or the newest intact one in a run folder.

        Args:
            path: The checkpoint file or run folder.
            base_dir: The base's folder, if it has moved since the run.

        Raises:
            CheckpointError: There is no intact training checkpoint, or its vocabulary is missing.
            ConfigError: `base_dir` does not contain the base.
            CheckFailed: The run froze the old rows, but they differ from the base's.
        """
        info = inspect_checkpoint(path, verify=True)
        file = Path(info.path)
        if info.kind != "training":
            raise CheckpointError(
                f"{file} is a base model; expected a training checkpoint. Pass a checkpoint_N.pth or a run folder "
                "with --checkpoint."
            )
        run = TrainingCheckpoint.open(file)
        run.require_config()
        record, config = run.record, run.config
        weights = xtts_weights(run.model)
        base = base_dir or Path((record.base_dir if record else "") or file.parent)
        started_from = Path(str(config.get("started_from") or base / "model.pth"))
        use_base = base_dir is not None or not started_from.is_file()
        rows_checked = _verify_base_rows(weights, record.base_rows if record else None, base_dir, base)

        vocab = file.parent / "vocab.json"
        model_args: Any = config["model_args"]
        vocabulary = load_vocabulary(vocab if vocab.is_file() else Path(model_args["tokenizer_file"]))
        if record and record.vocabulary and vocabulary.digest != record.vocabulary.digest:
            raise CheckpointError(
                f"{vocabulary.path} is not the vocabulary that {file} was trained with. Copy the run's vocab.json into "
                "the checkpoint's folder."
            )
        return cls(run, vocabulary, base, base / "model.pth" if use_base else started_from, weights, rows_checked)

    @property
    def path(self) -> Path:
        """Path of the checkpoint file."""
        return self.checkpoint.path

    @property
    def language(self) -> str:
        """Code of the new language, or an empty string if it is not recorded, as in the stock Trainer's runs."""
        return str(self.checkpoint.config.get("language") or "")

    @property
    def adapter(self) -> Mapping[str, Tensor]:
        """The adapter's tensors, or an empty dict if there is no adapter."""
        record = self.checkpoint.record
        return record.adapter.tensors if record else {}

    @cached_property
    def merged(self) -> dict[str, Tensor]:
        """The run's weights with its adapter merged into them."""
        return merge(self.weights, self.adapter)

    @cached_property
    def base_weights(self) -> dict[str, Tensor]:
        """The weights that the run started from, under the names of `Xtts`.

        Raises:
            ConfigError: The file no longer exists, or does not match the run.
        """
        file = self.base_model
        if not file.is_file():
            raise ConfigError(f"{file}, which the run started from, no longer exists. Pass the base with --base-dir.")
        content, info = load_checkpoint(file)
        base = merged_weights(content)
        matches = base.keys() == self.weights.keys() and all(
            base[name].shape[1:] == tensor.shape[1:] and base[name].shape[:1] <= tensor.shape[:1]
            for name, tensor in self.weights.items()
        )
        if not matches or info.vocab_size > self.vocabulary.size:
            raise ConfigError(
                f"{file} is not the base that the run started from: its tensors differ in name or shape. Pass the "
                "correct base with --base-dir."
            )
        return base

    @cached_property
    def base_vocabulary(self) -> Vocabulary:
        """The vocabulary that belongs to the base weights."""
        vocab = self.base_model.parent / "vocab.json"
        return load_vocabulary(vocab if vocab.is_file() else self.base_dir / "vocab.json")


def _verify_base_rows(
    weights: Mapping[str, Tensor], recorded: BaseRows | None, base_dir: Path | None, recorded_base: Path
) -> bool:
    """Return whether old rows were frozen. Raise CheckFailed if they were but differ from the digests or `base_dir`."""
    if recorded is None or not recorded.frozen:
        logger.info(" > Old rows are not compared with the base's, because the run did not freeze them.")
        return False
    rows, expected = recorded.rows, recorded.digests
    if base_dir is not None:
        base = base_dir / "model.pth"
        if not base.is_file():
            raise ConfigError(
                f"{base_dir} has no model.pth. Use --base-dir to pass the base that the run started from."
            )
        content, info = load_checkpoint(base)
        # The base has fewer rows if the run started from another run, whose new rows count as old rows here.
        shared_rows = min(info.vocab_size, rows)
        base_weights = merged_weights(content)
        if info.vocab_size > rows or row_digests(base_weights, shared_rows) != row_digests(weights, shared_rows):
            if info.vocab_size <= rows and (half := _half_precision(weights, shared_rows)):
                rounded = {key: tensor.to(half) for key, tensor in base_weights.items() if key.endswith(TOKEN_TENSORS)}
                if row_digests(rounded, shared_rows) == row_digests(weights, shared_rows):
                    raise _rounded_error(rows, half, base_dir)
            raise CheckFailed(
                f"The {info.vocab_size} token rows of {base} do not match the corresponding rows among the {rows} "
                "that the run froze. Pass the run's base with --base-dir."
            )
    changed = [name for name, digest in row_digests(weights, rows).items() if digest != expected[name]]
    if changed and (half := _half_precision(weights, rows)):
        raise _rounded_error(rows, half, recorded_base)
    if changed:
        raise CheckFailed(
            f"The first {rows} rows of {', '.join(changed)} no longer match the base's, although the run froze them, "
            "so old languages would sound different. The checkpoint was edited or damaged. Export an earlier "
            "checkpoint."
        )
    return True


def _half_precision(weights: Mapping[str, Tensor], rows: int) -> torch.dtype | None:
    """Return the half-precision type to which all of the first token rows are rounded, or None."""
    parts = [weights[f"gpt.{name}"][:rows] for name in TOKEN_TENSORS]
    return next(
        (
            dtype
            for dtype in (torch.float16, torch.bfloat16)
            if all(torch.equal(part, part.to(dtype).to(part.dtype)) for part in parts)
        ),
        None,
    )


def _rounded_error(rows: int, half: torch.dtype, base: Path) -> CheckFailed:
    return CheckFailed(
        f"The first {rows} token rows are the base's rows, rounded to half precision ({half}), although the run "
        "froze them, so old languages would sound different. The checkpoint was converted, or the run was resumed "
        f"from a converted one. Restore the base's rows with `xtts-extend repair CHECKPOINT --base {base} --output "
        "NEW` and export NEW, or export the checkpoint from before the conversion."
    )
