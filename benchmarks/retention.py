"""What keeps the old languages, and what makes the new one come sooner: the tables of docs/merged-weights.md.

    python benchmarks/retention.py OUTPUT_FOLDER [QUESTION …]

A mini base (retention_data.py) learns Amharic (a new script) and Swahili (an old one) in separate runs, with three
seeds each. Two runs go on at a time, one thread each; what is in the folder already is not made again. The questions:
`methods`, `init` and `cost` (step time and memory, one run at a time); without any, all of them.
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
from rescue import replaced, with_noise
from retention_data import NEW, OLD, SLICES, Data, only_run, run_recipe

from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.model.adapter import changed_tensors, difference
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, xtts_weights
from xtts_extend.run.metrics import read_metrics

SEEDS = (1, 2, 3)
#: Utterances in a batch when nothing is replayed, and utterances of the new language that every run sees.
BATCH, SEEN = 4, 800
RATE = 1e-3
_EVALUATE_EVERY = 50


@dataclass(frozen=True)
class Method:
    """A way to train: flags of the recipe, and what is replayed."""

    name: str
    flags: tuple[str, ...] = ()
    share: float = 0.0
    real: bool = False
    noise: bool = False

    @property
    def batch(self) -> int:
        """Larger by what is replayed, so that steps have as much of the new language as without."""
        return round(BATCH / (1 - self.share))

    @property
    def steps(self) -> int:
        """So many that every method sees as much of the new language."""
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
#: `romanized` is the method with frozen rows.
INITS = (Method("randn", noise=True), Method("normal", ("--init=normal",)), Method("mean", ("--init=mean",)))
#: Directions that are kept of each matrix's change, when the base stays as it is.
KEPT_RANKS = (64, 32, 16)


@dataclass(frozen=True)
class Job:
    """A run: a method, a new language, a seed."""

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
        """(utterances of the new language seen, value) at each evaluation."""
        seen = self.method.batch * (1 - self.method.share)
        lines = read_metrics(only_run(self.output))[1]
        return [(line["step"] * seen, line[name]) for line in lines if line["language"] == language]


def damaged(method: Method) -> AbstractContextManager[None]:
    """New rows as stock coqui starts them, where the method has noise."""
    return replaced(ExtendedGPTTrainer, "load_base", with_noise) if method.noise else nullcontext()


def run(job: Job) -> None:
    """One run, in a process of the pool."""
    torch.set_num_threads(1)
    with damaged(job.method):
        run_recipe(job.output, job.flags(job.method.steps))
    # nothing of a run is needed any more but its metrics, and of one method the weights
    for file in job.output.glob("*/*.pth") if job.method != FROZEN else ():
        file.write_bytes(b"")


def in_pool(what: Callable[[Job], object], jobs: Sequence[Job]) -> None:
    """Two at a time."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        began = time.monotonic()
        for number, future in enumerate(as_completed([pool.submit(what, job) for job in jobs]), start=1):
            future.result()
            print(f"{number} of {len(jobs)}, {(time.monotonic() - began) / 60:.1f} min", flush=True)


