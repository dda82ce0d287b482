"""Damage runs in known ways, and compare the doctor's verdicts, repairing the runs, and starting over.

    python benchmarks/rescue.py OUTPUT_FOLDER

Each run teaches the mini base Amharic for 300 steps and is damaged in one way. Prints the verdict, and the mel losses
of Amharic and of the old languages (the mean of English and Spanish) before and right after the repair and after 300
more steps at the usual learning rate, compared with a new run of the same length. Then prints how much drifted old rows
cost on their own, from which the doctor's threshold is derived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mini_runs import LEARNING_RATE, MiniRuns, losses, newest, output_argument, table

from xtts_extend.checkpoint.store import write_checkpoint
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.rescue.doctor import examine
from xtts_extend.rescue.opened_checkpoint import moments_by_name, open_checkpoint_with_base
from xtts_extend.rescue.repair import repair
from xtts_extend.text.vocabulary import load_vocabulary

STEPS = 300
PREFIX = "xtts.gpt."


@contextmanager
def patched(owner: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Replace an attribute within the context."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def with_hooks(model: ExtendedGPTTrainer, weights: Any, base_rows: int) -> None:
    """Load the base model and freeze its old rows as many recipes do, with a hook that zeroes their gradients."""
    load_base(model, weights, base_rows)

    def zero_old(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[:base_rows] = 0
        return gradient

    gpt = model.xtts.gpt
    for parameter in (gpt.text_embedding.weight, gpt.text_head.weight, gpt.text_head.bias):
        parameter.register_hook(zero_old)


def with_noise(model: ExtendedGPTTrainer, weights: Any, base_rows: int) -> None:
    """Load the base model with coqui's initial new rows: standard normal in embedding and head, zero in the bias."""
    generator = torch.Generator().manual_seed(0)
    noisy = dict(weights)
    for name in TOKEN_TENSORS:
        rows = noisy[f"gpt.{name}"].clone()
        noise = torch.randn(rows[base_rows:].shape, generator=generator)
        rows[base_rows:] = noise if name.endswith("weight") else 0
        noisy[f"gpt.{name}"] = rows
    load_base(model, noisy, base_rows)


load_base = ExtendedGPTTrainer.load_base


def moments_by_position(runs: MiniRuns, source: Path, folder: Path) -> Path:
    """Write a checkpoint whose moments are shifted by one row, as after a token was removed from the vocabulary."""
    opened = open_checkpoint_with_base(source, runs.base, None)
    moments = moments_by_name(opened)
    assert moments is not None
    for name in TOKEN_TENSORS:
        for key in ("exp_avg", "exp_avg_sq"):
            moments[name][key] = moments[name][key].roll(1, dims=0)
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(opened.content, folder / source.name)
    (folder / "vocab.json").write_bytes((source.parent / "vocab.json").read_bytes())
    return folder / source.name


def old_loss(losses_by_name: dict[str, float]) -> float:
    """Return the mean mel loss of the old languages."""
    return (losses_by_name["en"] + losses_by_name["es"]) / 2


def main() -> None:
    runs = MiniRuns(output_argument())
    all_rows = {"no_freeze_base_rows": True}
    decay_everywhere = {"coqpit.optimizer_wd_only_on_weights": "false"}
    starts = {
        "frozen (healthy)": lambda: runs.start("frozen", STEPS),
        "all rows (healthy)": lambda: runs.start("all rows", STEPS, **all_rows),
        "hooks and weight decay": lambda: runs.start("hooks", STEPS, **all_rows, **decay_everywhere),
        "40 times the rate": lambda: runs.start("rate", STEPS, learning_rate=40 * LEARNING_RATE, **all_rows),
        "rows of noise": lambda: runs.start("noise", STEPS, **all_rows),
    }
    damage = {"hooks and weight decay": with_hooks, "rows of noise": with_noise}
    options = {"40 times the rate": {"blend": 0.5}, "rows of noise": {"reinit_untrained": True}}
    fresh = losses(runs.start("frozen", STEPS))
    rows = [["run", "verdict", "before", "repaired", "and 300 more", "unrepaired, 300 more", "new run, 300"]]
    for name, start in starts.items():
        with patched(ExtendedGPTTrainer, "load_base", damage.get(name, load_base)):
            run = start()
        file = newest(run)
        rows.append(row(runs, name, file, losses(run), fresh, options.get(name, {})))
    source = newest(runs.start("all rows", STEPS, **all_rows))
    shifted = moments_by_position(runs, source, runs.output / "shifted")
    rows.append(row(runs, "moments by position", shifted, losses(source.parent), fresh, {}))
    print("\nMel loss of Amharic / of the old languages · text loss of Amharic:\n")
    print(table(rows))
    print("\nLosses after moving the old rows:\n")
    print(table(drift(runs)))


