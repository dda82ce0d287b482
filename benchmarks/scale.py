"""Measure what grows with the number of utterances: start-up, memory, the data path of a step, and saving.

    python benchmarks/scale.py OUTPUT_FOLDER --utterances 10000 100000 [--against COMMIT]

A run of the untrained mini model takes a few steps on made-up data, first without codes (first start), then with them
(second start). Up to 100,000 utterances, each has a recording of its own, 0.6 s long. Beyond that, the recordings are
links to a few thousand files, and their measurements and digests are made up, so the first start measures no files. The
DVAE is replaced with a function of the samples, because its time depends on the hours of audio only. Each start runs in
a process of its own, and its time includes Python's start and the imports. "CPU" is the processor time of all threads
up to the first step, which other work on the machine affects less. Batches and saving are timed in processor time of
the main thread. Memory is the process's peak. The first row of each version is the same run with 100 utterances. With
--against, the code of another commit is measured too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RATE = 22050
#: Number of samples in each recording, a little more than the shortest usable recording.
LENGTH = 13230
#: Largest number of utterances with a recording of their own.
OWN_RECORDINGS = 100_000
#: Number of files that the recordings of a larger set are links to. File systems limit the links to one file.
LINKED_FILES = 4_000
#: Number of utterances of the run whose memory is subtracted.
FEW = 100
STEPS = 3
#: Number of batches over which the data path is timed, after as many that are not timed.
BATCHES = 400


def make_data(folder: Path, utterances: int) -> None:
    """Write recordings, a manifest, a vocabulary and a base model, unless they exist."""
    from xtts_extend.demo.mini_base import make_mini_base
    from xtts_extend.demo.texts import sentences
    from xtts_extend.text.extend import extend_vocabulary

    if (folder / "train.csv").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    base = make_mini_base(folder / "base", layers=2, channels=64, heads=2)
    texts = sentences("am", 400)
    (folder / "am.txt").write_text("\n".join(texts), encoding="utf-8")
    extend_vocabulary(base / "vocab.json", "am", folder / "vocab.json", texts=[folder / "am.txt"], size=300)
    generator = random.Random(0)
    words = sorted({word for text in texts for word in text.split()})
    names = [f"wavs/{number // 1000:04d}/{number:07d}.wav" for number in range(utterances)]
    for number in range(0, utterances, 1000):
        (folder / names[number]).parent.mkdir(parents=True)
    if utterances <= OWN_RECORDINGS:
        for number, name in enumerate(names):
            write_recording(folder / name, number)
    else:
        link_recordings(folder, names)
    lines = [f"{name}|{' '.join(generator.choices(words, k=8))}|speaker {i % 20}" for i, name in enumerate(names)]
    (folder / "train.csv").write_text("\n".join(["audio_file|text|speaker_name", *lines]) + "\n", encoding="utf-8")


def write_recording(path: Path, number: int) -> None:
    """Write 0.6 s of noise that is different for each number."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(RATE)
        file.writeframes(random.Random(number).randbytes(LENGTH))


def link_recordings(folder: Path, names: list[str]) -> None:
    """Link all names to a few recordings, and write measurements with made-up digests."""
    from dataclasses import asdict, replace

    from xtts_extend.data.audio import measure_recording
    from xtts_extend.setup.samples import CHECKED

    lines = []
    for number, name in enumerate(names):
        path = folder / name
        if number < LINKED_FILES:
            write_recording(path, number)
        else:
            os.link(folder / names[number % LINKED_FILES], path)
        if number == 0:
            recording = measure_recording(str(path))
        status = path.stat()
        entry = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        lines.append(json.dumps({**entry, "recording": asdict(replace(recording, digest=f"{number:032x}"))}) + "\n")
    body = "".join(lines).encode()
    (folder / "codes").mkdir()
    header = f"xtts_extend recordings, version 3, {hashlib.sha256(body).hexdigest()}\n"
    (folder / "codes" / CHECKED).write_bytes(header.encode() + body)


