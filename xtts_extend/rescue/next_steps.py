"""Suggest the command to run next for a checkpoint, with the settings that its run recorded.

The command never repeats a failure by training the same weights at the same learning rate, never uses a checkpoint
that is missing or damaged or has itself diverged, and never resumes from a base model.
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
from xtts_extend.data.source_spec import is_remote
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.recipes import RECIPE
from xtts_extend.rescue.measure import not_finite, transformer_drift
from xtts_extend.rescue.opened_checkpoint import OpenedCheckpoint, open_checkpoint_with_base
from xtts_extend.run.config import NewLanguageConfig, read_json
from xtts_extend.run.curves import Curves, read_curves
from xtts_extend.setup.command_line import flags_of_run

#: The suggested command multiplies a learning rate that was too high, or that no longer helps, by this factor.
LOWER_RATE = 0.1
#: Median displacement of the layers, as a fraction of their norm, above which a run counts as diverged. It is 20 to 31%
#: in healthy runs of the mini model and 370% at 40 times the usual learning rate.
WRECKED_LAYERS = 1.0
#: Configuration keys of the learning rates that are lowered together → their flags.
_RATES = {"lr": ("--learning-rate", "{:g}"), "new_row_learning_rate": ("--coqpit.new_row_learning_rate={:g}",)}
#: Placeholders in a command for values that are not recorded in any file.
_PLACEHOLDERS = ("LANGUAGE", "MANIFEST", "VOCAB", "NEW", "TEXT", "OLD_VOCAB", "N")

_ACCUMULATION_UNKNOWN = "The stock Trainer does not record the number of gradient accumulation steps ({})."


@dataclass
class NextStep:
    """A suggested command, and notes to read before running it."""

    command: str
    notes: list[str] = field(default_factory=list)


def as_sentence(text: str) -> str:
    """Return a clause as a sentence, with a capital letter and a period."""
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def load_curves(opened: OpenedCheckpoint) -> Curves | None:
    """Return the losses recorded in a checkpoint's folder up to the checkpoint's step, or None if there are none."""
    return read_curves(Path(opened.info.path), opened.info.step, opened.recorded.get("language", ""))


def diverged(opened: OpenedCheckpoint, curves: Curves | None, drift: Mapping[str, float]) -> str:
    """Return why a run is considered to have diverged, or an empty string if it has not diverged.

    Args:
        opened: The checkpoint.
        curves: The recorded losses; None if there are none.
        drift: Part of the model → how far it moved, as a fraction of its norm; see `transformer_drift`.
    """
    if curves and (reason := curves.diverged()):
        return reason
    layers = median(moved for part, moved in drift.items() if part.startswith("layer "))
    if layers <= WRECKED_LAYERS:
        return ""
    return (
        f"The transformer layers moved by {layers:.0%} of their norm; in healthy runs, they move by 20 to 30%. The "
        "learning rate was too high, or the run trained for too long."
    )


def next_step_for_damage(checkpoint: Path, base: Path) -> NextStep:
    """Return the command to run next if a checkpoint cannot be opened.

    The command resumes from the newest intact checkpoint in the same folder that has not diverged. If there is none, it
    starts a new run.

    Args:
        checkpoint: The damaged file, or a run folder in which all checkpoints are damaged.
        base: The base directory or file that the user passed.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for other in _other_checkpoints(checkpoint, base):
        if not _has_diverged(other):
            return _resume(other, base)
    try:
        recorded = read_json(folder / "config.json")
    except ConfigError:
        # The file is missing, or it is truncated because stock coqui-tts was killed while writing it.
        recorded = {}
    return _begin(recorded, base, folder)


