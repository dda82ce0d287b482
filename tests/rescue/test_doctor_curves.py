"""Verdicts from a run's losses: metrics of ours, TensorBoard files of coqui's Trainer."""

import json

import pytest
from checkpoints import at_step, drifted_rows, edited
from runs import base_rows, write_metrics
from torch.utils.tensorboard import SummaryWriter

from xtts_extend.rescue.doctor import examine


def curve(evaluations, rising_train=False):
    """Return the lines of a metrics.jsonl with 40 steps between evaluations."""
    lines = []
    for number, loss in enumerate(evaluations):
        for step in range(40 * number + 1, 40 * number + 41):
            train = 3 - step / 200 if not rising_train else 3 + step / 50
            lines.append({"step": step, "epoch": number, "loss": train})
        lines.append({"eval": True, "step": 40 * number + 40, "language": "am", "loss": loss})
        lines.append({"eval": True, "step": 40 * number + 40, "language": "en", "loss": 3 + number})
    return "".join(json.dumps(line) + "\n" for line in lines)


START = '{"eval": true, "step": 0, "language": "am", "loss": 3.0}\n'


@pytest.mark.parametrize(
    ("lines", "step", "verdict", "reason"),
    [
        (curve([3, 2.5, 2.6, 2.7, 2.8]), 200, "overfitted", "was lowest at step 80 (2.5000) and is now 2.8000, 3 eval"),
        (curve([3, 2.5, 2.6, 2.7, 2.8]), 80, "healthy", ""),
        (curve([3, 2.5, 2.6, 2.7]), 160, "healthy", ""),
        (curve([3, 2.5, 2.51, 2.5, 2.52]), 200, "healthy", ""),
        (curve([3, 2.5, 2.54, 2.6, 2.7]), 200, "healthy", ""),
        (curve([3, 2.8, 2.7, 2.6, 2.5]), 200, "healthy", ""),
        (START + curve([3.6, 3.4]), 80, "overfitted", "was 3.0000 before the first step and is now 3.4000"),
        (curve([3, 2.5, 2.4], rising_train=True), 120, "diverged", "The training loss diverged"),
        (START + curve([3.6, 3.4], rising_train=True), 80, "diverged", "The training loss diverged"),
        ('{"step": 1, "loss": null}\nhalf a li', 200, "healthy", ""),
    ],
    ids=[
        "turned", "at its best", "turned lately", "stands still", "turned slowly", "falls", "worse than the start",
        "training ran away", "training ran away from the start", "null and half a line",
    ],
)  # fmt: skip
def test_curves(short_run, corpus, tmp_path, lines, step, verdict, reason):
    file = edited(short_run / "checkpoint_4.pth", tmp_path, at_step(step))
    (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    found = examine(file, corpus.base)
    assert found.verdict == verdict
    assert reason in found.reason


def test_no_repair_for_drifted_rows_with_bad_losses(healthy_stock, corpus, tmp_path):
    file = edited(healthy_stock, tmp_path, at_step(80), drifted_rows(base_rows(corpus)))
    assert examine(file, corpus.base).next_command.startswith("xtts-extend repair ")
    (tmp_path / "metrics.jsonl").write_text(START + curve([3.6, 3.4]), encoding="utf-8")
    found = examine(file, corpus.base)
    assert (found.verdict, list(found.also)) == ("old-rows-drifted", ["overfitted"])
    recipe = "python recipes/new_language/train_gpt_xtts.py"
    assert found.next_command.startswith(f"{recipe} --base-dir {corpus.base} --vocab ")


def test_curves_of_a_stock_run(healthy_stock, corpus, tmp_path):
    """The scalars have the names that coqui's logger gives them."""
    file = edited(healthy_stock, tmp_path, at_step(200))
    writer = SummaryWriter(tmp_path)
    for step in range(25, 201, 25):
        writer.add_scalar("TrainIterStats/loss", 3 - step / 100, step)
    for step, loss in zip(range(40, 201, 40), (3, 2.5, 2.6, 2.7, 2.8), strict=True):
        writer.add_scalar("EvalStats/avg_loss", loss, step)
    writer.close()
    assert examine(file, corpus.base).verdict == "overfitted"


def test_a_stalled_loss_is_a_note(short_run, corpus, tmp_path):
    file = edited(short_run / "checkpoint_4.pth", tmp_path, at_step(100))
    write_metrics(tmp_path, ({"step": step, "loss": 4.2} for step in range(1, 101)))
    found = examine(file, corpus.base)
    assert found.verdict == "healthy"
    assert found.notes == ["The training loss has stalled: 4.2000 in the middle of the run, 4.2000 at its end."]


def test_an_incomplete_accumulation_is_a_note(healthy_stock, corpus, tmp_path):
    found = examine(edited(healthy_stock, tmp_path, at_step(21)), corpus.base)
    assert "5 updates in 22 batches, about one every 4 batches" in found.notes[0]
