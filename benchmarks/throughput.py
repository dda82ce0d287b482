"""How fast the recipe trains, beside the stock recipe: the tables of docs/performance.md.

    python benchmarks/throughput.py OUTPUT_FOLDER [speed|curves …] [--layers 8] [--channels 512] [--batch 4]

`speed`: stock as shipped, stock with its best settings, and ours are three processes that train the same model on the
same recordings and take turns, some steps each, so that what else the machine does falls on all of them. `curves`: the
stock forward pass in float32 and ours as it trains by default make the same 200 updates. Speech is espeak-ng's, with
lengths like those of LJ Speech; recordings are read without FFmpeg by all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import runpy
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mini_runs import table

import xtts_extend
from xtts_extend.data.audio import load_audio
from xtts_extend.data.manifest import read_manifests
from xtts_extend.demo import texts
from xtts_extend.demo.mini_base import make_mini_base
from xtts_extend.demo.speech import make_corpus
from xtts_extend.recipes import find_recipe

#: Sentences that are joined to an utterance: lengths like those of LJ Speech, 1 to 10 s with a mean of 6.6 s.
_SENTENCES = (1, 1, 2, 2, 2)
_UTTERANCES = 240
_RATE = 22050
#: Steps of a turn, turns of each contestant, and turns that warm up.
_STEPS, _TURNS, _WARM = 3, 7, 1
#: Frames of an utterance of the corpus on average: a budget of so many times the batch size has as many utterances.
_FRAMES = 262
_CURVE_STEPS = 200
_CURVE_RATE = 1e-4
#: Utterances whose operations are counted; side of the matrices whose product is timed, and how often.
_FLOP_UTTERANCES = 16
_MATRIX, _PRODUCTS = 4096, 5
_GPU = torch.cuda.is_available()

CONTESTANTS = {
    "stock, as shipped": {"stock": True, "threads": 1, "bf16": False},
    "stock, all threads": {"stock": True, "threads": 0, "bf16": False},
    "stock, all threads, bf16": {"stock": True, "threads": 0, "bf16": True},
    "ours, float32": {"stock": False, "threads": 0, "bf16": False},
    "ours": {"stock": False, "threads": 0, "bf16": True},
}


class Parts:
    """Seconds that the parts of the steps of this process take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if _GPU:
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count the time of a method as a part."""
        original = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, method, watched)


def contestant(name: str, folder: Path, batch: int) -> None:
    """One process: it trains when it reads a number of steps, and answers with what they took."""
    settings = CONTESTANTS[name]
    parts = Parts()
    xtts_extend.enable()
    from trainer import Trainer
    from TTS.tts.layers.xtts.trainer import dataset, gpt_trainer

    from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
    from xtts_extend.training.trainer import ResumableTrainer

    dataset.load_audio = load_audio
    owner = gpt_trainer.GPTTrainer if settings["stock"] else ExtendedGPTTrainer
    parts.watch(owner, "format_batch_on_device", "mel, codes")
    parts.watch(owner, "train_step", "forward")
    parts.watch(torch.Tensor, "backward", "backward")
    parts.watch(torch.optim.AdamW, "step", "optimizer")
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
    """Lets a trainer's steps through when the other side of the pipe says so."""

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
        said = sys.stdin.readline()
        if not said:
            os._exit(0)
        self.left, self.audio = int(said), 0.0
        self.parts.seconds.clear()


def _run_stock(folder: Path, output: Path, batch: int, bf16: bool) -> None:
    from trainer import Trainer, TrainerArgs
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer, GPTTrainerConfig

    from xtts_extend.run.config import read_json, take_architecture
    from xtts_extend.setup.base import use_base

    config = GPTTrainerConfig(
        batch_size=batch, num_loader_workers=8, epochs=1000, run_eval=False, lr=5e-6, optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2}, optimizer_wd_only_on_weights=True,
        save_checkpoints=False, mixed_precision=bf16, precision="bf16",
    )  # fmt: skip
    take_architecture(config, read_json(folder / "base" / "config.json"))
    use_base(config, folder / "base")
    config.model_args.tokenizer_file = str(folder / "base" / "vocab.json")
    config.model_args.xtts_checkpoint = str(folder / "base" / "model.pth")
    samples = read_manifests([str(folder / "speech" / "metadata.csv")], "en")
    trainer = Trainer(
        TrainerArgs(), config, output_path=output, model=GPTTrainer(config), train_samples=samples, eval_samples=[],
        parse_command_line_args=False,
    )  # fmt: skip
    trainer.fit()


def _run_ours(folder: Path, output: Path, batch: int, bf16: bool) -> None:
    runpy.run_path(str(find_recipe()))["main"](
        [
            f"--base-dir={folder / 'base'}", "--language=en", "--grad-accum-steps=1", f"--output-dir={output}",
            f"--train-manifest={folder / 'speech' / 'metadata.csv'}", f"--batch-frames={batch * _FRAMES}",
            f"--codes={folder / 'codes'}", f"--amp={'bf16' if bf16 else 'none'}", "--save-step=1000000",
        ]
    )  # fmt: skip


