"""What the tests of runs share: flags, run folders, and equality of checkpoints at tolerance zero."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.training.config import NewLanguageConfig, take_recorded

#: Optimizer steps of a run with `Corpus.flags`: two epochs of six.
STEPS = 12
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "new_language" / "train_gpt_xtts.py"


@dataclass(frozen=True)
class Corpus:
    """Paths of everything that a run of the recipe needs, and the flags for a short one."""

    base: Path
    vocab: Path
    train: Path
    val: Path
    english: Path

    def flags(self, **flags: object) -> list[str]:
        """Flags for a run over 12 utterances in batches of two, six steps an epoch."""
        given: dict[str, object] = {
            "base_dir": self.base,
            "vocab": self.vocab,
            "language": "am",
            "train_manifest": self.train,
            "val_manifest": self.val,
            "batch_size": 2,
            "grad_accum_steps": 1,
            "learning_rate": 1e-3,
            "epochs": 2,
            "save_step": 1000,
            **flags,
        }
        return [part for key, value in given.items() if value is not None for part in as_flag(key, value)]


def as_flag(key: str, value: object) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def only_run(folder: Path) -> Path:
    """The one run folder in an output folder."""
    (run,) = (entry for entry in folder.iterdir() if entry.is_dir())
    return run


def checkpoint(run: Path, step: int) -> dict:
    return torch.load(run / f"checkpoint_{step}.pth", weights_only=True)


def require_equal(ours: object, theirs: object, path: str = "") -> None:
    """Equality of nested states, tensors at tolerance zero; the first difference is named."""
    assert type(ours) is type(theirs), path
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), path
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            require_equal(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), path
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            require_equal(one, other, f"{path}/{index}")
    else:
        assert ours == theirs, path


def require_same_run(one: Path, other: Path, step: int) -> None:
    """Final checkpoints equal in everything that decides what comes next, and metrics equal as text."""
    a, b = checkpoint(one, step), checkpoint(other, step)
    for key in ("model", "optimizer", "scheduler", "scaler", "step", "epoch", "model_loss"):
        require_equal(a[key], b[key], key)
    require_equal(a["xtts_extend"]["state"], b["xtts_extend"]["state"], "state")
    texts = [(run / "metrics.jsonl").read_text(encoding="utf-8") for run in (one, other)]
    assert texts[0] == texts[1]
    steps = [line["step"] for line in map(json.loads, texts[0].splitlines()) if not line.get("eval")]
    assert steps == list(range(1, step + 1))


def model_and_config(run: Path) -> tuple[ExtendedGPTTrainer, NewLanguageConfig]:
    """A model as the recipe builds it for a resume, and the configuration that the run recorded."""
    config = NewLanguageConfig()
    take_recorded(config, checkpoint(run, 8)["config"])
    return ExtendedGPTTrainer(config), config
