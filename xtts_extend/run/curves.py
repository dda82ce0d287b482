"""Analyze the loss curves stored beside a checkpoint in our `metrics.jsonl` or a stock run's TensorBoard file."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from xtts_extend.run.metrics import MetricsLine, comparable, finite

#: (step, loss) pairs, ordered by step.
Curve = list[tuple[int, float]]

#: Number of most recent evaluations that are checked for overfitting (all worse than the best) and for a plateau.
_LAST_EVALUATIONS = 3
#: Relative increase in a loss above which it counts as worse.
_WORSE = 0.02
#: A run has diverged if the ratio of its training loss in the last tenth of the steps to that in the best tenth exceeds
#: this.
_DIVERGENCE_RATIO = 1.3
#: Relative decrease in a loss that counts as an improvement.
_GAIN = 0.005
#: Minimum number of steps needed to judge a run.
_STEPS_TO_JUDGE = 50


@dataclass(frozen=True)
class Curves:
    """Loss curves up to a checkpoint's step.

    Attributes:
        source: Path that the curves were read from.
        train: Training losses.
        evaluation: Evaluation losses of the language to learn.
    """

    source: str
    train: Curve
    evaluation: Curve

    def overfitted(self) -> str:
        """Return why the run has overfitted (evaluation loss up, training loss down), or an empty string if not."""
        if self.evaluation:
            step, best = min(self.evaluation, key=lambda point: point[1])
            later = [loss for at, loss in self.evaluation if at > step]
            last = later[-_LAST_EVALUATIONS:]
            is_rising = len(last) == _LAST_EVALUATIONS and min(last) > best * (1 + _WORSE)
            if is_rising and self._is_falling_since(step):
                return (
                    f"the evaluation loss was lowest at step {step} ({best:.4f}) and is now {later[-1]:.4f}, "
                    f"{len(later)} evaluations later, while the training loss is falling"
                )
        worse = self._worse_than_at_start()
        return f"{worse}, while the training loss is falling" if worse and self._is_falling() else ""

    def diverged(self) -> str:
        """Return why the run diverged, or an empty string if it did not."""
        tenths = self._mean_of_tenths()
        if tenths and tenths[-1] > _DIVERGENCE_RATIO * min(tenths):
            return f"the training loss diverged: {tenths[-1]:.4f} in the last steps, {min(tenths):.4f} at its lowest"
        worse = self._worse_than_at_start()
        return f"{worse}, so training made the model worse" if worse and not self.overfitted() else ""

    def best_step(self) -> float:
        """Return the step of the best evaluation, or else the end of the best tenth of training, or else infinity."""
        if self.evaluation:
            return min(self.evaluation, key=lambda point: point[1])[0]
        tenths = self._mean_of_tenths()
        return self.train[len(self.train) * (tenths.index(min(tenths)) + 1) // 10 - 1][0] if tenths else math.inf

    def _worse_than_at_start(self) -> str:
        """Return how the evaluation loss has risen since the start of the run, or an empty string."""
        if not self.evaluation or self.evaluation[0][0] != 0:
            return ""
        before, now = self.evaluation[0][1], self.evaluation[-1][1]
        if now <= before * (1 + _WORSE):
            return ""
        return f"the evaluation loss was {before:.4f} before the first step and is now {now:.4f}"

    def stalled(self) -> str:
        """Return why training has stalled, or an empty string if it has not or cannot be judged yet."""
        tenths = self._mean_of_tenths()
        if not tenths:
            return ""
        middle, end = fmean(tenths[4:6]), fmean(tenths[8:])
        if abs(middle - end) > _GAIN * middle:
            return ""
        return f"the training loss has stalled: {middle:.4f} in the middle of the run, {end:.4f} at its end"

    def plateau(self) -> str:
        """Return why the evaluation loss has plateaued, or an empty string if it has not or cannot be judged yet."""
        if len(self.evaluation) <= _LAST_EVALUATIONS or self.evaluation[-1][0] < _STEPS_TO_JUDGE:
            return ""
        before = min(loss for _, loss in self.evaluation[:-_LAST_EVALUATIONS])
        last = min(loss for _, loss in self.evaluation[-_LAST_EVALUATIONS:])
        if last < before * (1 - _GAIN):
            return ""
        return (
            f"the best loss in the last {_LAST_EVALUATIONS} evaluations was {last:.4f}, and the best one before that "
            f"was {before:.4f}"
        )

    def findings(self) -> dict[str, str]:
        """Return the problems in the curves by kind. Each description gives the likely cause and the page to read."""
        if reason := self.overfitted() or self.diverged():
            return {
                "divergence": f"{reason}. The learning rate is probably too high, or there is too little data for this "
                "many epochs. See 'Divergence and plateaus' in docs/keeping-languages.md."
            }
        if reason := self.plateau():
            return {
                "plateau": f"{reason}. The model has probably learned what it can from this data at this learning "
                "rate. Lower the learning rate or end the run. See 'Divergence and plateaus' in "
                "docs/keeping-languages.md."
            }
        return {}

    def new_findings(self) -> dict[str, str]:
        """Return the findings that are new since the previous evaluation."""
        if not self.evaluation:
            return {}
        step = self.evaluation[-1][0]
        earlier = Curves(self.source, [point for point in self.train if point[0] < step], self.evaluation[:-1])
        return {name: text for name, text in self.findings().items() if name not in earlier.findings()}

    def _is_falling_since(self, step: int) -> bool:
        """Return whether the training loss is lower now than just before a step."""
        window = max(1, len(self.train) // 10)
        before = [loss for at, loss in self.train if at <= step][-window:]
        return bool(before) and fmean(loss for _, loss in self.train[-window:]) < fmean(before)

    def _is_falling(self) -> bool:
        """Return whether the recent mean training loss is below the lowest loss of the first steps."""
        window = max(1, len(self.train) // 10)
        first, last = ([loss for _, loss in part] for part in (self.train[:window], self.train[-window:]))
        return bool(first) and fmean(last) < min(first)

    def _mean_of_tenths(self) -> list[float]:
        """Return the mean loss of each tenth of the steps, or an empty list for short runs."""
        count = len(self.train)
        if count < _STEPS_TO_JUDGE:
            return []
        edges = [count * tenth // 10 for tenth in range(11)]
        return [fmean(loss for _, loss in self.train[a:b]) for a, b in itertools.pairwise(edges)]


def read_curves(checkpoint: Path, step: int | None, language: str) -> Curves | None:
    """Read the loss curves beside a checkpoint, or return None if there are none.

    Args:
        checkpoint: Checkpoint file. Only its folder is read.
        step: Last step to include, usually the checkpoint's; None to include all.
        language: Code of the language to learn. Evaluations of other languages are skipped. If empty, all are read.
    """
    last = float("inf") if step is None else step
    metrics = checkpoint.parent / "metrics.jsonl"
    if metrics.is_file():
        curves = _from_metrics(metrics, last, language)
    elif events := sorted(checkpoint.parent.glob("events.out.tfevents*")):
        curves = _from_tensorboard(events[0].parent, last)
    else:
        return None
    return curves


def _from_metrics(file: Path, last: float, language: str) -> Curves:
    """Read the curves from `metrics.jsonl`. Incomplete lines are skipped."""
    train: Curve = []
    evaluations: list[MetricsLine] = []
    for line in file.read_bytes().splitlines():
        try:
            values = json.loads(line)
            # float(None) raises for a loss that was not finite.
            step, loss = int(values["step"]), float(values["loss"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
        if not math.isfinite(loss) or step > last:
            continue
        if not values.get("eval"):
            train.append((step, loss))
        elif values.get("language") == language or not language:
            evaluations.append(values)
    return Curves(str(file), train, [(line["step"], finite(line["loss"])) for line in comparable(evaluations)])


def _from_tensorboard(folder: Path, last: float) -> Curves:
    """Read what coqui's Trainer logs: a batch's loss every `plot_step` steps, and each epoch's mean evaluation loss."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    tags = set(events.Tags()[SCALARS])

    def curve(tag: str) -> Curve:
        points = events.Scalars(tag) if tag in tags else []
        return [(point.step, point.value) for point in points if point.step <= last and math.isfinite(point.value)]

    return Curves(str(folder), curve("TrainIterStats/loss"), curve("EvalStats/avg_loss"))