def next_step(
    condition: str, opened: OpenedCheckpoint, base: Path, vocab: Path | None, *, misplaced: bool = False
) -> NextStep:
    """Return the command to run next for a verdict, with placeholders in capitals.

    Args:
        condition: A verdict, or a special case of one: "moments" if only the optimizer's moments do not match the
            weights; "edited" if the file's rows contradict its recorded vocabulary; "never-moved" or "dead" if a repair
            cannot help the new rows; "finished" if a healthy run has nothing left to do.
        opened: The checkpoint.
        base: The base directory or file that the user passed.
        vocab: The vocabulary that the user passed.
        misplaced: Whether the checkpoint's rows belong to different tokens than its vocabulary says.
    """
    path = Path(opened.info.path)
    repair = ["xtts-extend", "repair", str(path), "--base", str(base), "--output", "REPAIRED"]
    if condition == "not-finite":
        return _resume_earlier_at_lower_rate(opened, base, lambda other: True, clip=True)
    if condition in ("diverged", "overfitted"):
        curves = load_curves(opened)
        best = curves.best_step() if curves else math.inf
        return _resume_earlier_at_lower_rate(opened, base, lambda other: (other.info.step or 0) <= best)
    if condition == "edited":
        earlier = next(_healthy_alternatives(opened, base), None)
        return _resume(earlier, base) if earlier else _start_new_run_from(opened, base)
    if condition == "wrong-vocabulary" and opened.info.kind == "base":
        new_run = _begin(opened.recorded, base, path.parent, path, opened, vocab or Path("NEW"))
        return NextStep(f"{new_run.command} --checkpoint-vocab OLD_VOCAB", new_run.notes)
    if condition == "wrong-vocabulary":
        flags = ["--vocab", str(vocab or "NEW"), "--on-vocab-change", "migrate"]
        flags += [] if opened.known and not misplaced else ["--checkpoint-vocab", "OLD_VOCAB"]
        return _resume(opened, base, *flags)
    if condition == "moments":
        return _start_new_run_from(opened, base, path)
    if condition == "old-rows-drifted":
        return NextStep(shlex.join(repair))
    if condition == "new-rows-untrained":
        return NextStep(shlex.join([*repair, "--reinit-untrained"]))
    if condition == "never-moved":
        reason = "None of the training texts contains a new token. Pass manifests for the language to learn."
        resumed = _resume(opened, base, "--train-manifest", "MANIFEST", "--new-run", "--allow-changes")
        return NextStep(resumed.command, [reason, *resumed.notes])
    if condition == "dead":
        language = opened.recorded.get("language") or "LANGUAGE"
        command = ["xtts-extend", "extend-vocab", "--base-vocab", str(opened.base_file.parent / "vocab.json")]
        command += ["--language", language, "--text", "TEXT", "--output", "NEW"]
        reason = "After that, start a new run with NEW, because the tokenizer never produces tokens without merges."
        return NextStep(shlex.join(command), [reason, *_placeholder_notes(command)])
    if condition == "finished":
        return NextStep(shlex.join(["xtts-extend", "export", "--checkpoint", str(path), "--output", "MODEL"]))
    if opened.info.kind == "base":
        return _start_new_run_from(opened, base, None if path.samefile(opened.base_file) else path)
    return _resume(opened, base)


def _resume_earlier_at_lower_rate(
    opened: OpenedCheckpoint, base: Path, accepts: Callable[[OpenedCheckpoint], bool], *, clip: bool = False
) -> NextStep:
    """Return a command that resumes from an earlier healthy checkpoint or starts a new run, at a lower learning rate.

    Args:
        opened: The checkpoint that the run must not resume from.
        base: The base directory or file that the user passed.
        accepts: Function that returns whether the run may resume from a given healthy checkpoint.
        clip: Whether to turn on gradient clipping.
    """
    recorded = {"lr": NewLanguageConfig.lr, **opened.recorded}
    changed: dict[str, float] = {"grad_clip": 1.0} if clip else {}
    flags = ["--grad-clip", "1"] if clip else []
    for key, flag in _RATES.items():
        if recorded.get(key):
            changed[key] = float(f"{recorded[key] * LOWER_RATE:.6g}")
            flags += [part.format(changed[key]) for part in flag]
    if earlier := next(filter(accepts, _healthy_alternatives(opened, base)), None):
        return _resume(earlier, base, *flags, "--new-run", "--allow-changes")
    return _begin({**opened.recorded, **changed}, base, Path(opened.info.path).parent, opened=opened)


def _healthy_alternatives(opened: OpenedCheckpoint, base: Path) -> Iterator[OpenedCheckpoint]:
    """Yield the run's checkpoints up to this step that have different weights and did not diverge, newest first."""
    for other in _other_checkpoints(Path(opened.info.path), base, opened.info.step):
        same = all(torch.equal(tensor, other.weights[key]) for key, tensor in opened.weights.items())
        if not same and not _has_diverged(other):
            yield other


def _other_checkpoints(path: Path, base: Path, last: int | None = None) -> Iterator[OpenedCheckpoint]:
    """Yield the other intact training checkpoints in a file's folder that contain only finite values, newest first.

    Args:
        path: The file, or a run folder.
        base: The base directory or file that the user passed.
        last: The latest step to include; None to include all.
    """
    folder = path if path.is_dir() else path.parent
    candidates = []
    for file in run_checkpoints(folder):
        try:
            info = inspect_checkpoint(file)
        except CheckpointError:
            continue
        step = info.step or 0
        if info.kind == "training" and not file.samefile(path) and (last is None or step <= last):
            candidates.append((step, file.name, file))
    for _, _, file in sorted(candidates, reverse=True):
        try:
            other = open_checkpoint_with_base(file, base, None)
        except CheckpointError:
            continue
        if not not_finite(other):
            yield other


