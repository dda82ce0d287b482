"""Select a run's best model by its loss on the new language and its retention of the old languages."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.training.evaluation import Losses
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")


class BestModel:
    """The evaluation results by which the best model is selected. The run's position stores the outcome."""

    def __init__(self) -> None:
        #: Retention of each old language in the last evaluation.
        self._retention: dict[str, float] = {}
        #: Whether the log already says that no evaluation has beaten the one before the first step.
        self._logged_no_better = False

    def judge(self, state: RunState, losses: Mapping[str, Losses], *, requested: bool = False) -> bool:
        """Record the result of an evaluation. `is_new` then says whether the model is the best one so far.

        Args:
            state: The run's state; its position is updated.
            losses: Result of `log_evaluation`. If it is empty, the epoch's training loss is used.
            requested: Whether the evaluation was requested rather than scheduled. Such an evaluation can find the best
                model, but does not count toward `patience`, so that frequent requests do not end a run. Without losses,
                it has no result, because the training loss over part of an epoch is not comparable.

        Returns:
            Whether the evaluation has a result.
        """
        if requested and not losses:
            if state.ranks.is_main:
                logger.warning(
                    " > An evaluation was requested, but the run has no validation set. Training continues. To add a "
                    "validation set, resume with --val-manifest."
                )
            return False
        position = state.position
        loss = loss_of(losses, state.config, position.train_loss)
        if position.step == 0:
            # A model that is worse than the starting point must not become the best model.
            position.start_value = position.best_value = position.last_value = loss
            return True
        self._retention = {
            language: values["retention"] for language, values in losses.items() if "retention" in values
        }
        position.last_value = selection_loss(loss, self._retention, state.config)
        better = position.last_value < position.best_value
        if better:
            position.evaluations_without_best = 0
        elif not requested:
            position.evaluations_without_best += 1
        return True

    def is_new(self, state: RunState) -> bool:
        """Return whether the latest loss is the best so far, and record it if so."""
        position = state.position
        value, best, start = position.last_value, position.best_value, position.start_value
        if value < best and position.step > state.config.save_best_after:
            position.best_value, position.best_retention = value, self._retention
            logger.info(" > Loss %.5f is the best so far.", value)
            return True
        # Retention below the minimum makes the value infinite and is logged separately.
        if position.step and best == start <= value < math.inf and not self._logged_no_better:
            self._logged_no_better = True
            logger.info(
                " > Loss %.5f is no better than the loss before the first step (%.5f). No best model will be saved "
                "until the loss falls below that value.",
                value,
                start,
            )
        return False


def restore_best_model(state: RunState, base_losses: Mapping[str, Losses]) -> None:
    """Update the record of the best model if the initial loss was remeasured or `min_retention` changed.

    Args:
        state: The restored state; its position is updated.
        base_losses: Losses of the model that the run started from, by language; empty if they were not measured.
    """
    position = state.position
    if base_losses and math.isinf(position.best_value):
        position.start_value = position.best_value = loss_of(base_losses, state.config, math.inf)
        logger.info(" > The loss before the first step was measured again: %.5f.", position.start_value)
    if below := _below_min_retention(position.best_retention, state.config):
        # Warnings from every process are shown, but one is enough.
        logger.log(
            logging.WARNING if state.ranks.is_main else logging.INFO,
            " > The best model so far (loss %.5f) is below --min-retention %s. The next model that meets the minimum "
            "will replace it.",
            position.best_value,
            below,
        )
        position.best_value, position.best_retention = position.start_value, {}
        position.evaluations_without_best = 0


def loss_of(losses: Mapping[str, Losses], config: NewLanguageConfig, train_loss: float) -> float:
    """Return the loss by which models are compared: the new language's, or the training loss if nothing was evaluated.

    A loss that is not finite counts as infinite.
    """
    values = losses.get(config.language) or next(iter(losses.values()), {"loss": train_loss})
    return values["loss"] if math.isfinite(values["loss"]) else math.inf


def selection_loss(loss: float, retention: Mapping[str, float], config: NewLanguageConfig) -> float:
    """Return the loss, or infinity if the retention of an old language is below `min_retention`."""
    if below := _below_min_retention(retention, config):
        logger.info(" > This model cannot become the best model, because its retention is below %s.", below)
        return math.inf
    return loss


def _below_min_retention(retention: Mapping[str, float], config: NewLanguageConfig) -> str:
    """Return text that names `min_retention` and the languages below it, or "" if there are none."""
    least = config.min_retention or 0
    # The comparison is negated so that NaN counts as too low.
    below = [f"{language} {value:.4f}" for language, value in retention.items() if least and not value >= least]
    return f"{least:g} ({', '.join(below)})" if below else ""
