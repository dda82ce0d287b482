"""By what a model is the best of its run: the loss of the language to learn, and what it keeps of the old ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.training.evaluation import Losses
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")


class BestModel:
    """Judges the evaluations of a run; what it finds is in the run's position."""

    def __init__(self) -> None:
        #: What the last evaluation says is kept of each old language.
        self._kept: dict[str, float] = {}
        #: Whether the log says that no evaluation has been better than the one before the first step.
        self._said_worse = False

    def judge(self, state: RunState, lines: Mapping[str, Losses]) -> None:
        """Take an evaluation into account; `is_new` then says whether it found the best model.

        Args:
            state: of the run.
            lines: what `evaluate` returned; without them the training loss of the epoch counts.
        """
        position = state.position
        loss = loss_of(lines, state.config, position.train_loss)
        if position.step == 0:
            # what is worse than the start is no best model
            position.start_value = position.best_value = position.last_value = loss
            return
        self._kept = {language: values["retention"] for language, values in lines.items() if "retention" in values}
        position.last_value = selection_loss(loss, self._kept, state.config)
        better = position.last_value < position.best_value
        position.evaluations_without_best = 0 if better else position.evaluations_without_best + 1

    def is_new(self, state: RunState) -> bool:
        """Whether the loss that was just measured is the best so far; then it is noted."""
        position = state.position
        value, best, start = position.last_value, position.best_value, position.start_value
        if value < best and position.step > state.config.save_best_after:
            position.best_value, position.best_retention = value, self._kept
            logger.info(" > loss %.5f is the best so far", value)
            return True
        # what keeps too little has a line of its own
        if position.step and best == start <= value < math.inf and not self._said_worse:
            self._said_worse = True
            logger.info(
                " > loss %.5f is no better than %.5f before the first step: until one is, there is no best model.",
                value,
                start,
            )
        return False


def restore_best_model(state: RunState, base_lines: Mapping[str, Losses]) -> None:
    """Let what a resume measured or changed count: the start's loss, and what the best model has to keep.

    Args:
        state: restored.
        base_lines: losses of the model that the run started from, if they were measured.
    """
    position = state.position
    if base_lines and math.isinf(position.best_value):
        position.start_value = position.best_value = loss_of(base_lines, state.config, math.inf)
        logger.info(" > loss %.5f before the first step, measured again", position.start_value)
    if lost := _below_min_retention(position.best_retention, state.config):
        # of the other processes only warnings are seen, and one is enough
        logger.log(
            logging.WARNING if state.ranks.is_main else logging.INFO,
            " > the best model so far, with loss %.5f, is below --min-retention %s. The next model above it "
            "replaces it.",
            position.best_value,
            lost,
        )
        position.best_value, position.best_retention = position.start_value, {}
        position.evaluations_without_best = 0


def loss_of(lines: Mapping[str, Losses], config: NewLanguageConfig, train_loss: float) -> float:
    """The loss by which models are compared: of the language to learn; without an evaluation, of the training.

    It is infinite where it is not a number.
    """
    values = lines.get(config.language) or next(iter(lines.values()), {"loss": train_loss})
    return values["loss"] if math.isfinite(values["loss"]) else math.inf


def selection_loss(loss: float, kept: Mapping[str, float], config: NewLanguageConfig) -> float:
    """The loss as a candidate for the best model: infinite where an old language keeps less than `min_retention`."""
    if lost := _below_min_retention(kept, config):
        logger.info(" > no candidate for the best model: retention below %s", lost)
        return math.inf
    return loss


def _below_min_retention(kept: Mapping[str, float], config: NewLanguageConfig) -> str:
    """The languages of which less is kept than `min_retention`, in words; empty when it is enough."""
    least = config.min_retention or 0
    # a retention that is not a number is too little as well
    lost = [f"{language} {value:.4f}" for language, value in kept.items() if least and not value >= least]
    return f"{least:g} ({', '.join(lost)})" if lost else ""
