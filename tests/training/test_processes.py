"""Several processes train one model, with torchrun and gloo; GPUs use nccl the same way."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from processes import Script, run, run_processes
from runs import RECIPE, checkpoint, only_run, require_equal

from xtts_extend.data.encoded import read_index
from xtts_extend.run.metrics import read_metrics

#: Script that runs the recipe and saves gradients and weights.
PROBE = Path(__file__).with_name("probe.py")


def torchrun(processes: int, *arguments: object, output: Path) -> Script:
    """Start torchrun, which starts new Python processes."""
    launcher = Path(torch.distributed.run.__file__)
    return Script(launcher, "--standalone", f"--nproc_per_node={processes}", *arguments, output=output)


@pytest.fixture(scope="module")
def flags(corpus, tmp_path_factory):
    """A function that returns flags for a run of two epochs with a given batch size per process."""

    def make(folder: Path, batch_size: int, **more: object) -> list[str]:
        return corpus.flags(
            output_dir=folder, batch_size=batch_size, save_step=1000, **{"epochs": 2, "val_manifest": None, **more}
        )

    return make


def test_two_processes_train_one_model(corpus, flags, tmp_path):
    """The first gradients equal those of one process with the same total batch, and all ranks have equal weights.

    The two ranks divide the recordings to encode. The evaluation before the first step also gives equal losses.
    """
    # At higher learning rates, Adam amplifies rounding errors in small gradients.
    more = {"max_steps": 2, "learning_rate": 1e-7, "val_manifest": corpus.val}
    # An epoch is 3 steps long, so that no other evaluation falls due.
    flags_1 = flags(tmp_path / "runs1", 4, **more)
    flags_2 = flags(tmp_path / "runs2", 2, codes=tmp_path / "codes", **more)
    run(PROBE, tmp_path / "one", *flags_1, output=tmp_path / "log1")
    run_processes(2, PROBE, tmp_path / "two", *flags_2, output=tmp_path / "log2")
    # Each rank has encoded its share of the recordings, and rank 0 has joined the parts.
    assert [part["file"] for part in read_index(tmp_path / "codes")["parts"]] == [
        "part-00000.arrow",
        "part-00001.arrow",
    ]
    single = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in single["gradients"]:
        assert torch.equal(first["gradients"][name], second["gradients"][name]), name
    norm = torch.stack([gradient.norm() for gradient in single["gradients"].values()]).norm()
    differences = [(first["gradients"][name] - gradient).norm() for name, gradient in single["gradients"].items()]
    assert torch.stack(differences).norm() < 1e-5 * norm
    require_equal(first["weights"], second["weights"])
    steps, evaluations = zip(*(read_metrics(only_run(tmp_path / folder)) for folder in ("runs1", "runs2")), strict=True)
    starts = [lines[0]["loss_mel_ce"] for lines in evaluations]
    assert starts[0] == pytest.approx(starts[1], rel=1e-6)
    assert [line["samples"] for line in steps[0]] == [line["samples"] for line in steps[1]]
    assert len(steps[0]) == 2
    for one, two in zip(*steps, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_resume_in_two_processes_is_the_same_run(flags, tmp_path):
    """The run uses accumulation, and its last batch has fewer samples than there are processes."""
    more, log = {"grad_accum_steps": 2}, tmp_path / "log"
    run_processes(2, RECIPE, *flags(tmp_path / "uninterrupted", 5, **more), output=log)
    run_processes(2, RECIPE, *flags(tmp_path / "resumed", 5, max_steps=2, **more), output=log)
    uninterrupted, resumed = only_run(tmp_path / "uninterrupted"), only_run(tmp_path / "resumed")
    run_processes(2, RECIPE, "--checkpoint", resumed, "--coqpit.max_steps=null", output=log)
    expected, found = checkpoint(uninterrupted, 4), checkpoint(resumed, 4)
    for key in ("model", "optimizer", "step", "epoch"):
        require_equal(expected[key], found[key], key)
    assert (resumed / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    for line in read_metrics(resumed)[0]:
        assert len(set(line["samples"])) == len(line["samples"])


@pytest.mark.slow
def test_another_number_of_processes_sees_the_same_samples(flags, tmp_path):
    two = torchrun(2, RECIPE, *flags(tmp_path / "runs", 2, max_steps=2), output=tmp_path / "two")
    assert two.wait() == 0, two.text
    folder = only_run(tmp_path / "runs")
    one = run(RECIPE, "--checkpoint", folder, "--coqpit.max_steps=null", output=tmp_path / "log")
    assert "The number of processes has changed from 2 to 1; each now has batches of 4." in one.text
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
