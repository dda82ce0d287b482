"""Compare methods that keep the old languages and that speed up the new one: the tables of docs/merged-weights.md.

    python benchmarks/retention.py OUTPUT_FOLDER [QUESTION …]

A mini base (retention_data.py) learns Amharic (a new script) and Swahili (a known script) in separate runs with three
seeds each. Two runs train at a time, with one thread each. Files in the folder are reused. The questions are `methods`,
`init` and `cost` (step time and memory, one run at a time); the default is all of them.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import torch
from mini_runs import newest, table
from rescue import patched, with_noise
from retention_data import NEW, OLD, SLICES, Data, only_run, run_recipe

from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.model.adapter import changed_tensors, difference
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, xtts_weights
from xtts_extend.run.metrics import read_metrics

SEEDS = (1, 2, 3)
#: Batch size without replay, and the number of utterances in the new language that every run sees.
BATCH, SEEN = 4, 800
RATE = 1e-3
_EVALUATE_EVERY = 50


@dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
        name: Name in the tables and of the run folder.
        flags: Flags of the recipe.
        share: Share of replayed utterances in a batch.
        real: Replay recordings instead of speech that the base model made.
        noise: Start the new rows as coqui does.
    """

    name: str
    flags: tuple[str, ...] = ()
    share: float = 0.0
    real: bool = False
    noise: bool = False

    @property
    def batch(self) -> int:
        """Batch size with which a step has as many utterances in the new language as without replay."""
        return round(BATCH / (1 - self.share))

    @property
    def steps(self) -> int:
        """Number of steps with which every method sees the same number of utterances in the new language."""
        return math.ceil(SEEN / (self.batch * (1 - self.share)))


ALL_ROWS = "--no-freeze-base-rows"
FROZEN = Method("frozen rows")
STOCK = Method("stock recipe", (ALL_ROWS,), noise=True)
CODES = "--distill-weight=0"
METHODS = (
    STOCK,
    FROZEN,
    *(Method(f"replay {share:.0%}, real", (CODES,), share, real=True) for share in (0.05, 0.10, 0.25)),
    *(Method(f"replay {share:.0%}, self-made", (CODES,), share) for share in (0.05, 0.10, 0.25)),
    Method("replay 25%, self-made, KL 1", ("--distill-weight=1",), 0.25),
    Method("replay 50%, self-made, KL 3", ("--distill-weight=3",), 0.5),
    Method("LoRA 8", ("--adapter=lora", "--adapter-rank=8", "--learning-rate=3e-3")),
    Method("LoRA 32", ("--adapter=lora", "--adapter-rank=32", "--learning-rate=3e-3")),
)
#: Initial values of new rows; `FROZEN` is the one with `romanized`.
INITS = (Method("randn", noise=True), Method("normal", ("--init=normal",)), Method("mean", ("--init=mean",)))
#: Ranks to which the change of each matrix is reduced if it is kept apart from the base model.
KEPT_RANKS = (64, 32, 16)


@dataclass(frozen=True)
class Job:
    """A run with one method, new language and seed."""

    data: Data
    method: Method
    language: str
    seed: int

    @property
    def output(self) -> Path:
        return self.data.folder / "runs" / self.method.name / f"{self.language}-{self.seed}"

    def flags(self, steps: int) -> list[str]:
        data, method, language = self.data, self.method, self.language
        flags = [
            f"--base-dir={data.base}", f"--codes={data.codes}", f"--vocab={data.vocab(language)}",
            f"--language={language}", f"--train-manifest={data.manifest(language, 'train')}", f"--seed={self.seed}",
            "--grad-accum-steps=1", "--grad-clip=1", f"--batch-size={method.batch}", f"--max-steps={steps}",
            f"--learning-rate={RATE}", f"--eval-step={_EVALUATE_EVERY}", "--coqpit.eval_batch_size=12",
            "--coqpit.print_step=100", "--amp=none", *SLICES,
        ]  # fmt: skip
        flags += [f"--val-manifest={data.manifest(code, 'val')}" for code in (*OLD, language)]
        if method.share:
            sets = [data.manifest(code, "replay") for code in OLD] if method.real else [data.replay]
            flags += [f"--replay={path}" for path in sets] + [f"--replay-share={method.share}"]
        return flags + list(method.flags)

    def curve(self, language: str, name: str = "loss_mel_ce") -> list[tuple[int, float]]:
        """Return (utterances of the new language seen so far, value) for each evaluation."""
        seen = self.method.batch * (1 - self.method.share)
        lines = read_metrics(only_run(self.output))[1]
        return [(line["step"] * seen, line[name]) for line in lines if line["language"] == language]