class Contestant:
    """The other side of the pipe."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        command = [sys.executable, __file__, *arguments, "--contestant", name]
        self.began = time.monotonic()
        self.log = Path(arguments[0]) / f"{name}.log"
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True
        )
        self.answer()
        self.start_up_s = time.monotonic() - self.began

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                return dict(json.loads(line[1:]))
        sys.exit(f"A contestant ended; see {self.log}.")

    def turn(self, steps: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def speed(folder: Path, arguments: list[str]) -> None:
    """Turns of all contestants, and the table of their medians."""
    # codes are made on first use: that start-up is a number of its own
    first = Contestant("ours", arguments)
    encoding_s = first.start_up_s
    first.end()
    running = {name: Contestant(name, arguments) for name in CONTESTANTS}
    rates: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, dict[str, float]] = {name: defaultdict(float) for name in CONTESTANTS}
    memory: dict[str, float] = {}
    for turn in range(_TURNS + _WARM):
        for name, one in running.items():
            answer = one.turn(_STEPS)
            if turn < _WARM:
                continue
            seconds = answer["seconds"]
            rates[name].append(answer["audio"] / (seconds["step"] + seconds["data"]))
            for part, value in seconds.items():
                shares[name][part] += value
            memory[name] = answer["memory"] / 1e9
    for one in running.values():
        one.end()
    parts = ("data", "mel, codes", "forward", "backward", "optimizer")
    flops = flops_per_second_of_audio(folder)
    head = ["", "audio s / s", "× shipped", "spread", "TFLOP/s", *parts, "rest", "memory, GB", "start-up, s"]
    rows = [head]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        all_s = shares[name]["step"] + shares[name]["data"]
        of_parts = [shares[name][part] / all_s for part in parts]
        rows.append(
            [
                name, f"{median:.2f}", f"{median / medians['stock, as shipped']:.2f}",
                f"{min(rates[name]):.2f}–{max(rates[name]):.2f}", f"{flops * median / 1e12:.3f}",
                *(f"{share:.1%}" for share in of_parts),
                f"{1 - sum(of_parts):.1%}", f"{memory[name]:.2f}", f"{running[name].start_up_s:.1f}",
            ]
        )  # fmt: skip
    best = max(median for name, median in medians.items() if name.startswith("stock"))
    print(table(rows))
    ours = medians["ours"]
    print(f"\nours: {ours / medians['stock, as shipped']:.2f} × as shipped, {ours / best:.2f} × best")
    share = ours * flops / matrix_product_flops()
    print(f"{flops / 1e9:.0f} GFLOP per second of audio; ours does {share:.0%} of what a large matrix product does")
    print(f"start-up with encoding {_UTTERANCES} utterances: {encoding_s:.1f} s")
    for line in (folder / "ours.log").read_text(encoding="utf-8").splitlines():
        if "padding" in line:
            print(line)


class Updates:
    """Models of one base that make updates on the same batches.

    Args:
        folder: with base and speech.
        kinds: the classes of the models.
        batch: samples of a batch, in stock's random order.
    """

    def __init__(self, folder: Path, kinds: Sequence[type], batch: int) -> None:
        from xtts_extend.checkpoint.store import load_checkpoint
        from xtts_extend.data.dataset import UtteranceDataset
        from xtts_extend.data.sampler import EpochBatchSampler
        from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, xtts_weights
        from xtts_extend.run.config import NewLanguageConfig, read_json, take_architecture
        from xtts_extend.setup.base import use_base

        config = NewLanguageConfig(lr=_CURVE_RATE)
        take_architecture(config, read_json(folder / "base" / "config.json"))
        use_base(config, folder / "base")
        weights = xtts_weights(load_checkpoint(folder / "base" / "model.pth")[0]["model"])
        self.models = []
        for kind in kinds:
            model = kind(config)
            model.xtts.load_state_dict(weights)
            model.xtts.gpt.to("cuda" if _GPU else "cpu")
            model.eval()
            model.xtts.gpt.train()
            self.models.append(model)
        self._formatter = next(model for model in self.models if isinstance(model, ExtendedGPTTrainer))
        samples = read_manifests([str(folder / "speech" / "metadata.csv")], "en")
        limit, args = config.model_args.max_wav_length, config.model_args
        samples = [sample for sample in samples if load_audio(sample["audio_file"], _RATE).shape[-1] < limit]
        self._data = UtteranceDataset(
            samples, self._formatter.xtts.tokenizer, sample_rate=_RATE, seed=1, is_eval=False, use_masking=True,
            min_conditioning_length=args.min_conditioning_length, max_conditioning_length=args.max_conditioning_length,
        )  # fmt: skip
        self._sampler = EpochBatchSampler(samples, batch, seed=1)

    def batches(self, count: int) -> Iterator[dict[str, Any]]:
        """The first batches, as the models take them."""
        for step in range(count):
            epoch, place = divmod(step, len(self._sampler))
            if place == 0:
                self._sampler.set_position(epoch)
                self._data.set_epoch(epoch)
            collated = self._data.collate_fn([self._data[index] for index in self._sampler.batch(place)])
            yield self._formatter.formatted(collated)


def flops_per_second_of_audio(folder: Path) -> float:
    """What the model's forward and backward pass costs: of utterances one by one, where nothing is padded."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer

    updates = Updates(folder, [ExtendedGPTTrainer], 1)
    audio, counter = 0.0, FlopCounterMode(display=False)
    # in matrix products, which the counter knows on every device
    with sdpa_kernel(SDPBackend.MATH), counter:
        for batch in updates.batches(_FLOP_UTTERANCES):
            audio += float(batch["wav_lengths"].sum()) / _RATE
            updates.models[0].train_step(batch, None)[1]["loss"].backward()
    return float(counter.get_total_flops() / audio)


