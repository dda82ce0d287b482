"""Shared data of the retention benchmark: a trained base model, encoded speech, vocabularies and a replay set.

A mini base of 4 layers × 128 channels is trained on English and Spanish until its loss curve is flat. All speech is
made with espeak-ng and encoded once. Files in the folder are reused.
"""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xtts_extend.checkpoint.inspect import inspect_checkpoint
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.demo import texts
from xtts_extend.demo.mini_base import make_mini_base
from xtts_extend.demo.speech import make_corpus
from xtts_extend.files import atomic_write
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.recipes import find_recipe
from xtts_extend.setup.encode import encode
from xtts_extend.speech.replay import make_replay
from xtts_extend.text.extend import extend_vocabulary

OLD, NEW = texts.BASE_LANGUAGES, ("am", "sw")
#: Number of utterances to train the base model, to train a new language, to replay, and to validate.
_BASE, _TRAIN, _REPLAY, _VAL = 1500, 1200, 600, 24
_BASE_STEPS, _BASE_RATE = 3000, 2e-3
#: Conditioning length in seconds. It is short because espeak-ng has four voices and attention dominates the time.
_SLICE_S = (0.5, 1.0)
_REPLAY_HOURS = 1.0


@dataclass(frozen=True)
class Data:
    """The folder with everything that the runs share."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def vocab(self, language: str) -> Path:
        return self.folder / f"vocab-{language}.json"

    @property
    def codes(self) -> Path:
        return self.folder / "codes"

    def manifest(self, language: str, part: str) -> str:
        return f"{self.folder / 'speech' / language / part / 'metadata.csv'}:{language}"

    @property
    def replay(self) -> Path:
        return self.folder / "replay"

    def prepare(self) -> None:
        """Make what is missing: speech, codes, vocabularies, a replay set, and a trained base model."""
        raw = self.folder / "base-untrained"
        if not raw.exists():
            make_mini_base(raw, steps=1)
        for language in NEW:
            if not self.vocab(language).exists():
                text = self.folder / f"{language}.txt"
                text.write_text("\n".join(texts.sentences(language, _TRAIN)), encoding="utf-8")
                extend_vocabulary(raw / "vocab.json", language, self.vocab(language), texts=[text], size=300)
        for language in (*OLD, *NEW):
            vocab = self.vocab(language) if language in NEW else None
            count = _BASE + _REPLAY if language in OLD else _TRAIN
            sentences = texts.sentences(language, count + _VAL)
            parts = {"train": sentences[:count], "val": sentences[count:]}
            if language in OLD:
                parts |= {"train": sentences[:_BASE], "replay": sentences[_BASE:count]}
            for part, lines in parts.items():
                make_corpus(lines, language, self.folder / "speech" / language / part)
                encode([self.manifest(language, part)], raw, self.codes, vocab=vocab)
        if not self.base.exists():
            self._train_base(raw)
        for language in OLD:
            lines = texts.sentences(language, _BASE + _REPLAY)[_BASE:]
            (self.folder / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
        voices = [self.folder / "speech" / "en" / "replay" / "wavs" / f"en_{number:05d}.wav" for number in range(8)]
        make_replay(
            self.base,
            {language: [self.folder / f"{language}.txt"] for language in OLD},
            voices,
            _REPLAY_HOURS,
            self.replay,
            conditioning_s=_SLICE_S,
        )

    def _train_base(self, raw: Path) -> None:
        """Train the base model with the recipe."""
        flags: list[str] = [f"--train-manifest={self.manifest(language, 'train')}" for language in OLD]
        flags += [f"--val-manifest={self.manifest(language, 'val')}" for language in OLD]
        flags += [f"--codes={self.codes}", "--language=en", "--eval-step=500", *SLICES]
        train_base(raw, self.base, flags, _BASE_STEPS)


def slices(shortest_s: float, longest_s: float) -> list[str]:
    """Return the recipe's flags for the shortest and longest conditioning in seconds."""
    return [
        f"--coqpit.model_args.{name}_conditioning_length={round(22050 * value)}"
        for name, value in (("min", shortest_s), ("max", longest_s))
    ]


SLICES = slices(*_SLICE_S)


def train_base(raw: Path, base: Path, flags: list[str], steps: int) -> None:
    """Train the untrained base model `raw` with the recipe, and write the result to `base` when it is complete."""
    schedule = json.dumps({"max_lr": _BASE_RATE, "total_steps": steps, "pct_start": 0.05})
    output = base.with_name("base-runs")
    run_recipe(
        output,
        [
            *flags, f"--base-dir={raw}", f"--max-steps={steps}", "--batch-size=8", "--grad-accum-steps=1",
            "--grad-clip=1", f"--learning-rate={_BASE_RATE}", "--amp=none", "--coqpit.lr_scheduler=OneCycleLR",
            f"--coqpit.lr_scheduler_params={schedule}",
        ],
    )  # fmt: skip
    copy_with(raw, newest_weights(output), base)


def newest_weights(output: Path) -> dict[str, Tensor]:
    """Return the weights of the newest checkpoint of the only run in a folder."""
    return xtts_weights(load_checkpoint(Path(inspect_checkpoint(only_run(output)).path))[0]["model"])


def copy_with(base: Path, weights: dict[str, Tensor], output: Path) -> None:
    """Copy a base directory and replace its weights; the copy appears when it is complete."""
    partial = output.with_name(f"{output.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(base, partial)
    with atomic_write(partial / "model.pth") as file:
        torch.save({"model": weights}, file)
    partial.rename(output)


def run_recipe(output: Path, flags: list[str]) -> None:
    """Run the recipe in this process unless `output` already has a checkpoint; it keeps the last one by default."""
    if not list(output.glob("*/checkpoint_*.pth")):
        shutil.rmtree(output, ignore_errors=True)
        main = runpy.run_path(str(find_recipe()))["main"]
        main([f"--output-dir={output}", "--keep-checkpoints=1", "--save-step=1000000", *flags])


def only_run(output: Path) -> Path:
    (run,) = (entry for entry in output.iterdir() if entry.is_dir() and entry.name[0] != ".")
    return run
