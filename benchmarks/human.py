"""Run the complete workflow on human speech with the commands that a user types.

    python benchmarks/human.py OUTPUT_FOLDER --download --recordings 100

The languages are Greek and Bulgarian, which XTTS does not know, and Czech, which it does. Each goes through a manifest,
`extend-vocab`, `check-data`, twenty training steps with a SIGINT halfway, a resume, `export` and `speak`. The
recordings come from Debian packages (see human_data.py): --download fetches them into OUTPUT_FOLDER/packages, otherwise
they must be there. Prints a table, writes OUTPUT_FOLDER/report.json, and exits with 1 if a stage failed. The output of
the commands is in OUTPUT_FOLDER/LANGUAGE/log.txt. Files of an earlier run are replaced, except the packages and the
base model.

The base model is a mini model with the vocabulary of an XTTS release (--vocab), or the one in --base-dir.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from human_data import RELEASED_VOCAB, Recording, read_corpus, unpack
from mini_runs import table

from xtts_extend.data.manifest import read_manifests, write_manifest
from xtts_extend.recipes import find_recipe
from xtts_extend.run.metrics import read_metrics
from xtts_extend.text.languages import is_stock
from xtts_extend.text.vocabulary import load_vocabulary

LANGUAGES = ("el", "bg", "cs")
STEPS, STOP_AT = 20, 10
#: Every n-th recording is in the validation set.
_VALIDATION = 10
_ENTRIES = 500
_COMMAND = [sys.executable, "-m", "xtts_extend"]


class StageFailed(Exception):
    """A command failed, or its results are not as expected."""


@dataclass
class Result:
    """The results for a language; None for the stages that were not reached."""

    language: str
    recordings: int
    without_text: int
    usable: int | None = None
    hours: float | None = None
    problems: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    new_entries: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    stopped_at: int | None = None
    first_step_after_resume: int | None = None
    spoken_s: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str | None = None


class Job:
    """The stages of one language, in its own folder."""

    def __init__(self, folder: Path, base: Path, result: Result) -> None:
        self.folder, self.base, self.result = folder, base, result
        self.log = folder / "log.txt"

    def run(self, recordings: list[Recording]) -> None:
        """Run the stages up to the first failure, and fill in the result."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        try:
            vocab = self._vocabulary(recordings)
            train, val = self._check(recordings, vocab)
            run = self._train(train, val, vocab)
            self._resume(run)
            self._speak(run, train, val)
        except StageFailed as failure:
            self.result.failure = str(failure)

    def _vocabulary(self, recordings: list[Recording]) -> Path:
        language, base_vocab = self.result.language, self.base / "vocab.json"
        if language in load_vocabulary(base_vocab).languages:
            return base_vocab
        corpus, vocab = self.folder / "corpus.txt", self.folder / "vocab.json"
        corpus.write_text("".join(f"{recording.text}\n" for recording in recordings), encoding="utf-8")
        report = self._json(
            "extend-vocab", f"--base-vocab={base_vocab}", f"--language={language}", f"--text={corpus}",
            f"--size={_ENTRIES}", f"--output={vocab}",
        )  # fmt: skip
        self.result.new_entries = report["added"]
        return vocab

    def _check(self, recordings: list[Recording], vocab: Path) -> tuple[Path, Path]:
        """Return the training and validation manifests of the usable samples."""
        manifest, clean = self.folder / "metadata.csv", self.folder / "clean.csv"
        rows = [f"{recording.file}|{recording.text}\n" for recording in recordings]
        manifest.write_text("audio_file|text\n" + "".join(rows), encoding="utf-8")
        language = self.result.language
        report = self._json(
            "check-data", f"--manifest={manifest}", f"--language={language}", f"--vocab={vocab}",
            f"--write-clean={clean}", f"--cache={self.folder / 'runs' / '.data-check.jsonl'}", expected=(0, 1),
        )  # fmt: skip
        (self.folder / "check.json").write_text(json.dumps(report, ensure_ascii=False, indent=2), encoding="utf-8")
        for key in ("usable", "hours", "problems", "warnings"):
            setattr(self.result, key, report[key])
        samples = read_manifests([str(clean)], language)
        train, val = self.folder / "train.csv", self.folder / "val.csv"
        write_manifest([sample for number, sample in enumerate(samples) if number % _VALIDATION], train)
        write_manifest(samples[::_VALIDATION], val)
        return train, val

    def _train(self, train: Path, val: Path, vocab: Path) -> Path:
        """Start training, stop it with SIGINT, and return the run folder."""
        self._recipe(
            "train", f"--base-dir={self.base}", f"--vocab={vocab}", f"--language={self.result.language}",
            f"--train-manifest={train}", f"--val-manifest={val}", f"--output-dir={self.folder / 'runs'}",
            f"--max-steps={STEPS}", f"--eval-step={STEPS}", "--batch-size=4", "--grad-accum-steps=1",
            "--learning-rate=5e-4", "--grad-clip=1", "--coqpit.print_step=1",
            # The mini base was trained with 1.5 to 3 s of conditioning.
            "--coqpit.model_args.min_conditioning_length=33075", "--coqpit.model_args.max_conditioning_length=66150",
            expected=130, stop_at=STOP_AT,
        )  # fmt: skip
        (run,) = (self.folder / "runs").glob("xtts-*/")
        self.result.stopped_at = self._json("inspect", str(run))["step"]
        return run

    def _resume(self, run: Path) -> None:
        self.result.first_step_after_resume = self._recipe("resume", f"--checkpoint={run}", expected=0)
        steps, evaluations = read_metrics(run)
        if [line["step"] for line in steps] != list(range(1, STEPS + 1)):
            raise StageFailed(f"resume: expected the steps 1 to {STEPS} in metrics.jsonl, each once")
        self.result.first_loss, self.result.last_loss = evaluations[0]["loss_mel_ce"], evaluations[-1]["loss_mel_ce"]

    def _speak(self, run: Path, train: Path, val: Path) -> None:
        """Export the model and speak an unseen sentence in the voice of the largest recording."""
        model, language = self.folder / "model", self.result.language
        # A language that the base model already knows cannot be exported as a pack.
        merged = ["--merged"] if is_stock(language) else []
        self._json("export", f"--checkpoint={run}", f"--output={model}", f"--base-dir={self.base}", *merged)
        files = [sample.audio_file for sample in read_manifests([str(train)], language)]
        reference, sentence = max(files, key=os.path.getsize), read_manifests([str(val)], language)[0].text
        spoken = self._json(
            "speak", f"--model={model}", f"--language={language}", f"--reference={reference}", f"--text={sentence}",
            f"--output={self.folder / 'spoken.wav'}", "--seed=0",
        )  # fmt: skip
        self.result.spoken_s = spoken["audio_s"]

    def _json(self, command: str, *arguments: str, expected: tuple[int, ...] = (0,)) -> Any:
        """Run a command with --json and return its parsed output."""
        start = time.monotonic()
        done = subprocess.run(
            [*_COMMAND, command, *arguments, "--json"], capture_output=True, text=True, encoding="utf-8"
        )
        self._log_stage(command, start, done.stdout + done.stderr)
        if done.returncode not in expected:
            raise StageFailed(f"{command}: exit code {done.returncode}: {_last_line(done.stderr)}")
        return json.loads(done.stdout)

    def _recipe(self, stage: str, *arguments: str, expected: int, stop_at: int | None = None) -> int:
        """Run the recipe, interrupt it at step `stop_at`, and return the first step that it printed."""
        start, lines, steps = time.monotonic(), [], []
        with subprocess.Popen(
            [sys.executable, str(find_recipe()), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        ) as process:
            for line in process.stdout or ():
                lines.append(line)
                if match := re.match(r" > step (\d+)/", line):
                    steps.append(int(match.group(1)))
                    if steps[-1] == stop_at:
                        process.send_signal(signal.SIGINT)
        self._log_stage(stage, start, "".join(lines))
        if process.returncode != expected or not steps:
            raise StageFailed(f"{stage}: exit code {process.returncode}, expected {expected}: {_last_line(lines[-1])}")
        return steps[0]

    def _log_stage(self, stage: str, start: float, output: str) -> None:
        self.result.seconds[stage] = time.monotonic() - start
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"===== {stage}\n{output}\n")
        print(f"{self.result.language}: {stage} {self.result.seconds[stage]:.0f} s", flush=True)


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no output"])[-1]


