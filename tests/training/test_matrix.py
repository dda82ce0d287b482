"""Everything that a resume has to get right, by everything that can stop a run: real processes, tolerance zero."""

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
#: In the middle of an epoch of six steps, at its end, right after an evaluation, between accumulation steps, and in
#: the middle of writing a checkpoint.
PLACES = ("step:3", "step:6", "evaluation:6", "step:4", "write:6")


@pytest.fixture(scope="module")
def uninterrupted(corpus, recipe, tmp_path_factory):
    runs = {}

    def of(accumulation: int) -> Path:
        if accumulation not in runs:
            output = tmp_path_factory.mktemp(f"whole{accumulation}")
            recipe(flags(corpus, output, accumulation))
            runs[accumulation] = only_run(output)
        return runs[accumulation]

    return of


def flags(corpus, output: Path, accumulation: int, **more: object) -> list[str]:
    return corpus.flags(
        output_dir=output, grad_accum_steps=accumulation, eval_step=3, save_step=3, warmup_steps=6, **more
    )


@pytest.mark.parametrize(
    ("place", "accumulation", "workers", "number"), itertools.product(PLACES, (1, 3), (0, 2), CODES)
)
def test_stopped_and_resumed(uninterrupted, corpus, tmp_path, place, accumulation, workers, number):
    whole = uninterrupted(accumulation)
    command = [sys.executable, str(SIGNALLED), str(int(number)), place]
    stopped = subprocess.run(
        command + flags(corpus, tmp_path, accumulation, num_workers=workers), capture_output=True, text=True
    )
    assert stopped.returncode == CODES[number], stopped.stderr
    run = only_run(tmp_path)
    resumed = subprocess.run([sys.executable, str(RECIPE), "--checkpoint", str(run)], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    require_same_run(run, whole, STEPS)


def test_soak(corpus, tmp_path):
    """A hundred SIGKILLs at random instants, the start-up included; then the run equals one in one go.

    The instants follow the time that this machine takes to its first checkpoint.
    """
    generator = random.Random(0)
    everything = {"epochs": 500, "save_step": 1, "warmup_steps": 50, "val_manifest": corpus.val}
    command = [sys.executable, str(RECIPE), *corpus.flags(output_dir=tmp_path / "runs", **everything)]
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
        assert process.poll() is None, "the run ended by itself"
        process.kill()
        process.wait()
        try:
            steps.append(inspect_checkpoint(run, verify=True).step)
        except CheckpointError:
            steps.append(0)
        if kill < 99:
            process = subprocess.Popen(resume, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert steps == sorted(steps), "a checkpoint was lost"
    last = steps[-1] + 5
    done = subprocess.run([*resume, "--max-steps", str(last)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"first checkpoint after {to_first_checkpoint:.1f} s; after each of 100 kills: {steps}; finished at {last}")
    whole = [sys.executable, str(RECIPE), *corpus.flags(output_dir=tmp_path / "whole", **everything)]
    subprocess.run([*whole, "--max-steps", str(last)], check=True, capture_output=True)
    require_same_run(run, only_run(tmp_path / "whole"), last)
    assert not list(run.glob(".*.tmp"))