def jobs_of(data: Data, methods: Sequence[Method]) -> list[Job]:
    """One seed after the other, so that an interrupted benchmark has whole ones."""
    return [Job(data, method, language, seed) for seed in SEEDS for method in methods for language in NEW]


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± standard deviation over the seeds."""
    if math.inf in values:
        return "not reached"
    return f"{fmean(values):.{digits}f} ± {pstdev(values):.{digits}f}"


def methods(data: Data) -> list[list[str]]:
    """Question 1: what each way keeps, and what the new language becomes."""
    in_pool(run, jobs_of(data, METHODS))
    in_pool(keep_apart, jobs_of(data, [FROZEN]))
    head = ["method", *(f"{code}: loss" for code in NEW)]
    rows = [head + [f"{code}: kept {old}" for code in NEW for old in OLD]]
    for method in METHODS:
        runs = {code: [Job(data, method, code, seed) for seed in SEEDS] for code in NEW}
        row = [method.name] + [shown([job.curve(code)[-1][1] for job in runs[code]]) for code in NEW]
        rows.append(
            row + [shown([job.curve(old, "retention")[-1][1] for job in runs[code]]) for code in NEW for old in OLD]
        )
    for rank in (None, *KEPT_RANKS):
        name = "frozen rows, kept apart" + ("" if rank is None else f", rank {rank}")
        losses = [[kept_loss(Job(data, FROZEN, code, seed), rank) for seed in SEEDS] for code in NEW]
        rows.append([name, *map(shown, losses), *["1, by construction"] * len(NEW) * len(OLD)])
    return rows


def keep_apart(job: Job) -> None:
    """Measure the new language with what is left of a run's change when only so many directions of it are kept."""
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
    """The new language's mel loss; whole, the run's own."""
    if rank is None:
        return job.curve(job.language)[-1][1]
    runs = job.output.with_name(f"{job.output.name}-rank{rank}") / "runs"
    lines = read_metrics(only_run(runs))[1]
    return next(line["loss_mel_ce"] for line in lines if line["language"] == job.language)


def learning(data: Data, compared: Sequence[Method]) -> list[list[str]]:
    """Question 2: the start, the end, and how long it takes to where the best one is at half time."""
    in_pool(run, jobs_of(data, compared))
    rows = [
        ["method", *(f"{code}: {what}" for code in NEW for what in ("text loss at 0", "mel at 0", "end", "to half"))]
    ]
    half: dict[tuple[str, int], float] = {}
    for code in NEW:
        for seed in SEEDS:
            half[code, seed] = min(at(Job(data, method, code, seed).curve(code), SEEN / 2) for method in compared)
    for method in compared:
        row = [method.name]
        for code in NEW:
            runs = [Job(data, method, code, seed) for seed in SEEDS]
            # logged with its weight
            row.append(shown([job.curve(code, "loss_text_ce")[0][1] / 0.01 for job in runs], 2))
            row += [shown([job.curve(code)[place][1] for job in runs]) for place in (0, -1)]
            needed = [reached(job.curve(code), half[code, job.seed]) for job in runs]
            row.append(shown([seen / BATCH for seen in needed], 0))
        rows.append(row)
    return rows


def at(curve: Sequence[tuple[float, float]], seen: float) -> float:
    """The value of a curve between its points."""
    for (left, before), (right, after) in pairwise(curve):
        if left <= seen <= right:
            return before + (after - before) * (seen - left) / (right - left)
    return curve[-1][1]


def reached(curve: Sequence[tuple[float, float]], value: float) -> float:
    """Where a falling curve first has a value; infinite where it never does."""
    for (left, before), (right, after) in pairwise(curve):
        if after <= value:
            return left + (right - left) * (before - value) / (before - after)
    return math.inf


def cost(data: Data) -> list[list[str]]:
    """Step time and peak memory of each method, one run at a time on one thread, beside the stock recipe's."""
    rows = [["method", "s a step", "compute for the same new utterances", "peak memory, GB"]]
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


def one(data: Data, method: Method) -> None:
    """Time of a step, from two short runs, and the peak memory of this process in GB."""
    times = []
    for steps in (5, 45):
        output = data.folder / "cost" / f"{method.name}-{steps}"
        shutil.rmtree(output, ignore_errors=True)
        job = Job(data, method, NEW[0], 1)
        began = time.monotonic()
        with damaged(method):
            run_recipe(output, [*job.flags(steps), "--coqpit.run_eval=false"])
        times.append(time.monotonic() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps([(times[1] - times[0]) / 40, memory]))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT_FOLDER [methods|init|cost …]")
    data = Data(Path(sys.argv[1]).absolute())
    if "--one" in sys.argv:
        one(data, METHODS[int(sys.argv[-1])])
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
