"""Shared code of the benchmarks on the mini model: the corpus, runs of the recipe in this process, and their losses."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch

from xtts_extend.checkpoint.inspect import newest_checkpoint
from xtts_extend.checkpoint.store import write_checkpoint
from xtts_extend.demo import texts
from xtts_extend.demo.mini_base import cached_mini_base
from xtts_extend.demo.run import LANGUAGE, speak_corpora
from xtts_extend.recipes import find_recipe
from xtts_extend.run.metrics import read_metrics
from xtts_extend.text.extend import extend_vocabulary

#: Learning rate of the demo, which suits the mini model.
LEARNING_RATE = 5e-4


class MiniRuns:
    """Runs that teach the mini base Amharic: `start` begins one, `continue_from` trains a checkpoint further.

    Args:
        output: Folder for all files; the speech and the runs in it are reused.
    """

    def __init__(self, output: Path) -> None:
        self.output = output.absolute()
        self.base = cached_mini_base()
        self.vocab = self.output / "vocab.json"
        self.manifests = {
            code: self.output / "speech" / code / ("val.csv" if code == LANGUAGE else "metadata.csv")
            for code in (LANGUAGE, *texts.BASE_LANGUAGES)
        }
        if not self.vocab.is_file():
            self.output.mkdir(parents=True, exist_ok=True)
            self.manifests = speak_corpora(self.output)
            extend_vocabulary(
                self.base / "vocab.json", LANGUAGE, self.vocab, texts=[self.output / f"{LANGUAGE}.txt"], size=300
            )
        self._recipe = runpy.run_path(str(find_recipe()))["main"]

    def start(self, name: str, steps: int, language: str = LANGUAGE, **flags: object) -> Path:
        """Train for `steps` steps from the base model and return the run folder."""
        values: dict[str, object] = {
            "base-dir": self.base,
            "vocab": self.vocab,
            "language": language,
            "train-manifest": self.manifests[language].with_name("train.csv"),
            "batch-size": 4,
            "amp": "none",
            "grad-accum-steps": 1,
            "learning-rate": LEARNING_RATE,
            "grad-clip": 1,
            "save-step": 100000,
            "coqpit.model_args.min_conditioning_length": 33075,
            "coqpit.model_args.max_conditioning_length": 66150,
            **{key if "." in key else key.replace("_", "-"): value for key, value in flags.items()},
        }
        arguments = [f"--{key}={value}" if value is not True else f"--{key}" for key, value in values.items()]
        validation_languages = (language, *texts.BASE_LANGUAGES)
        arguments += [f"--val-manifest={self.manifests[code]}:{code}" for code in validation_languages]
        return self._run(name, [*arguments, f"--max-steps={steps}"])

    def continue_from(self, name: str, checkpoint: Path, steps: int, *flags: str) -> Path:
        """Evaluate a checkpoint of ours, train it for `steps` more steps in a new run, and return the run folder."""
        content = torch.load(checkpoint, weights_only=True)
        content["xtts_extend"]["state"]["evaluation_due"] = True
        folder = self.output / "given" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(content, folder / checkpoint.name)
        vocab = checkpoint.parent / "vocab.json"
        (folder / "vocab.json").write_bytes(vocab.read_bytes())
        arguments = [f"--checkpoint={folder / checkpoint.name}", f"--max-steps={content['step'] + steps}", "--new-run"]
        return self._run(name, [*arguments, *flags])

    def _run(self, name: str, arguments: list[str]) -> Path:
        folder = self.output / "runs" / name
        if not list(folder.glob("*/checkpoint_*.pth")):
            print(f"== {name}", flush=True)
            self._recipe([*arguments, f"--output-dir={folder}", "--keep-checkpoints=1"])
        (run,) = (entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
        return run


def newest(run: Path) -> Path:
    """Return the path of a run's newest checkpoint."""
    return Path(newest_checkpoint(run).path)


def losses(run: Path, *, first: bool = False) -> dict[str, float]:
    """Return the losses of the last or the first evaluation: mel losses by language, text losses as "text LANG"."""
    _, evaluations = read_metrics(run)
    step = evaluations[0 if first else -1]["step"]
    mel = {line["language"]: line["loss_mel_ce"] for line in evaluations if line["step"] == step}
    # The text loss is logged multiplied by its weight.
    text = {f"text {line['language']}": line["loss_text_ce"] / 0.01 for line in evaluations if line["step"] == step}
    return {**mel, **text}


def table(rows: list[list[str]]) -> str:
    """Return rows of cells as a Markdown table whose head is the first row."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def output_argument() -> Path:
    """Return the only argument of a benchmark, its output folder."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT_FOLDER (about 10 GB; files that are already there are reused)")
    return Path(sys.argv[1])