def matrix_product_flops() -> float:
    """Operations per second of a large matrix product in bfloat16 on this machine: the median of some."""
    matrix = torch.randn(_MATRIX, _MATRIX, device="cuda" if _GPU else "cpu").bfloat16()
    seconds = []
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        matrix @ matrix
        if _GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * _MATRIX**3 / statistics.median(seconds)


def curves(folder: Path, batch: int) -> None:
    """The same updates by the stock forward pass in float32 and by ours in bfloat16: the losses, side by side."""
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

    from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
    from xtts_extend.progress import with_progress

    updates = Updates(folder, [GPTTrainer, GPTTrainer, ExtendedGPTTrainer], batch)
    optimizers = [model.get_optimizer() for model in updates.models]
    losses: list[list[float]] = [[], [], []]
    for step, batch_of_step in enumerate(with_progress(updates.batches(_CURVE_STEPS), _CURVE_STEPS, "updates")):
        # stock twice, with other dropout: how far apart two runs of the same thing are
        for number, (model, optimizer) in enumerate(zip(updates.models, optimizers, strict=True)):
            torch.manual_seed(1000 * number + step)
            losses[number].append(_update(model, optimizer, batch_of_step, ours=number == 2))
    rows = [["updates", "stock", "stock, other dropout", "ours"]]
    for end in range(25, _CURVE_STEPS + 1, 25):
        rows.append([f"{end - 24}–{end}", *(f"{statistics.fmean(one[end - 25 : end]):.4f}" for one in losses)])
    print(table(rows))
    gaps = [statistics.fmean(abs(a - b) for a, b in zip(losses[0], other, strict=True)) for other in losses[1:]]
    print(f"\nmean distance of two losses of one update: stock and stock {gaps[0]:.4f}, stock and ours {gaps[1]:.4f}")


def _update(model: Any, optimizer: torch.optim.Optimizer, batch: Mapping[str, Any], *, ours: bool) -> float:
    if ours:
        with torch.autocast("cuda" if _GPU else "cpu", torch.bfloat16):
            loss = model.train_step(dict(batch), None)[1]["loss"]
    else:
        loss_text, loss_mel, _ = model.xtts.gpt(
            batch["text_inputs"], batch["text_lengths"], batch["audio_codes"], batch["wav_lengths"],
            cond_mels=batch["cond_mels"], cond_idxs=batch["cond_idxs"].clone(),
        )  # fmt: skip
        loss = 0.01 * loss_text + loss_mel
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def prepare(folder: Path, layers: int, channels: int) -> None:
    """The base and the speech, as far as they are not there."""
    if not (folder / "base").exists():
        # one step, so that the DVAE is trained: an untrained one gives nearly all sounds the same few codes
        make_mini_base(folder / "base", layers=layers, channels=channels, heads=channels // 64, steps=1)
    generator = random.Random(0)
    sentences = iter(texts.sentences("en", _UTTERANCES * max(_SENTENCES)))
    lines = [" ".join(next(sentences) for _ in range(generator.choice(_SENTENCES))) for _ in range(_UTTERANCES)]
    make_corpus(lines, "en", folder / "speech")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", nargs="*", default=["speed", "curves"])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--contestant", choices=tuple(CONTESTANTS))
    args = parser.parse_args()
    folder = args.folder.absolute()
    if args.contestant:
        contestant(args.contestant, folder, args.batch)
        return
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, args.layers, args.channels)
    for what in args.what:
        if what == "speed":
            speed(folder, [str(folder), f"--batch={args.batch}"])
        else:
            curves(folder, args.batch)


if __name__ == "__main__":
    main()