def start(folder: Path, output: Path, root: Path) -> dict[str, float]:
    """Run the recipe in a process of its own with the code in `root`, and return what it measured."""
    command = [sys.executable, __file__, str(folder), "--start", str(output), "--began", str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_start(folder: Path, output: Path, began: float) -> None:
    """Train a few steps in this process, and print the measurements as JSON."""
    import runpy

    import torch

    from xtts_extend.model.codec import Codec
    from xtts_extend.recipes import find_recipe
    from xtts_extend.training.loaders import train_loader
    from xtts_extend.training.saving import Saver
    from xtts_extend.training.trainer import ResumableTrainer

    measured: dict[str, float] = {}
    fit, train_step, checkpoint = ResumableTrainer.fit, ResumableTrainer.train_step, Saver.checkpoint

    def made_up_codes(self: Codec, wav: torch.Tensor) -> torch.Tensor:
        return (wav[0, ::1024].abs() * 1023).long()

    def timed_step(self: Any, *arguments: Any) -> Any:
        if not measured:
            measured.update(start_s=time.time() - began, start_cpu_s=time.process_time())
        return train_step(self, *arguments)

    def timed_checkpoint(self: Any, state: Any) -> None:
        self.writer.wait()
        before = time.thread_time()
        checkpoint(self, state)
        measured["save_s"] = time.thread_time() - before

    def timed_fit(self: Any) -> None:
        fit(self)
        measured["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        state = self.state
        loader = train_loader(state.config, state.model.xtts.tokenizer, state.train_samples, state.ranks)
        loader.batch_sampler.set_position(1)
        batches = iter(loader)
        for _ in range(min(BATCHES, len(loader) // 2)):
            next(batches)
        count = min(BATCHES, len(loader) // 2)
        before = time.thread_time()
        for _ in range(count):
            next(batches)
        measured["batch_ms"] = 1000 * (time.thread_time() - before) / count

    Codec.encode, ResumableTrainer.fit, ResumableTrainer.train_step = made_up_codes, timed_fit, timed_step
    Saver.checkpoint = timed_checkpoint
    flags: dict[str, object] = {
        "base-dir": folder / "base", "vocab": folder / "vocab.json", "language": "am",
        "train-manifest": folder / "train.csv", "codes": folder / "codes", "output-dir": output,
        "batch-frames": 500, "amp": "none", "grad-accum-steps": 1, "max-steps": STEPS,
        "save-step": 2, "coqpit.model_args.min_conditioning_length": 5000,
        "coqpit.model_args.max_conditioning_length": 11025,
    }  # fmt: skip
    runpy.run_path(str(find_recipe()))["main"]([f"--{key}={value}" for key, value in flags.items()])
    print(json.dumps(measured))


def measure(folder: Path, utterances: int, root: Path) -> list[dict[str, float]]:
    """Return the measurements of the first and the second start."""
    made_up = utterances > OWN_RECORDINGS
    for part in () if made_up else (folder / "codes").glob("*"):
        part.unlink()
    for file in [*(folder / "codes").glob("*.arrow"), *(folder / "codes").glob("*set.json")]:
        file.unlink()
    measured = []
    for _ in range(2):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        measured.append(start(folder, folder / "runs", root))
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="Folder for the data, which is reused.")
    parser.add_argument("--utterances", type=int, nargs="+", default=[10_000, 100_000], help="[10000 100000]")
    parser.add_argument("--against", metavar="COMMIT", help="Another commit whose code is measured too.")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        measure_start(args.output, args.start, args.began)
        return
    output = args.output.absolute()
    roots = {"this code": ROOT}
    if args.against:
        roots = {args.against: output / "code", **roots}
        shutil.rmtree(output / "code", ignore_errors=True)
        (output / "code").mkdir(parents=True)
        archive = subprocess.run(["git", "archive", args.against], cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", str(output / "code")], input=archive.stdout, check=True)
    lines = []
    for utterances in [FEW, *args.utterances]:
        make_data(output / str(utterances), utterances)
    for name, root in roots.items():
        for utterances in (FEW, *args.utterances):
            first, second = measure(output / str(utterances), utterances, root)
            lines.append([name, f"{utterances:,}"])
            for key, digits in (("start_s", 1), ("start_cpu_s", 1), ("peak_mib", 0)):
                lines[-1] += [f"{both[key]:,.{digits}f}" for both in (first, second)]
            lines[-1] += [f"{second[key]:.2f}" for key in ("batch_ms", "save_s")]
            print(lines[-1], flush=True)
    head = [
        "code",
        "utterances",
        "first start, s",
        "second",
        "first start, CPU s",
        "second",
        "first peak, MiB",
        "second",
    ]
    from mini_runs import table

    print(table([[*head, "batch, ms", "save, s"], *lines]))


if __name__ == "__main__":
    main()
