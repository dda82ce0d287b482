"""Train as a contestant of throughput.py: read numbers of steps from stdin and answer each with measurements.

python benchmarks/throughput_contestant.py OUTPUT_FOLDER BATCH NAME
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from trainer import Trainer, TrainerArgs
from TTS.tts.layers.xtts.trainer import dataset

import xtts_extend
from xtts_extend.data.audio import load_audio
from xtts_extend.data.manifest import read_manifests
from xtts_extend.model.coqui_trainer import GPTTrainer, GPTTrainerConfig
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.recipes import find_recipe
from xtts_extend.run.config import copy_architecture, read_json
from xtts_extend.setup.base import use_base
from xtts_extend.training.trainer import ResumableTrainer

#: Mean frames per utterance of the corpus: a frame budget of N times this gives batches of about N utterances.
_FRAMES = 262
_RATE = 22050
_GPU = torch.cuda.is_available()

CONTESTANTS = {
    "stock, as shipped": {"stock": True, "threads": 1, "bf16": False},
    "stock, all threads": {"stock": True, "threads": 0, "bf16": False},
    "stock, all threads, bf16": {"stock": True, "threads": 0, "bf16": True},
    "ours, float32": {"stock": False, "threads": 0, "bf16": False},
    "ours": {"stock": False, "threads": 0, "bf16": True},
}


class Parts:
    """The time in seconds that each part of the steps takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if _GPU:
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began

    def time_method(self, owner: Any, method: str, name: str) -> None:
        """Count the time of a method as the part `name`."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)


def run_contestant(name: str, folder: Path, batch: int) -> None:
    """Train as the contestant `name` until stdin is closed."""
    settings = CONTESTANTS[name]
    parts = Parts()
    xtts_extend.enable()
    dataset.load_audio = load_audio
    owner = GPTTrainer if settings["stock"] else ExtendedGPTTrainer
    parts.time_method(owner, "format_batch_on_device", "mel, codes")
    parts.time_method(owner, "train_step", "forward")
    parts.time_method(torch.Tensor, "backward", "backward")
    parts.time_method(torch.optim.AdamW, "step", "optimizer")
    gate = Gate(parts)
    trainer_class = Trainer if settings["stock"] else ResumableTrainer
    trainer_class.train_step = gate.guard(trainer_class.train_step)
    torch.set_num_threads(settings["threads"] or os.cpu_count() or 1)
    output = folder / "runs" / name.replace(", ", "-").replace(" ", "-")
    if settings["stock"]:
        _run_stock(folder, output, batch, settings["bf16"])
    else:
        _run_ours(folder, output, batch, settings["bf16"])


class Gate:
    """A gate that blocks a trainer's steps until the other side of the pipe asks for them."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.left = 0
        self.ended: float | None = None
        self.audio = 0.0

    def guard(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(trainer: Any, batch: dict[str, Any], *args: Any) -> Any:
            if self.ended is not None:
                self.parts.seconds["data"] += time.perf_counter() - self.ended
            if self.left == 0:
                self._answer()
            audio = float(batch["wav_lengths"].sum()) / _RATE
            began = time.perf_counter()
            result = train_step(trainer, batch, *args)
            if _GPU:
                torch.cuda.synchronize()
            self.ended = time.perf_counter()
            self.parts.seconds["step"] += self.ended - began
            self.audio += audio
            self.left -= 1
            return result

        return guarded

    def _answer(self) -> None:
        memory = (
            torch.cuda.max_memory_allocated() if _GPU else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        )
        answer = {"audio": self.audio, "seconds": dict(self.parts.seconds), "memory": memory}
        print("@" + json.dumps(answer), flush=True)
        steps = sys.stdin.readline()
        if not steps:
            os._exit(0)
        self.left, self.audio = int(steps), 0.0
        self.parts.seconds.clear()


def _run_stock(folder: Path, output: Path, batch: int, bf16: bool) -> None:
    config = GPTTrainerConfig(
        batch_size=batch, num_loader_workers=8, epochs=1000, run_eval=False, lr=5e-6, optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2}, optimizer_wd_only_on_weights=True,
        save_checkpoints=False, mixed_precision=bf16, precision="bf16",
    )  # fmt: skip
    copy_architecture(config, read_json(folder / "base" / "config.json"))
    use_base(config, folder / "base")
    config.model_args.tokenizer_file = str(folder / "base" / "vocab.json")
    config.model_args.xtts_checkpoint = str(folder / "base" / "model.pth")
    samples = read_manifests([str(folder / "speech" / "metadata.csv")], "en")
    trainer = Trainer(
        TrainerArgs(), config, output_path=output, model=GPTTrainer(config), eval_samples=[],
        train_samples=[sample.to_coqui() for sample in samples], parse_command_line_args=False,
    )  # fmt: skip
    trainer.fit()


def _run_ours(folder: Path, output: Path, batch: int, bf16: bool) -> None:
    runpy.run_path(str(find_recipe()))["main"](
        [
            f"--base-dir={folder / 'base'}", "--language=en", "--grad-accum-steps=1", f"--output-dir={output}",
            f"--train-manifest={folder / 'speech' / 'metadata.csv'}", f"--batch-frames={batch * _FRAMES}",
            f"--codes={folder / 'codes'}", f"--amp={'bf16' if bf16 else 'none'}", "--save-step=1000000",
            # This is the default for runs with new tokens, which this one does not have.
            "--voice=frozen",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    run_contestant(sys.argv[3], Path(sys.argv[1]), int(sys.argv[2]))
