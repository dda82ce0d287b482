"""Runs that went wrong on purpose: what the doctor calls them, and whether it is better to repair or to start fresh.

    python benchmarks/rescue.py OUTPUT_FOLDER

Each opened learns Amharic from the mini base for 300 steps, damaged in one way. Printed: the verdict; mel loss of
Amharic and of English and Spanish (mean) before, right after the repair, and after 300 steps more at the usual rate;
beside it a fresh start of the same length. Then what drifted old rows cost by themselves, from which the doctor's
threshold comes.
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
def replaced(owner: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Damage one function for a while."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def with_hooks(model: ExtendedGPTTrainer, weights: Any, base_rows: int) -> None:
    """Freeze old rows as many recipes do: a hook that zeroes their gradient, under AdamW with weight decay."""
    load_base(model, weights, base_rows)

    def zero_old(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[:base_rows] = 0
        return gradient

    gpt = model.xtts.gpt
    for parameter in (gpt.text_embedding.weight, gpt.text_head.weight, gpt.text_head.bias):
        parameter.register_hook(zero_old)


def with_noise(model: ExtendedGPTTrainer, weights: Any, base_rows: int) -> None:
    """New rows as stock coqui starts them: standard normal in embedding and head, zero in the bias."""
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
    """A run whose moments lie one row beside their tokens, as after a vocabulary with a token less was made anew."""
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


def old(found: dict[str, float]) -> float:
    """Mean mel loss of the old languages."""
    return (found["en"] + found["es"]) / 2


def main() -> None:
    runs = MiniRuns(output_argument())
    loose = {"no_freeze_base_rows": True}
    everywhere = {"coqpit.optimizer_wd_only_on_weights": "false"}
    patients = {
        "frozen (healthy)": lambda: runs.start("frozen", STEPS),
        "all rows (healthy)": lambda: runs.start("all rows", STEPS, **loose),
        "hooks and weight decay": lambda: runs.start("hooks", STEPS, **loose, **everywhere),
        "40 times the rate": lambda: runs.start("rate", STEPS, learning_rate=40 * LEARNING_RATE, **loose),
        "rows of noise": lambda: runs.start("noise", STEPS, **loose),
    }
    damage = {"hooks and weight decay": with_hooks, "rows of noise": with_noise}
    options = {"40 times the rate": {"blend": 0.5}, "rows of noise": {"reinit_untrained": True}}
    fresh = losses(runs.start("frozen", STEPS))
    rows = [["opened", "verdict", "before", "repaired", "and 300 more", "unrepaired, 300 more", "fresh, 300"]]
    for name, make in patients.items():
        with replaced(ExtendedGPTTrainer, "load_base", damage.get(name, load_base)):
            run = make()
        file = newest(run)
        rows.append(row(runs, name, file, losses(run), fresh, options.get(name, {})))
    source = newest(runs.start("all rows", STEPS, **loose))
    shifted = moments_by_position(runs, source, runs.output / "shifted")
    rows.append(row(runs, "moments by position", shifted, losses(source.parent), fresh, {}))
    print("\nmel loss of Amharic / of the old languages · text loss of Amharic\n")
    print(table(rows))
    print("\nwhat drifted old rows cost by themselves\n")
    print(table(drift(runs)))


def row(
    runs: MiniRuns, name: str, file: Path, before: dict[str, float], fresh: dict[str, float], options: dict[str, Any]
) -> list[str]:
    """One opened's line of the table."""
    diagnosis = examine(file, runs.base)
    print(f"{name}: {diagnosis.describe()}", flush=True)
    cells = [name, diagnosis.verdict, shown(before)]
    if diagnosis.verdict == "healthy":
        further = losses(runs.go_on(f"{name} unrepaired", file, STEPS))
        return [*cells, "–", "–", shown(further), shown(fresh)]
    folder = runs.output / "repaired" / name
    if not folder.exists():
        print(repair(file, runs.base, folder, **options), flush=True)
    usual = ["--allow-changes", f"--learning-rate={LEARNING_RATE}"]
    after = runs.go_on(f"{name} repaired", newest(folder), STEPS, *usual)
    unrepaired = runs.go_on(f"{name} unrepaired", file, STEPS, *usual)
    return [*cells, shown(losses(after, first=True)), shown(losses(after)), shown(losses(unrepaired)), shown(fresh)]


def shown(found: dict[str, float]) -> str:
    return f"{found['am']:.3f} / {old(found):.3f} · {found['text am']:.2f}"


def drift(runs: MiniRuns) -> list[list[str]]:
    """Old-language losses of the base when its rows are moved in random directions, by a share of their norm."""
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
            line += evaluated(runs, content, file)
        lines.append(line)
    return lines


def evaluated(runs: MiniRuns, content: dict[str, Any], file: Path) -> list[str]:
    """Losses of weights as a base: the model that a run starts from, evaluated before its first step."""
    torch.save({"model": content["model"], "config": content["config"]}, file)
    (file.parent / "vocab.json").write_bytes(runs.vocab.read_bytes())
    run = runs.start(f"drift {file.parent.name}", 1, checkpoint=file, learning_rate=0, weight_decay=0)
    found = losses(run, first=True)
    return [f"{old(found):.4f}", f"{found['text en']:.3f}"]


if __name__ == "__main__":
    main()
