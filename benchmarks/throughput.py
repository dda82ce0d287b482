"""How fast the recipe trains, beside the stock recipe: the tables of docs/performance.md.

    python benchmarks/throughput.py OUTPUT_FOLDER [speed|curves …] [--layers 8] [--channels 512] [--batch 4]

`speed`: stock as shipped, stock with its best settings, and ours are three processes that train the same model on the
same recordings and take turns, some steps each, so that what else the machine does falls on all of them. `curves`: the
stock forward pass in float32 and ours as it trains by default make the same 200 updates, the voice side frozen in both.
Ours is timed with it frozen, as a run with new tokens trains; stock trains it. Speech is espeak-ng's, with lengths like
those of LJ Speech; recordings are read without FFmpeg by all.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
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

#: Sentences that are joined to an utterance: lengths like those of LJ Speech, 1 to 10 s with a mean of 6.6 s.
_SENTENCES = (1, 1, 2, 2, 2)
_UTTERANCES = 240
_RATE, _SAMPLES_OF_A_CODE = 22050, 1024
#: Steps of a turn, turns of each contestant, and turns that warm up.
_STEPS, _TURNS, _WARM = 3, 7, 1


class Contestant:
    """The other side of the pipe."""

    def __init__(self, name: str, folder: Path, batch: int) -> None:
        script = Path(__file__).with_name("throughput_contestant.py")
        command = [sys.executable, str(script), str(folder), str(batch), name]
        self.began = time.monotonic()
        self.log = folder / f"{name}.log"
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


def speed(folder: Path, batch: int) -> None:
    """Turns of all contestants, and the table of their medians."""
    # codes are made on first use: that start-up is a number of its own
    first = Contestant("ours", folder, batch)
    encoding_s = first.start_up_s
    first.end()
    running = {name: Contestant(name, folder, batch) for name in CONTESTANTS}
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
    flops = {voice: flops_per_second_of_audio(folder, voice) for voice in ("trained", "frozen")}
    head = ["", "audio s / s", "× shipped", "spread", "TFLOP/s", *parts, "rest", "memory, GB", "start-up, s"]
    rows = [head]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        own_flops = flops["trained" if name.startswith("stock") else "frozen"]
        all_s = shares[name]["step"] + shares[name]["data"]
        of_parts = [shares[name][part] / all_s for part in parts]
        rows.append(
            [
                name, f"{median:.2f}", f"{median / medians['stock, as shipped']:.2f}",
                f"{min(rates[name]):.2f}–{max(rates[name]):.2f}", f"{own_flops * median / 1e12:.3f}",
                *(f"{share:.1%}" for share in of_parts),
                f"{1 - sum(of_parts):.1%}", f"{memory[name]:.2f}", f"{running[name].start_up_s:.1f}",
            ]
        )  # fmt: skip
    best = max(median for name, median in medians.items() if name.startswith("stock"))
    print(table(rows))
    ours = medians["ours"]
    print(f"\nours: {ours / medians['stock, as shipped']:.2f} × as shipped, {ours / best:.2f} × best")
    share = ours * flops["frozen"] / matrix_product_flops()
    for voice, count in flops.items():
        print(f"{count / 1e9:.0f} GFLOP per second of audio with the voice side {voice}")
    print(f"ours does {share:.0%} of the operations per second that a large matrix product does")
    print(f"start-up with encoding {_UTTERANCES} utterances: {encoding_s:.1f} s")
    for line in (folder / "ours.log").read_text(encoding="utf-8").splitlines():
        if "padding" in line:
            print(line)
    print(
        f"padding of random batches of {batch}, text and audio apart, as in stock: {stock_padding(folder, batch):.1%}"
    )


def stock_padding(folder: Path, batch: int) -> float:
    """Share of padding in random batches whose texts and audio are padded apart, as the stock recipe makes them."""
    tokenizer = load_tokenizer(folder / "base" / "vocab.json")
    samples = read_manifests([str(folder / "speech" / "metadata.csv")], "en")
    audio = [load_audio(sample.audio_file, _RATE).shape[-1] for sample in samples]
    parts = (
        [len(tokenizer.encode(sample.text, "en")) + 2 for sample in samples],
        [-(-length // _SAMPLES_OF_A_CODE) + AUDIO_STOPS for length in audio],
    )
    order = random.Random(0).sample(range(len(samples)), len(samples))
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    places = sum(len(drawn) * max(part[index] for index in drawn) for drawn in batches for part in parts)
    return 1 - sum(map(sum, parts)) / places


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
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, args.layers, args.channels)
    for what in args.what:
        {"speed": speed, "curves": curves}[what](folder, args.batch)


if __name__ == "__main__":
    main()
