"""The next command for a checkpoint, with the settings that its run recorded.

It never uses the same weights at the same rate again, never a file that is missing, damaged or itself ill, and never a
base where a run is to be continued.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from xtts_extend.checkpoint.inspect import inspect_checkpoint, run_checkpoints
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.recipes import RECIPE
from xtts_extend.rescue.measure import not_finite, transformer_drift
from xtts_extend.rescue.opened_checkpoint import OpenedCheckpoint, open_checkpoint_with_base
from xtts_extend.run.config import NewLanguageConfig, read_json
from xtts_extend.run.curves import Curves, read_curves
from xtts_extend.setup.command_line import flags_of_run

#: The learning rate that is advised where the recorded one was too high or has done its work, as a share of it.
LOWER_RATE = 0.1
#: The median layer moved by 20 to 31 % of its norm in healthy runs of the mini model, by 370 % at 40 times the rate.
WRECKED_LAYERS = 1.0
#: The rates that are lowered together, and how a command gives them.
_RATES = {"lr": ("--learning-rate", "{:g}"), "new_row_learning_rate": ("--coqpit.new_row_learning_rate={:g}",)}
#: Words in a command that stand for what no file records.
_TO_FILL_IN = ("LANGUAGE", "MANIFEST", "VOCAB", "NEW", "TEXT", "THE_ONE_IT_HAD", "N")

_NOT_RECORDED = "the stock Trainer does not record the gradient accumulation: {}"


@dataclass
class NextStep:
    """A command, and what has to be known before it is pasted."""

    command: str
    notes: list[str] = field(default_factory=list)


def load_curves(opened: OpenedCheckpoint) -> Curves | None:
    """The losses beside a checkpoint, up to its step."""
    return read_curves(Path(opened.info.path), opened.info.step, opened.recorded.get("language", ""))


def diverged(opened: OpenedCheckpoint, curves: Curves | None, drift: Mapping[str, float]) -> str:
    """Why a run diverged, by its losses or by how far its layers moved; empty when it did not."""
    if curves and (reason := curves.diverged()):
        return reason
    layers = median(moved for part, moved in drift.items() if part.startswith("layer "))
    if layers <= WRECKED_LAYERS:
        return ""
    return (
        f"the layers of the transformer moved by {layers:.0%} of their norm, where healthy runs move them by 20 to "
        "30 %: the rate was too high, or training too long"
    )


def next_step_for_damage(checkpoint: Path, base: Path) -> NextStep:
    """The next command for a file that cannot be opened: the newest checkpoint beside it that is sound and healthy.

    Args:
        checkpoint: the damaged file, or a run folder in which all are damaged.
        base: as it was given.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for other in _other_checkpoints(checkpoint, base):
        if not _has_diverged(other):
            return _resume(other, base)
    try:
        recorded = read_json(folder / "config.json")
    except ConfigError:
        # it is missing, or half of it, as a kill leaves stock's: the command then says that defaults are used
        recorded = {}
    return _begin(recorded, base, folder)


