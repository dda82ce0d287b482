"""Several processes train one model: torchrun with gloo, as with nccl on GPUs."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from processes import Script, run, together
from runs import RECIPE, checkpoint, only_run, require_equal

from xtts_extend.run.metrics import read_metrics

#: Runs the recipe in each process with what a test wants to see of it: arguments after the recipe's path.
PROBE = Path(__file__).with_name("probe.py")


def torchrun(processes: int, *arguments: object, output: Path) -> Script:
    """The launcher; what it starts are new Python processes."""
    launcher = Path(torch.distributed.run.__file__)
    return Script(launcher, "--standalone", f"--nproc_per_node={processes}", *arguments, output=output)


@pytest.fixture(scope="module")
def flags(corpus, tmp_path_factory):
    """A run of two epochs, total batch four, three steps an epoch, without dropout (its draws differ by process)."""

    def make(folder: Path, batch_size: int, **more: object) -> list[str]:
        return corpus.flags(
            output_dir=folder, batch_size=batch_size, save_step=1000, **{"epochs": 2, "val_manifest": None, **more}
        )

    return make


def test_two_processes_train_one_model(corpus, flags, tmp_path):
    """The first gradients are those of one process with the same total batch; all ranks hold equal weights after 8.

    What they evaluate is the same before the first step.
    """
    # at a higher rate Adam makes large differences of rounding errors in small gradients
    more = {"max_steps": 8, "learning_rate": 1e-7, "val_manifest": corpus.val}
    # an epoch of 9 steps, so that nothing is evaluated on the way
    again = ["--train-manifest", corpus.train] * 2
    run(PROBE, tmp_path / "one", *flags(tmp_path / "runs1", 4, **more), *again, output=tmp_path / "log1")
    together(2, PROBE, tmp_path / "two", *flags(tmp_path / "runs2", 2, **more), *again, output=tmp_path / "log2")
    alone = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in alone["gradients"]:
        assert torch.equal(first["gradients"][name], second["gradients"][name]), name
    norm = torch.stack([gradient.norm() for gradient in alone["gradients"].values()]).norm()
    gaps = [(first["gradients"][name] - gradient).norm() for name, gradient in alone["gradients"].items()]
    assert torch.stack(gaps).norm() < 1e-5 * norm
    require_equal(first["weights"], second["weights"])
    steps, evaluations = zip(*(read_metrics(only_run(tmp_path / folder)) for folder in ("runs1", "runs2")), strict=True)
    starts = [lines[0]["loss_mel_ce"] for lines in evaluations]
    assert starts[0] == pytest.approx(starts[1], rel=1e-6)
    assert [line["samples"] for line in steps[0]] == [line["samples"] for line in steps[1]]
    assert len(steps[0]) == 8
    for ours, theirs in zip(*steps, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_resume_in_two_processes_is_the_same_run(flags, tmp_path):
    """Also with accumulation, and with a last batch that has fewer samples than there are processes."""
    more, log = {"grad_accum_steps": 2}, tmp_path / "log"
    together(2, RECIPE, *flags(tmp_path / "whole", 5, **more), output=log)
    together(2, RECIPE, *flags(tmp_path / "part", 5, max_steps=2, **more), output=log)
    stopped = only_run(tmp_path / "part")
    together(2, RECIPE, "--checkpoint", stopped, "--coqpit.max_steps=null", output=log)
    a, b = checkpoint(only_run(tmp_path / "whole"), 4), checkpoint(stopped, 4)
    for key in ("model", "optimizer", "step", "epoch"):
        require_equal(a[key], b[key], key)
    assert (stopped / "metrics.jsonl").read_bytes() == (only_run(tmp_path / "whole") / "metrics.jsonl").read_bytes()
    for line in read_metrics(stopped)[0]:
        assert len(set(line["samples"])) == len(line["samples"])


@pytest.mark.slow
def test_another_number_of_processes_sees_the_same_samples(flags, tmp_path):
    two = torchrun(2, RECIPE, *flags(tmp_path / "runs", 2, max_steps=2), output=tmp_path / "two")
    assert two.wait() == 0, two.text
    folder = only_run(tmp_path / "runs")
    one = run(RECIPE, "--checkpoint", folder, "--coqpit.max_steps=null", output=tmp_path / "log")
    assert "The number of processes changed from 2 to 1; each now has batches of 4." in one.text
    content = checkpoint(folder, 6)
    assert (content["config"]["batch_size"], content["xtts_extend"]["processes"]) == (4, 1)
    steps = read_metrics(folder)[0]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    for epoch in (steps[:3], steps[3:]):
        assert len({name for line in epoch for name in line["samples"]}) == 12
    three = torchrun(3, RECIPE, "--checkpoint", folder, "--epochs", "3", output=tmp_path / "three")
    assert three.wait() != 0
    assert "3 processes cannot share evenly" in three.text


@pytest.mark.slow
def test_a_signal_to_torchrun_saves(flags, tmp_path):
    process = torchrun(2, RECIPE, *flags(tmp_path / "runs", 2, epochs=500), output=tmp_path / "log")
    while " > step " not in process.text:
        assert not process.ended, process.text
        time.sleep(0.02)
    time.sleep(1)
    process.send(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    folder = only_run(tmp_path / "runs")
    (saved,) = folder.glob("checkpoint_*.pth")
    step = int(saved.stem.split("_")[1])
    assert checkpoint(folder, step)["step"] == step, process.text
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, step + 1))