def _has_diverged(opened: OpenedCheckpoint) -> bool:
    return bool(diverged(opened, load_curves(opened), transformer_drift(opened)))


def _resume(opened: OpenedCheckpoint, base: Path, *flags: str) -> NextStep:
    """Return a command that resumes from a checkpoint, with flags for settings that the checkpoint does not record."""
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
        notes.append(_ACCUMULATION_UNKNOWN.format(counted))
    command += flags
    return NextStep(shlex.join(command), [*notes, *_placeholder_notes(command)])


def _start_new_run_from(opened: OpenedCheckpoint, base: Path, weights: Path | None = None) -> NextStep:
    """Return a command that starts a new run from `weights` or from the base, with a checkpoint's settings."""
    return _begin(opened.recorded, base, Path(opened.info.path).parent, weights, opened)


def _begin(
    recorded: Mapping[str, Any],
    base: Path,
    run: Path,
    weights: Path | None = None,
    opened: OpenedCheckpoint | None = None,
    vocabulary: Path | None = None,
) -> NextStep:
    """Return a command that starts a new run from the base or from the weights in a file, with recorded settings.

    Args:
        recorded: Configuration of the old run; empty if unknown.
        base: The base directory or file that the user passed.
        run: Folder of the old run.
        weights: File to start from, if it is not the base.
        opened: The checkpoint, if it can be opened.
        vocabulary: Vocabulary for the new run, if it differs from the old run's.
    """
    command = [*_launcher(opened), RECIPE]
    if weights is not None:
        command += ["--checkpoint", str(weights)]
        command += ["--start-fresh"] if opened and opened.info.kind == "training" else []
    copied = run / "vocab.json"
    if vocabulary is None:
        named = (recorded.get("model_args") or {}).get("tokenizer_file") or "VOCAB"
        vocabulary = copied if copied.is_file() else Path(named)
    command += ["--base-dir", str(_folder(base)), "--vocab", str(vocabulary)]
    command += [] if recorded.get("language") else ["--language", "LANGUAGE"]
    command += [] if recorded.get("train_manifests") else ["--train-manifest", "MANIFEST"]
    if recorded and not (opened and opened.record) and "base_dir" not in recorded:
        # The path that stock coqui-tts records is not the one it wrote to.
        recorded = {**recorded, "output_path": str(run.parent.absolute())}
    flags, left_out = flags_of_run(recorded, _folder(base))
    notes: list[str] = []
    if not recorded.get("batch_size"):
        notes.append(
            "The run's settings are not recorded, so the command uses the recipe's defaults (batch size "
            f"{NewLanguageConfig.batch_size}, learning rate {NewLanguageConfig.lr:g}, and so on)."
        )
    elif "grad_accum_steps" not in recorded:
        accumulated, counted = opened.training.accumulation if opened else (None, "no checkpoint is intact")
        command += ["--grad-accum-steps", str(accumulated or "N")]
        notes.append(_ACCUMULATION_UNKNOWN.format(counted))
    if left_out:
        notes.append(f"These recorded settings cannot be passed as flags, so defaults are used: {', '.join(left_out)}.")
    files = [vocabulary, *(recorded.get("train_manifests") or []), *(recorded.get("val_manifests") or [])]
    files = [str(file) for file in [*files, *(recorded.get("replay") or [])] if str(file) not in _PLACEHOLDERS]
    if missing := [file for file in files if not _exists(file)]:
        notes.append(f"These recorded files no longer exist: {', '.join(missing)}.")
    return NextStep(shlex.join([*command, *flags]), [*notes, *_placeholder_notes(command)])


def _launcher(opened: OpenedCheckpoint | None) -> list[str]:
    """Return the command that launches as many processes as the run had."""
    processes = opened.training.processes if opened else 1
    return ["torchrun", "--nproc_per_node", str(processes)] if processes > 1 else ["python"]


def _exists(spec: str) -> bool:
    """Return whether the file named by PATH or PATH:LANG exists, or may exist because it is not on this machine."""
    return is_remote(spec) or Path(spec).exists() or Path(spec.rpartition(":")[0] or spec).exists()


def _placeholder_notes(command: list[str]) -> list[str]:
    """Return a note that lists the placeholders in a command, if there are any."""
    words = [word for word in _PLACEHOLDERS if word in command]
    return [f"Fill in these values, which are not recorded in any file: {', '.join(words)}."] if words else []


def _folder(base: Path) -> Path:
    """Return the base directory, given that directory or its `model.pth`."""
    return base if base.is_dir() else base.parent
