"""Where a run is: what every checkpoint records beside weights, optimizer and scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from xtts_extend.checkpoint.store import require_fit

#: Fields that checkpoints hold under another name.
_RECORDED_AS = {"micro_batches": "parts"}


def no_best_model() -> dict[str, object]:
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
        micro_batches: how many parts each batch is split into, because all of it did not fit into GPU memory.
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
    micro_batches: int = 1

    @property
    def train_loss(self) -> float:
        """Mean training loss of this epoch so far."""
        return self.train_loss_sum / self.train_loss_count if self.train_loss_count else float("inf")

    def start_epoch(self, epoch: int) -> None:
        """Move to the first batch of an epoch."""
        self.epoch, self.batch, self.train_loss_sum, self.train_loss_count = epoch, 0, 0.0, 0

    def forget_best(self) -> None:
        """Let no evaluation so far count: they measured something else."""
        for name, value in no_best_model().items():
            setattr(self, name, value)

    def state_dict(self) -> dict[str, object]:
        """All fields as plain values, under the names that checkpoints use."""
        return {_RECORDED_AS.get(name, name): value for name, value in asdict(self).items()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over all fields; a missing or left-over one is a CheckpointError that names it."""
        names = {_RECORDED_AS.get(item.name, item.name): item.name for item in fields(self)}
        require_fit(set(names), set(state), "checkpoint's position")
        for recorded, value in state.items():
            setattr(self, names[recorded], value)
