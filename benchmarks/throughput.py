"""Compare the training speed of our recipe and coqui's: the tables of docs/performance.md.

    python benchmarks/throughput.py OUTPUT_FOLDER [speed|curves …] [--layers 8] [--channels 512] [--batch 4]
    python benchmarks/throughput.py OUTPUT_FOLDER speed --layers 30 --channels 1024 --alone --steps 2 --turns 2

`speed`: coqui's recipe with several settings and ours train the same model on the same recordings, each in its own
process. They take turns of a few steps, so that other load on the machine affects all of them. With --alone, only one
process exists at a time: 30 layers × 1024 need up to 13 GB each. Ours trains with the voice side frozen, as a run
with new tokens does; coqui's trains it. `curves`: coqui's forward pass in float32 and ours with its defaults make the
same 200 updates, both with the voice side frozen. The speech is made with espeak-ng, with utterance lengths as in LJ
Speech. All read the recordings without FFmpeg.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mini_runs import table
from throughput_contestant import CONTESTANTS
from throughput_updates import curves, flops_per_second_of_audio, matrix_product_flops

from xtts_extend.data.audio import load_audio
from xtts_extend.data.manifest import read_manifests
from xtts_extend.demo import texts
from xtts_extend.demo.mini_base import make_mini_base
from xtts_extend.demo.speech import make_corpus
from xtts_extend.model.forward import AUDIO_STOPS
from xtts_extend.text.tokenizer import load_tokenizer

#: Number of sentences per utterance, drawn at random: gives lengths as in LJ Speech, 1 to 10 s with a mean of 6.6 s.
_SENTENCES = (1, 1, 2, 2, 2)
_UTTERANCES = 240
_RATE, _SAMPLES_PER_CODE = 22050, 1024


class Contestant:
    """A contestant's process and the pipe to it."""

    def __init__(self, name: str, folder: Path, batch: int) -> None:
        script = Path(__file__).with_name("throughput_contestant.py")
        command = [sys.executable, str(script), str(folder), str(batch), name]
        self.began = time.monotonic()
        self.log = folder / f"{name}.log"
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True
        )
        self.read_answer()
        self.start_up_s = time.monotonic() - self.began

    def read_answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                return dict(json.loads(line[1:]))
        sys.exit(f"A contestant stopped unexpectedly. Its output is in {self.log}.")

    def train(self, steps: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.read_answer()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Turns:
    """How contestants take turns.

    Attributes:
        steps, turns: Timed steps in a turn, and timed turns of each contestant.
        alone: Whether only one process exists at a time. It then starts anew for each turn, and its first step is not
            timed. Otherwise, all processes exist from beginning to end, and their first turn is not timed.
    """

    steps: int
    turns: int
    alone: bool

    def take(self, names: Sequence[str], folder: Path, batch: int) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """Yield each contestant's name, start-up time in seconds and measurements, turn by turn."""
        running = {} if self.alone else {name: Contestant(name, folder, batch) for name in names}
        for contestant in running.values():
            contestant.train(self.steps)
        for _ in range(self.turns):
            for name in names:
                contestant = running.get(name) or Contestant(name, folder, batch)
                if self.alone:
                    contestant.train(1)
                yield name, contestant.start_up_s, contestant.train(self.steps)
                if self.alone:
                    contestant.stop()
        for contestant in running.values():
            contestant.stop()


def speed(folder: Path, batch: int, names: Sequence[str], turns: Turns) -> None:
    """Time contestants in turns and print a table of their medians."""
    # The first start encodes the recordings, so it is timed separately.
    first = Contestant("ours", folder, batch)
    encoding_s = first.start_up_s
    first.stop()
    rates: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, dict[str, float]] = {name: defaultdict(float) for name in names}
    memory: dict[str, float] = {}
    start_up_s: dict[str, float] = {}
    for name, start_up_s[name], answer in turns.take(names, folder, batch):
        seconds = answer["seconds"]
        rates[name].append(answer["audio"] / (seconds["step"] + seconds["data"]))
        for part, value in seconds.items():
            shares[name][part] += value
        memory[name] = answer["memory"] / 1e9
        print(f"{name}: {rates[name][-1]:.2f} s of audio per second", file=sys.stderr, flush=True)
    parts = ("data", "mel, codes", "forward", "backward", "optimizer")
    flops = {voice: flops_per_second_of_audio(folder, voice) for voice in ("trained", "frozen")}
    rows = [["", "audio s / s", "× shipped", "spread", "TFLOP/s", *parts, "rest", "memory, GB", "start-up, s"]]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    shipped = medians["stock, as shipped"]
    for name, median in medians.items():
        own_flops = flops["trained" if name.startswith("stock") else "frozen"]
        total_s = shares[name]["step"] + shares[name]["data"]
        part_shares = [shares[name][part] / total_s for part in parts]
        rows.append(
            [
                name, f"{median:.2f}", f"{median / shipped:.2f}",
                f"{min(rates[name]):.2f}–{max(rates[name]):.2f}", f"{own_flops * median / 1e12:.3f}",
                *(f"{share:.1%}" for share in part_shares),
                f"{1 - sum(part_shares):.1%}", f"{memory[name]:.2f}", f"{start_up_s[name]:.1f}",
            ]
        )  # fmt: skip
    best = max(median for name, median in medians.items() if name.startswith("stock"))
    print(table(rows))
    ours = medians["ours"]
    print(f"\nOurs: {ours / shipped:.2f} × stock as shipped, {ours / best:.2f} × the fastest stock.")
    share = ours * flops["frozen"] / matrix_product_flops()
    for voice, count in flops.items():
        print(f"{count / 1e9:.0f} GFLOP per second of audio with the voice side {voice}.")
    print(f"Ours reaches {share:.0%} of the FLOP/s of a large matrix product.")
    print(f"Start-up including encoding {_UTTERANCES} utterances: {encoding_s:.1f} s.")
    for line in (folder / "ours.log").read_text(encoding="utf-8").splitlines():
        if "padding" in line:
            print(line)
    print(
        f"Padding of random batches of {batch}, text and audio apart as in stock: {stock_padding(folder, batch):.1%}."
    )