def initial_rows(method: Method) -> AbstractContextManager[None]:
    """Return a context in which the new rows start as the method says."""
    return patched(ExtendedGPTTrainer, "load_base", with_noise) if method.noise else nullcontext()


def run(job: Job) -> None:
    """Train one run in a process of the pool."""
    torch.set_num_threads(1)
    with initial_rows(job.method):
        run_recipe(job.output, job.flags(job.method.steps))
    # Afterwards, only the metrics are needed, and the weights of one method.
    for file in job.output.glob("*/*.pth") if job.method != FROZEN else ():
        file.write_bytes(b"")


def in_pool(function: Callable[[Job], object], jobs: Sequence[Job]) -> None:
    """Run a function on all jobs, two at a time."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        began = time.monotonic()
        for number, future in enumerate(as_completed([pool.submit(function, job) for job in jobs]), start=1):
            future.result()
            print(f"{number} of {len(jobs)}, {(time.monotonic() - began) / 60:.1f} min", flush=True)


def jobs_of(data: Data, methods: Sequence[Method]) -> list[Job]:
    """Return the jobs ordered by seed, so that an interrupted benchmark has complete seeds."""
    return [Job(data, method, language, seed) for seed in SEEDS for method in methods for language in NEW]


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean ± standard deviation over the seeds as text."""
    if math.inf in values:
        return "not reached"
    return f"{fmean(values):.{digits}f} ± {pstdev(values):.{digits}f}"


def methods(data: Data) -> list[list[str]]:
    """Return the table of `methods`: how well each keeps the old languages and learns the new one."""
    in_pool(run, jobs_of(data, METHODS))
    in_pool(keep_apart, jobs_of(data, [FROZEN]))
    head = ["method", *(f"{code}: loss" for code in NEW)]
    rows = [head + [f"{code}: kept {old}" for code in NEW for old in OLD]]
    for method in METHODS:
        runs = {code: [Job(data, method, code, seed) for seed in SEEDS] for code in NEW}
        row = [method.name] + [mean_and_spread([job.curve(code)[-1][1] for job in runs[code]]) for code in NEW]
        rows.append(
            row
            + [
                mean_and_spread([job.curve(old, "retention")[-1][1] for job in runs[code]])
                for code in NEW
                for old in OLD
            ]
        )
    for rank in (None, *KEPT_RANKS):
        name = "frozen rows, kept apart" + ("" if rank is None else f", rank {rank}")
        losses = [[kept_loss(Job(data, FROZEN, code, seed), rank) for seed in SEEDS] for code in NEW]
        rows.append([name, *map(mean_and_spread, losses), *["1, by construction"] * len(NEW) * len(OLD)])
    return rows


def keep_apart(job: Job) -> None:
    """Evaluate the new language with a run's change reduced to each of the ranks."""
    content = load_checkpoint(newest(only_run(job.output)))[0]
    base = xtts_weights(load_checkpoint(job.data.base / "model.pth")[0]["model"])
    for rank in KEPT_RANKS:
        folder = job.output.with_name(f"{job.output.name}-rank{rank}")
        folder.mkdir(exist_ok=True)
        weights = {**base, **changed_tensors(base, difference(xtts_weights(content["model"]), base, rank))}
        torch.save({"model": weights, "config": content["config"]}, folder / "model.pth")
        shutil.copyfile(job.data.vocab(job.language), folder / "vocab.json")
        flags = [f"--checkpoint={folder / 'model.pth'}", "--learning-rate=0", "--weight-decay=0"]
        run_recipe(folder / "runs", [*job.flags(1), *flags])
        (folder / "model.pth").unlink()
        for file in folder.glob("runs/*/*.pth"):
            file.write_bytes(b"")


