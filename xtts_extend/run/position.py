"""Where a run is: what every checkpoint records beside weights, optimizer and scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from xtts_extend.checkpoint.inspect import CheckpointInfo
from xtts_extend.checkpoint.store import FORMAT_VERSION, require_fit
from xtts_extend.errors import CheckpointError
from xtts_extend.run.recorded import updates_of


def unjudged() -> dict[str, Any]:
    """What a position says of the best model when no evaluation counts."""
    return {
        "best_value": float("inf"),
        "best_retention": {},
        "start_value": float("inf"),
        "evaluations_without_best": 0,
    }


@dataclass
class Position:
    """Where a run is, always between two optimizer steps.

    Attributes:
        step: finished batches.
        epoch: the current epoch, from 0.
        batch: finished batches of this epoch.
        train_loss_sum: sum of the training losses of this epoch's batches, as far as they are finite.
        train_loss_count: how many these are.
        failed_updates: optimizer steps in a row, up to here, that a loss or gradient that is not finite prevented.
        evaluation_due: an evaluation fell due here and is not complete.
        best_value: the loss of the best model so far, and before there is one, the loss before the first step.
        best_retention: what the best model so far keeps of each old language.
        start_value: the loss before the first step; infinite where it is not known.
        last_value: the loss that the last evaluation gave; infinite where it kept too little of an old language.
        evaluations_without_best: evaluations in a row, up to here, that gave no better model.
        base_losses: the mel loss of each old language before the first step, which retention is measured by.
        parts: shares that a batch is trained in, because the whole did not fit into the GPU's memory.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    train_loss_sum: float = 0.0
    train_loss_count: int = 0
    failed_updates: int = 0
    evaluation_due: bool = False
    best_value: float = float("inf")
    best_retention: dict[str, float] = field(default_factory=dict)
    start_value: float = float("inf")
    last_value: float = float("inf")
    evaluations_without_best: int = 0
    base_losses: dict[str, float] = field(default_factory=dict)
    parts: int = 1

    @property
    def train_loss(self) -> float:
        """Mean training loss of this epoch so far."""
        return self.train_loss_sum / self.train_loss_count if self.train_loss_count else float("inf")

    def start_epoch(self, epoch: int) -> None:
        """Move to the first batch of an epoch."""
        self.epoch, self.batch, self.train_loss_sum, self.train_loss_count = epoch, 0, 0.0, 0

    def forget_best(self) -> None:
        """Let no evaluation so far count: they measured something else."""
        for name, value in unjudged().items():
            setattr(self, name, value)

    def state_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over all fields; a missing or left-over one is a CheckpointError that names it."""
        require_fit({item.name for item in fields(self)}, set(state), "checkpoint's position")
        for name, value in state.items():
            setattr(self, name, value)

    @classmethod
    def of(cls, content: Mapping[str, Any], info: CheckpointInfo) -> Position:
        """The position that a training checkpoint, as `as_recorded` returns it, holds.

        The stock Trainer saves `checkpoint_N` before it counts batch N + 1 and `best_model_N` after, both with `step`
        N. The number of updates tells them apart when there was no gradient accumulation; else it is taken for the
        former. It does not record the place within the epoch, so that the epoch starts again. Its best loss is no
        measure for ours: it is a mean over batches but the first, of samples that are not recorded, or the training
        loss of an epoch by the batches of an accumulation.
        """
        position = cls()
        if info.written_by == "xtts_extend":
            record = content["xtts_extend"]
            if record.get("version") not in range(1, FORMAT_VERSION + 1):
                raise CheckpointError(
                    f"{info.path} has format version {record.get('version')}; this release reads 1 to "
                    f"{FORMAT_VERSION}. Use the release of xtts_extend that wrote it."
                )
            # version 1 did not measure what is kept, and a batch was always trained at once; up to version 2 the
            # evaluation before the first step did not compete
            added = {1: {**unjudged(), "base_losses": {}, "parts": 1}, 2: unjudged()}.get(record["version"], {})
            position.load_state_dict({**added, **record["state"]})
            return position
        recorded = int(content["step"])
        position.step = recorded if updates_of(content) == {recorded} else recorded + 1
        position.epoch = int(content["epoch"])
        return position