def row(
    runs: MiniRuns, name: str, file: Path, before: dict[str, float], fresh: dict[str, float], options: dict[str, Any]
) -> list[str]:
    """Return the table row of a run."""
    diagnosis = examine(file, runs.base)
    print(f"{name}: {diagnosis.describe()}", flush=True)
    cells = [name, diagnosis.verdict, format_losses(before)]
    if diagnosis.verdict == "healthy":
        further = losses(runs.continue_from(f"{name} unrepaired", file, STEPS))
        return [*cells, "–", "–", format_losses(further), format_losses(fresh)]
    folder = runs.output / "repaired" / name
    if not folder.exists():
        print(repair(file, runs.base, folder, **options), flush=True)
    usual = ["--allow-changes", f"--learning-rate={LEARNING_RATE}"]
    after = runs.continue_from(f"{name} repaired", newest(folder), STEPS, *usual)
    unrepaired = runs.continue_from(f"{name} unrepaired", file, STEPS, *usual)
    results = [losses(after, first=True), losses(after), losses(unrepaired), fresh]
    return [*cells, *map(format_losses, results)]


def format_losses(losses_by_name: dict[str, float]) -> str:
    return f"{losses_by_name['am']:.3f} / {old_loss(losses_by_name):.3f} · {losses_by_name['text am']:.2f}"


def drift(runs: MiniRuns) -> list[list[str]]:
    """Return the base model's losses in old languages after its rows were moved randomly, by a share of their norm."""
    source = newest(runs.start("nothing", 1, learning_rate=0, weight_decay=0))
    rows = load_vocabulary(runs.base / "vocab.json").size
    lines = [["moved by", "embedding: mel loss of the old languages", "text loss of English", "head: mel", "text"]]
    for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        line = [f"{share:.0%}"]
        for name in TOKEN_TENSORS[:2]:
            content = torch.load(source, weights_only=True)
            tensor = content["model"][PREFIX + name]
            noise = torch.randn(rows, tensor.shape[1], generator=torch.Generator().manual_seed(0))
            lengths = share * tensor[:rows].norm(dim=1, keepdim=True)
            tensor[:rows] += lengths * noise / noise.norm(dim=1, keepdim=True)
            file = runs.output / "drift" / f"{name} {share}" / source.name
            file.parent.mkdir(parents=True, exist_ok=True)
            line += evaluate_weights(runs, content, file)
        lines.append(line)
    return lines


def evaluate_weights(runs: MiniRuns, content: dict[str, Any], file: Path) -> list[str]:
    """Return the mel and text losses of weights: those of a run that starts from them, before its first step."""
    torch.save({"model": content["model"], "config": content["config"]}, file)
    (file.parent / "vocab.json").write_bytes(runs.vocab.read_bytes())
    run = runs.start(f"drift {file.parent.name}", 1, checkpoint=file, learning_rate=0, weight_decay=0)
    results = losses(run, first=True)
    return [f"{old_loss(results):.4f}", f"{results['text en']:.3f}"]


if __name__ == "__main__":
    main()