def kept_loss(job: Job, rank: int | None) -> float:
    """Return the new language's mel loss with the change reduced to `rank`, or of the run itself if it is None."""
    if rank is None:
        return job.curve(job.language)[-1][1]
    runs = job.output.with_name(f"{job.output.name}-rank{rank}") / "runs"
    lines = read_metrics(only_run(runs))[1]
    return next(line["loss_mel_ce"] for line in lines if line["language"] == job.language)


def learning(data: Data, compared: Sequence[Method]) -> list[list[str]]:
    """Return the table of `init`: first and last losses, and the steps to the loss of the best method halfway."""
    in_pool(run, jobs_of(data, compared))
    rows = [
        [
            "method",
            *(f"{code}: {column}" for code in NEW for column in ("text loss at 0", "mel at 0", "end", "to half")),
        ]
    ]
    half: dict[tuple[str, int], float] = {}
    for code in NEW:
        for seed in SEEDS:
            half[code, seed] = min(
                interpolate(Job(data, method, code, seed).curve(code), SEEN / 2) for method in compared
            )
    for method in compared:
        row = [method.name]
        for code in NEW:
            runs = [Job(data, method, code, seed) for seed in SEEDS]
            # The text loss is logged multiplied by its weight.
            row.append(mean_and_spread([job.curve(code, "loss_text_ce")[0][1] / 0.01 for job in runs], 2))
            row += [mean_and_spread([job.curve(code)[index][1] for job in runs]) for index in (0, -1)]
            needed = [first_reached(job.curve(code), half[code, job.seed]) for job in runs]
            row.append(mean_and_spread([seen / BATCH for seen in needed], 0))
        rows.append(row)
    return rows


def interpolate(curve: Sequence[tuple[float, float]], seen: float) -> float:
    """Return the value of a curve at `seen`, interpolated linearly."""
    for (left, before), (right, after) in pairwise(curve):
        if left <= seen <= right:
            return before + (after - before) * (seen - left) / (right - left)
    return curve[-1][1]


def first_reached(curve: Sequence[tuple[float, float]], value: float) -> float:
    """Return where a falling curve first has a value, or infinity if it never does."""
    for (left, before), (right, after) in pairwise(curve):
        if after <= value:
            return left + (right - left) * (before - value) / (before - after)
    return math.inf


def cost(data: Data) -> list[list[str]]:
    """Return the table of `cost`: step time and peak memory of each method, one run at a time on one thread."""
    rows = [["method", "s per step", "compute for the same new utterances", "peak memory, GB"]]
    stock = 0.0
    for method in METHODS:
        command = [sys.executable, __file__, str(data.folder), "--one", str(METHODS.index(method))]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        seconds, memory = json.loads(done.stdout.splitlines()[-1])
        stock = stock or seconds * method.steps
        rows.append([method.name, f"{seconds:.3f}", f"{seconds * method.steps / stock:.2f}", f"{memory:.2f}"])
    return rows


def measure(data: Data, method: Method) -> None:
    """Print as JSON the seconds per step, from two short runs, and the peak memory of this process in GB."""
    times = []
    for steps in (5, 45):
        output = data.folder / "cost" / f"{method.name}-{steps}"
        shutil.rmtree(output, ignore_errors=True)
        job = Job(data, method, NEW[0], 1)
        began = time.monotonic()
        with initial_rows(method):
            run_recipe(output, [*job.flags(steps), "--coqpit.run_eval=false"])
        times.append(time.monotonic() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps([(times[1] - times[0]) / 40, memory]))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT_FOLDER [methods|init|cost …]")
    data = Data(Path(sys.argv[1]).absolute())
    if "--one" in sys.argv:
        measure(data, METHODS[int(sys.argv[-1])])
        return
    data.prepare()
    questions: dict[str, Callable[[], list[list[str]]]] = {
        "methods": lambda: methods(data),
        "init": lambda: learning(data, [*INITS, FROZEN]),
        "cost": lambda: cost(data),
    }
    for name in sys.argv[2:] or questions:
        print(f"\n{name}\n\n{table(questions[name]())}\n", flush=True)


if __name__ == "__main__":
    main()