def make_base(output: Path, vocab: Path) -> Path:
    """Make a mini base with a trained DVAE unless it exists, and return its folder."""
    base = output / "base"
    if not base.is_dir():
        arguments = [f"--output={base}", f"--vocab={vocab}", "--steps=1"]
        subprocess.run([*_COMMAND, "make-mini-base", *arguments], check=True)
    return base


def report(results: list[Result]) -> str:
    """Return the results as a table with a column for each language."""

    def counts(by_kind: dict[str, int]) -> str:
        return ", ".join(f"{kind} {number}" for kind, number in by_kind.items()) or "none"

    def number(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    rows = {
        "recordings": lambda result: number(result.recordings, 0),
        "files without text": lambda result: number(result.without_text, 0),
        "usable": lambda result: number(result.usable, 0),
        "hours": lambda result: number(result.hours, 3),
        "problems": lambda result: counts(result.problems),
        "warnings": lambda result: counts(result.warnings),
        "new entries": lambda result: number(result.new_entries, 0),
        "mel loss before the first step": lambda result: number(result.first_loss, 3),
        f"mel loss after {STEPS} steps": lambda result: number(result.last_loss, 3),
        "stopped at step": lambda result: number(result.stopped_at, 0),
        "first step after resuming": lambda result: number(result.first_step_after_resume, 0),
        "spoken audio, s": lambda result: number(result.spoken_s, 1),
    }
    for stage in dict.fromkeys(stage for result in results for stage in result.seconds):
        rows[f"{stage}, s"] = lambda result, stage=stage: number(result.seconds.get(stage), 0)
    rows["failed"] = lambda result: result.failure or "no"
    lines = [[title, *(cell(result) for result in results)] for title, cell in rows.items()]
    return table([["", *(result.language for result in results)], *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("--download", action="store_true", help="Fetch the packages with apt-get (271 MB).")
    parser.add_argument(
        "--recordings", type=int, default=0, metavar="N", help="Use up to N recordings of each language. [all]"
    )
    parser.add_argument("--base-dir", type=Path, help="Base model that knows Czech. [a mini base]")
    parser.add_argument("--vocab", type=Path, default=RELEASED_VOCAB, help="Vocabulary of the mini base.")
    args = parser.parse_args()
    output = args.output.absolute()
    unpack(output / "packages", download=args.download)
    base = args.base_dir or make_base(output, args.vocab)

    results = []
    for language in LANGUAGES:
        corpus = read_corpus(output / "packages", language)
        recordings = corpus.share(args.recordings)
        results.append(Result(language, len(recordings), corpus.without_text))
        Job(output / language, base, results[-1]).run(recordings)
    content = json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=2)
    (output / "report.json").write_text(content, encoding="utf-8")
    print(report(results))
    return 1 if any(result.failure for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
