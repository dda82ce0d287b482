"""Exact resumes after every kind of stop, in real processes and at tolerance zero."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import RECIPE, STEPS, only_run, require_same_run

from xtts_extend.checkpoint.inspect import inspect_checkpoint
from xtts_extend.errors import CheckpointError

pytestmark = pytest.mark.slow

SIGNALLED = Path(__file__).with_name("signalled.py")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
#: In the middle of an epoch of six steps, at its end, directly after an evaluation, in the middle of an accumulation,
#: and in the middle of writing a checkpoint.
POINTS = ("step:3", "step:6", "evaluation:6", "step:4", "write:6")


@pytest.fixture(scope="module")
def uninterrupted(corpus, recipe, tmp_path_factory):
    runs = {}

    def with_accumulation(accumulation: int) -> Path:
        if accumulation not in runs:
            output = tmp_path_factory.mktemp(f"uninterrupted{accumulation}")
            recipe(flags(corpus, output, accumulation))
            runs[accumulation] = only_run(output)
        return runs[accumulation]

    return with_accumulation


def flags(corpus, output: Path, accumulation: int, **more: object) -> list[str]:
    return corpus.flags(
        output_dir=output, grad_accum_steps=accumulation, eval_step=3, save_step=3, warmup_steps=6, **more
    )


@pytest.mark.parametrize(
    ("point", "accumulation", "workers", "number"), itertools.product(POINTS, (1, 3), (0, 2), CODES)
)
def test_stopped_and_resumed(uninterrupted, corpus, tmp_path, point, accumulation, workers, number):
    expected = uninterrupted(accumulation)
    command = [sys.executable, str(SIGNALLED), str(int(number)), point]
    stopped = subprocess.run(
        command + flags(corpus, tmp_path, accumulation, num_workers=workers), capture_output=True, text=True
    )
    assert stopped.returncode == CODES[number], stopped.stderr
    run = only_run(tmp_path)
    resumed = subprocess.run([sys.executable, str(RECIPE), "--checkpoint", str(run)], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    require_same_run(run, expected, STEPS)


def test_soak(corpus, tmp_path):
    """After 100 SIGKILLs at random times, start-up included, the run equals an uninterrupted one.

    The times scale with how long this machine needs to write the first checkpoint.
    """
    generator = random.Random(0)
    settings = {"epochs": 500, "save_step": 1, "warmup_steps": 50, "val_manifest": corpus.val}
    command = [sys.executable, str(RECIPE), *corpus.flags(output_dir=tmp_path / "runs", **settings)]
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "runs").glob("xtts-*/checkpoint_*.pth")):
        assert process.poll() is None
        time.sleep(0.01)
    to_first_checkpoint = time.monotonic() - started
    run = only_run(tmp_path / "runs")
    resume = [sys.executable, str(RECIPE), "--checkpoint", str(run)]
    steps = []
    for kill in range(100):
        time.sleep(generator.uniform(0, 1.5 * to_first_checkpoint))
        assert process.poll() is None, "The run ended before it was killed."
        process.kill()
        process.wait()
        try:
            steps.append(inspect_checkpoint(run, verify=True).step)
        except CheckpointError:
            steps.append(0)
        if kill < 99:
            process = subprocess.Popen(resume, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert steps == sorted(steps), "A checkpoint was lost."
    last = steps[-1] + 5
    done = subprocess.run([*resume, "--max-steps", str(last)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"First checkpoint after {to_first_checkpoint:.1f} s. Steps after each of 100 kills: {steps}. End: {last}.")
    uninterrupted = [sys.executable, str(RECIPE), *corpus.flags(output_dir=tmp_path / "uninterrupted", **settings)]
    subprocess.run([*uninterrupted, "--max-steps", str(last)], check=True, capture_output=True)
    require_same_run(run, only_run(tmp_path / "uninterrupted"), last)
    assert not list(run.glob(".*.tmp"))