def stock_padding(folder: Path, batch: int) -> float:
    """Return the share of padding in random batches with texts and audio padded separately, as in coqui's recipe."""
    tokenizer = load_tokenizer(folder / "base" / "vocab.json")
    samples = read_manifests([str(folder / "speech" / "metadata.csv")], "en")
    audio = [load_audio(sample.audio_file, _RATE).shape[-1] for sample in samples]
    parts = (
        [len(tokenizer.encode(sample.text, "en")) + 2 for sample in samples],
        [-(-length // _SAMPLES_PER_CODE) + AUDIO_STOPS for length in audio],
    )
    order = random.Random(0).sample(range(len(samples)), len(samples))
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    padded = sum(len(indices) * max(part[index] for index in indices) for indices in batches for part in parts)
    return 1 - sum(map(sum, parts)) / padded


def prepare(folder: Path, layers: int, channels: int) -> None:
    """Make the base model and the speech unless they exist."""
    if not (folder / "base").exists():
        # One step trains the DVAE as well. An untrained one encodes nearly all sounds as the same few codes.
        make_mini_base(folder / "base", layers=layers, channels=channels, heads=channels // 64, steps=1)
    generator = random.Random(0)
    sentences = iter(texts.sentences("en", _UTTERANCES * max(_SENTENCES)))
    lines = [" ".join(next(sentences) for _ in range(generator.choice(_SENTENCES))) for _ in range(_UTTERANCES)]
    make_corpus(lines, "en", folder / "speech")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUTPUT_FOLDER", help="Folder for all files.")
    parser.add_argument(
        "tables",
        nargs="*",
        metavar="TABLE",
        default=["speed", "curves"],
        help="speed or curves. [both]",
    )
    parser.add_argument("--layers", type=int, default=8, help="Layers of the model. [8]")
    parser.add_argument("--channels", type=int, default=512, help="Channels of the model. [512]")
    parser.add_argument("--batch", type=int, default=4, help="Batch size. [4]")
    parser.add_argument("--steps", type=int, default=3, help="Timed steps in a turn. [3]")
    parser.add_argument("--turns", type=int, default=7, help="Timed turns of each contestant. [7]")
    parser.add_argument("--alone", action="store_true", help="One process at a time, for large models.")
    parser.add_argument(
        "--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS), help="Contestants. [all]"
    )
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # In a process of its own, whose memory is free afterwards.
    preparation = multiprocessing.get_context("spawn").Process(
        target=prepare, args=(folder, args.layers, args.channels)
    )
    preparation.start()
    preparation.join()
    if preparation.exitcode:
        sys.exit(preparation.exitcode)
    for name in args.tables:
        if name == "speed":
            speed(folder, args.batch, args.contestants, Turns(args.steps, args.turns, args.alone))
        else:
            curves(folder, args.batch)


if __name__ == "__main__":
    main()
