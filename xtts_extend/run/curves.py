"""What the loss curves beside a checkpoint say: `metrics.jsonl` of ours, or the TensorBoard file of a stock run."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from xtts_extend.run.metrics import MetricsLine, comparable, finite

#: (step, loss), in order.
Curve = list[tuple[int, float]]

#: The evaluation has turned when the last so many, after the best one, are all worse by this share.
_LAST_EVALUATIONS = 3
_WORSE = 0.02
#: The training loss ran away when the mean of the last tenth of the steps is so many times that of the best tenth.
_RAN_AWAY = 1.3
#: It stands still when the second half of the steps gains less than this share.
_GAIN = 0.005
#: Fewer steps say nothing.
_STEPS_TO_JUDGE = 50


@dataclass(frozen=True)
class Curves:
    """Losses up to the checkpoint's step: of training batches, and of evaluations of the language that is learned."""

    source: str
    train: Curve
    evaluation: Curve

    def overfitted(self) -> str:
        """Why the best point of the run lies behind this checkpoint, though it learns on; empty when it does not."""
        if self.evaluation:
            step, best = min(self.evaluation, key=lambda point: point[1])
            after = [loss for at, loss in self.evaluation if at > step]
            last = after[-_LAST_EVALUATIONS:]
            turned = len(last) == _LAST_EVALUATIONS and min(last) > best * (1 + _WORSE)
            if turned and self._is_falling_since(step):
                return (
                    f"the evaluation loss was best at step {step} ({best:.4f}) and is {after[-1]:.4f} now, "
                    f"{len(after)} evaluations later, while the training loss falls"
                )
        worse = self._worse_than_at_the_start()
        return f"{worse}, while the training loss falls" if worse and self._is_falling() else ""

    def diverged(self) -> str:
        """Why the run diverged, in words; empty when it did not."""
        tenths = self._mean_of_tenths()
        if tenths and tenths[-1] > _RAN_AWAY * min(tenths):
            return f"the training loss ran away: {tenths[-1]:.4f} in the last steps, {min(tenths):.4f} at its best"
        worse = self._worse_than_at_the_start()
        return f"{worse}: the run made it worse" if worse and not self.overfitted() else ""

    def best_step(self) -> float:
        """The step of the best evaluation; without one where the best tenth of the training ends, else infinity."""
        if self.evaluation:
            return min(self.evaluation, key=lambda point: point[1])[0]
        tenths = self._mean_of_tenths()
        return self.train[len(self.train) * (tenths.index(min(tenths)) + 1) // 10 - 1][0] if tenths else math.inf

    def _worse_than_at_the_start(self) -> str:
        if not self.evaluation or self.evaluation[0][0] != 0:
            return ""
        before, now = self.evaluation[0][1], self.evaluation[-1][1]
        if now <= before * (1 + _WORSE):
            return ""
        return f"the evaluation loss was {before:.4f} before the first step and is {now:.4f} now"

    def stalled(self) -> str:
        """Whether the training loss gains nothing any more, in words; empty when it gains, or cannot be judged."""
        tenths = self._mean_of_tenths()
        if not tenths:
            return ""
        middle, end = fmean(tenths[4:6]), fmean(tenths[8:])
        if abs(middle - end) > _GAIN * middle:
            return ""
        return f"the training loss stands still: {middle:.4f} in the middle of the run, {end:.4f} at its end"

    def plateau(self) -> str:
        """Whether the last evaluations gained nothing, in words; empty when they did, or cannot be judged."""
        if len(self.evaluation) <= _LAST_EVALUATIONS or self.evaluation[-1][0] < _STEPS_TO_JUDGE:
            return ""
        before = min(loss for _, loss in self.evaluation[:-_LAST_EVALUATIONS])
        last = min(loss for _, loss in self.evaluation[-_LAST_EVALUATIONS:])
        if last < before * (1 - _GAIN):
            return ""
        return f"the last {_LAST_EVALUATIONS} evaluations gave {last:.4f} at best, and {before:.4f} was reached before"

    def findings(self) -> dict[str, str]:
        """What the curves say that a person should know, with the likely cause and the page to read; by its name."""
        if reason := self.overfitted() or self.diverged():
            return {
                "divergence": f"{reason}. Likely the learning rate is too high, or the data too little for so many "
                "epochs. See docs/keeping-languages.md, 'When a curve says something'."
            }
        if reason := self.plateau():
            return {
                "plateau": f"{reason}. Likely the model has learned what it can from this data at this rate; try a "
                "lower one, or end the run. See docs/keeping-languages.md, 'When a curve says something'."
            }
        return {}

    def new_findings(self) -> dict[str, str]:
        """What of it the last evaluation brought; the one before it had not said so."""
        if not self.evaluation:
            return {}
        step = self.evaluation[-1][0]
        earlier = Curves(self.source, [point for point in self.train if point[0] < step], self.evaluation[:-1])
        return {name: text for name, text in self.findings().items() if name not in earlier.findings()}

    def _is_falling_since(self, step: int) -> bool:
        """Whether the training loss is lower now than around a step."""
        window = max(1, len(self.train) // 10)
        before = [loss for at, loss in self.train if at <= step][-window:]
        return bool(before) and fmean(loss for _, loss in self.train[-window:]) < fmean(before)

    def _is_falling(self) -> bool:
        """Whether the training loss is lower now than the first steps were; a peak among them does not count."""
        window = max(1, len(self.train) // 10)
        first, last = ([loss for _, loss in part] for part in (self.train[:window], self.train[-window:]))
        return bool(first) and fmean(last) < min(first)

    def _mean_of_tenths(self) -> list[float]:
        """The mean loss of each tenth of the steps; empty for short runs."""
        count = len(self.train)
        if count < _STEPS_TO_JUDGE:
            return []
        edges = [count * tenth // 10 for tenth in range(11)]
        return [fmean(loss for _, loss in self.train[a:b]) for a, b in itertools.pairwise(edges)]


def read_curves(checkpoint: Path, step: int | None, language: str) -> Curves | None:
    """The curves beside a checkpoint, up to its step; None where there are none.

    Args:
        checkpoint: the file.
        step: of the checkpoint.
        language: the one that is learned, where the file tells evaluations apart.
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
    """Lines that a kill left half are passed over."""
    train: Curve = []
    evaluations: list[MetricsLine] = []
    for line in file.read_bytes().splitlines():
        try:
            values = json.loads(line)
            # a loss that was not finite is null
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
    """The scalars that coqui's Trainer logs: a batch's loss every `plot_step`, an evaluation's mean every epoch."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    known = set(events.Tags()[SCALARS])

    def curve(tag: str) -> Curve:
        points = events.Scalars(tag) if tag in known else []
        return [(point.step, point.value) for point in points if point.step <= last and math.isfinite(point.value)]

    return Curves(str(folder), curve("TrainIterStats/loss"), curve("EvalStats/avg_loss"))