def next_step(
    ill: str, opened: OpenedCheckpoint, base: Path, vocab: Path | None, *, misplaced: bool = False
) -> NextStep:
    """The next command for a verdict; words in capitals are to be filled in.

    Args:
        ill: a verdict, or one of its kinds: "moments" if only they do not fit; "edited" if a file does not hold what it
            records; "never-moved" and "dead" new rows, where a repair is no way out; "finished" if a healthy run has
            nothing left to do.
        opened: the checkpoint.
        base, vocab: as they were given.
        misplaced: its rows are those of other tokens than the known vocabulary says.
    """
    path = Path(opened.info.path)
    repair = ["xtts-extend", "repair", str(path), "--base", str(base), "--output", "REPAIRED"]
    if ill == "not-finite":
        return _resume_earlier_at_lower_rate(opened, base, lambda other: True, clip=True)
    if ill in ("diverged", "overfitted"):
        curves = load_curves(opened)
        best = curves.best_step() if curves else math.inf
        return _resume_earlier_at_lower_rate(opened, base, lambda other: (other.info.step or 0) <= best)
    if ill == "edited":
        earlier = next(_healthy_alternatives(opened, base), None)
        return _resume(earlier, base) if earlier else _start_new_run_from(opened, base)
    if ill == "wrong-vocabulary" and opened.info.kind == "base":
        way = _begin(opened.recorded, base, path.parent, path, opened, vocab or Path("NEW"))
        return NextStep(f"{way.command} --checkpoint-vocab THE_ONE_IT_HAD", way.notes)
    if ill == "wrong-vocabulary":
        flags = ["--vocab", str(vocab or "NEW"), "--on-vocab-change", "migrate"]
        flags += [] if opened.known and not misplaced else ["--checkpoint-vocab", "THE_ONE_IT_HAD"]
        return _resume(opened, base, *flags)
    if ill == "moments":
        return _start_new_run_from(opened, base, path)
    if ill == "old-rows-drifted":
        return NextStep(shlex.join(repair))
    if ill == "new-rows-untrained":
        return NextStep(shlex.join([*repair, "--reinit-untrained"]))
    if ill == "never-moved":
        note = "no training text has a new token: give manifests in the language to learn"
        way = _resume(opened, base, "--train-manifest", "MANIFEST", "--new-run", "--allow-changes")
        return NextStep(way.command, [note, *way.notes])
    if ill == "dead":
        language = opened.recorded.get("language") or "LANGUAGE"
        command = ["xtts-extend", "extend-vocab", "--base-vocab", str(opened.base_file.parent / "vocab.json")]
        command += ["--language", language, "--text", "TEXT", "--output", "NEW"]
        note = "then start a new run with NEW: tokens without merges never occur in a text"
        return NextStep(shlex.join(command), [note, *_placeholder(command)])
    if ill == "finished":
        return NextStep(shlex.join(["xtts-extend", "export", "--checkpoint", str(path), "--output", "MODEL"]))
    if opened.info.kind == "base":
        return _start_new_run_from(opened, base, None if path.samefile(opened.base_file) else path)
    return _resume(opened, base)


def _resume_earlier_at_lower_rate(
    opened: OpenedCheckpoint, base: Path, fits: Callable[[OpenedCheckpoint], bool], *, clip: bool = False
) -> NextStep:
    """Continue a healthy checkpoint of other weights at a lower rate, or start a new run where there is none."""
    recorded = {"lr": NewLanguageConfig.lr, **opened.recorded}
    changed: dict[str, float] = {"grad_clip": 1.0} if clip else {}
    flags = ["--grad-clip", "1"] if clip else []
    for key, flag in _RATES.items():
        if recorded.get(key):
            changed[key] = float(f"{recorded[key] * LOWER_RATE:.6g}")
            flags += [part.format(changed[key]) for part in flag]
    if earlier := next(filter(fits, _healthy_alternatives(opened, base)), None):
        return _resume(earlier, base, *flags, "--new-run", "--allow-changes")
    return _begin({**opened.recorded, **changed}, base, Path(opened.info.path).parent, opened=opened)


def _healthy_alternatives(opened: OpenedCheckpoint, base: Path) -> Iterator[OpenedCheckpoint]:
    """Checkpoints beside a run's that are not after it, have other weights, and did not diverge; newest first."""
    for other in _other_checkpoints(Path(opened.info.path), base, opened.info.step):
        same = all(torch.equal(tensor, other.weights[key]) for key, tensor in opened.weights.items())
        if not same and not _has_diverged(other):
            yield other


def _other_checkpoints(path: Path, base: Path, last: int | None = None) -> Iterator[OpenedCheckpoint]:
    """The sound and finite training checkpoints beside a file, up to a step, newest first; not that very file."""
    folder = path if path.is_dir() else path.parent
    found = []
    for file in run_checkpoints(folder):
        try:
            info = inspect_checkpoint(file)
        except CheckpointError:
            continue
        step = info.step or 0
        if info.kind == "training" and not file.samefile(path) and (last is None or step <= last):
            found.append((step, file.name, file))
    for _, _, file in sorted(found, reverse=True):
        try:
            other = open_checkpoint_with_base(file, base, None)
        except CheckpointError:
            continue
        if not not_finite(other):
            yield other


def _has_diverged(opened: OpenedCheckpoint) -> bool:
    return bool(diverged(opened, load_curves(opened), transformer_drift(opened)))


