"""A plot of a run's loss curves, with a mark where the run was resumed."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from xtts_extend.run.metrics import MetricsLine, finite

_WINDOW = 10


def draw_losses(steps: list[MetricsLine], evaluations: list[MetricsLine], resumed_after: int, output: Path) -> None:
    """Plot the mel loss of every step, its moving average, and each language's evaluation losses.

    Args:
        steps: Steps from `read_metrics`.
        evaluations: Evaluations from `read_metrics`.
        resumed_after: The last step before the run was stopped.
        output: Path of the PNG file to write.
    """
    figure, axes = plt.subplots(figsize=(11, 5), layout="constrained")
    step_numbers = [line["step"] for line in steps]
    losses = [finite(line["loss_mel_ce"]) for line in steps]
    axes.plot(step_numbers, losses, color="0.8", linewidth=1, label="training, every step")
    means = [sum(part) / len(part) for part in (losses[max(0, i - _WINDOW + 1) : i + 1] for i in range(len(losses)))]
    axes.plot(step_numbers, means, color="0.35", label=f"training, mean of {_WINDOW} steps")
    for language in sorted({line["language"] for line in evaluations}):
        lines = [line for line in evaluations if line["language"] == language]
        points = [line["step"] for line in lines], [finite(line["loss_mel_ce"]) for line in lines]
        axes.plot(*points, marker="o", label=f"evaluation, {language}")
    axes.axvline(
        resumed_after + 0.5, color="tab:red", linestyle="--", label=f"stopped after step {resumed_after}, then resumed"
    )
    axes.set(xlabel="step", ylabel="mel loss (cross entropy)", title="Training on a new language, stopped and resumed")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(output, dpi=120)
    plt.close(figure)
