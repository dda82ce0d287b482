"""The position of a run: what every checkpoint records besides weights, optimizer and scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from xtts_extend.checkpoint.store import require_fit

#: Fields that have different names in checkpoints.
_RECORDED_AS = {"micro_batches": "parts"}


def no_best_model() -> dict[str, object]:
    """Return the values that the position's best-model fields have before any evaluation."""
    return {
        "best_value": float("inf"),
        "best_retention": {},
        "start_value": float("inf"),
        "evaluations_without_best": 0,
    }


@dataclass
class Position:
    """The position of a run, always between two optimizer steps.

    Attributes:
        step: Number of completed batches.
        epoch: Index of the current epoch, starting at 0.
        batch: Number of completed batches in this epoch.
        train_loss_sum: Sum of the finite training losses of this epoch's batches.
        train_loss_count: Number of losses in `train_loss_sum`.
        failed_updates: Number of consecutive optimizer steps that were skipped because a loss or gradient was not
            finite.
        evaluation_due: Whether an evaluation is due at this step and has not been completed.
        best_value: Loss of the best model so far; until there is one, the loss before the first step.
        best_retention: Retention of each old language in the best model so far.
        start_value: Loss before the first step; infinite if it is unknown.
        last_value: Loss in the last evaluation; infinite if retention was below the minimum.
        evaluations_without_best: Number of consecutive evaluations without a new best model.
        base_losses: Mel loss of each old language before the first step, which is the reference for retention.
        micro_batches: Number of micro-batches per batch; more than 1 if a batch did not fit in GPU memory.
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
        """Mean training loss of this epoch so far; infinite if there is none."""
        return self.train_loss_sum / self.train_loss_count if self.train_loss_count else float("inf")

    def has_passed(self, every: int | None, since: int) -> bool:
        """Return whether a multiple of `every` steps has been passed since step `since`; False if `every` is None."""
        return every is not None and self.step // every > since // every

    def start_epoch(self, epoch: int) -> None:
        """Move to the first batch of an epoch."""
        self.epoch, self.batch, self.train_loss_sum, self.train_loss_count = epoch, 0, 0.0, 0

    def forget_best(self) -> None:
        """Forget all evaluations so far, because their losses cannot be compared with later ones."""
        for name, value in no_best_model().items():
            setattr(self, name, value)

    def state_dict(self) -> dict[str, object]:
        """Return all fields as plain values, under their names in checkpoints."""
        return {_RECORDED_AS.get(name, name): value for name, value in asdict(self).items()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Set all fields.

        Raises:
            CheckpointError: A field is missing or unknown.
        """
        names = {_RECORDED_AS.get(item.name, item.name): item.name for item in fields(self)}
        require_fit(set(names), set(state), "checkpoint's position")
        for recorded, value in state.items():
            setattr(self, names[recorded], value)