def _resume(opened: OpenedCheckpoint, base: Path, *flags: str) -> NextStep:
    """Continue a checkpoint: it brings its settings along, but for what the stock Trainer does not record."""
    recorded = opened.recorded
    command = [*_launcher(opened), RECIPE, "--checkpoint", str(opened.info.path)]
    if not Path(recorded.get("base_dir") or "nowhere").is_dir():
        command += ["--base-dir", str(_folder(base))]
    command += [] if recorded.get("language") else ["--language", "LANGUAGE"]
    if not recorded.get("train_manifests") and "--train-manifest" not in flags:
        command += ["--train-manifest", "MANIFEST"]
    notes = []
    if "grad_accum_steps" not in recorded:
        accumulated, counted = opened.training.accumulation
        command += ["--grad-accum-steps", str(accumulated or "N")]
        notes.append(_NOT_RECORDED.format(counted))
    command += flags
    return NextStep(shlex.join(command), [*notes, *_placeholder(command)])


def _start_new_run_from(opened: OpenedCheckpoint, base: Path, weights: Path | None = None) -> NextStep:
    return _begin(opened.recorded, base, Path(opened.info.path).parent, weights, opened)


def _begin(
    recorded: Mapping[str, Any],
    base: Path,
    run: Path,
    weights: Path | None = None,
    opened: OpenedCheckpoint | None = None,
    vocabulary: Path | None = None,
) -> NextStep:
    """Start a new run with recorded settings, from the base or from the weights of a file.

    Args:
        recorded: its configuration; empty where none is known.
        base: as it was given.
        run: the folder of the run.
        weights: the file, if it is not the base's.
        opened: the checkpoint, where it can be opened.
        vocabulary: of the new run, if it is not that of the old one.
    """
    command = [*_launcher(opened), RECIPE]
    if weights is not None:
        command += ["--checkpoint", str(weights)]
        command += ["--start-fresh"] if opened and opened.info.kind == "training" else []
    own = run / "vocab.json"
    if vocabulary is None:
        vocabulary = own if own.is_file() else Path((recorded.get("model_args") or {}).get("tokenizer_file") or "VOCAB")
    command += ["--base-dir", str(_folder(base)), "--vocab", str(vocabulary)]
    command += [] if recorded.get("language") else ["--language", "LANGUAGE"]
    command += [] if recorded.get("train_manifests") else ["--train-manifest", "MANIFEST"]
    if recorded and not (opened and opened.record) and "base_dir" not in recorded:
        # what stock records there is not where it wrote
        recorded = {**recorded, "output_path": str(run.parent.absolute())}
    flags, left_out = flags_of_run(recorded, _folder(base))
    notes: list[str] = []
    if not recorded.get("batch_size"):
        notes.append(
            "the settings of its run are not recorded: the defaults of the recipe take their place (batch size "
            f"{NewLanguageConfig.batch_size}, learning rate {NewLanguageConfig.lr:g}, and so on)"
        )
    elif "grad_accum_steps" not in recorded:
        accumulated, counted = opened.training.accumulation if opened else (None, "there is no sound file")
        command += ["--grad-accum-steps", str(accumulated or "N")]
        notes.append(_NOT_RECORDED.format(counted))
    if left_out:
        notes.append(
            f"these recorded settings cannot be given on the command line: {', '.join(left_out)}; defaults are used"
        )
    files = [vocabulary, *(recorded.get("train_manifests") or []), *(recorded.get("val_manifests") or [])]
    files = [str(file) for file in [*files, *(recorded.get("replay") or [])] if str(file) not in _TO_FILL_IN]
    if gone := [file for file in files if not _exists(file)]:
        notes.append(f"no longer found: {', '.join(gone)}")
    return NextStep(shlex.join([*command, *flags]), [*notes, *_placeholder(command)])


def _launcher(opened: OpenedCheckpoint | None) -> list[str]:
    """What starts as many processes as trained together."""
    processes = opened.training.processes if opened else 1
    return ["torchrun", "--nproc_per_node", str(processes)] if processes > 1 else ["python"]


def _exists(spec: str) -> bool:
    """Whether there is what a path or a manifest's PATH:LANG names."""
    return Path(spec).exists() or Path(spec.rpartition(":")[0] or spec).exists()


def _placeholder(command: list[str]) -> list[str]:
    words = [word for word in _TO_FILL_IN if word in command]
    return [f"fill in (not recorded in any file): {', '.join(words)}"] if words else []


def _folder(base: Path) -> Path:
    """The base directory of what was given as a base: the folder itself, or its `model.pth`."""
    return base if base.is_dir() else base.parent
