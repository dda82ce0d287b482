"""Measure the next 300 steps of a run after a change of vocabulary, if rows and moments follow their tokens or not.

    python benchmarks/vocabulary_change.py OUTPUT_FOLDER

A run that trains all rows, so that every row has moments, continues after a token was added before the other new ones,
after one was removed, and after all new ones were permuted: (a) migrated, (b) with migrated weights and a new
optimizer, (c) with migrated weights and moments at their old positions, (d) with both at their old positions, which
happens if only sizes are compared. All runs see the same samples in the same order, as does a run without a change.
Prints a table and writes OUTPUT_FOLDER/vocabulary_change.png.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean

import matplotlib
import torch
from mini_runs import MiniRuns, losses, newest, output_argument, table

from xtts_extend.checkpoint.store import write_checkpoint
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.migration import Migration
from xtts_extend.rescue.opened_checkpoint import moments_by_name, open_checkpoint_with_base
from xtts_extend.run.metrics import read_metrics
from xtts_extend.text.vocabulary import load_vocabulary

matplotlib.use("Agg")
from matplotlib import pyplot

STEPS = 300
VARIANTS = {
    "a": "migrated",
    "b": "new optimizer",
    "c": "moments by position",
    "d": "rows and moments by position",
}


def write_changed_vocabulary(vocab: Path, base_rows: int, change: str, output: Path) -> Path:
    """Write a copy of a vocabulary in which new tokens have moved: one is added or removed, or all are permuted."""
    data = json.loads(vocab.read_text(encoding="utf-8"))
    tokens = data["model"]["vocab"]
    new = sorted((token for token, row in tokens.items() if row >= base_rows), key=tokens.__getitem__)
    if change == "one added":
        new.insert(0, "፨")
    elif change == "one removed":
        # The token must not be part of another merge; its text then becomes the two parts of its own merge.
        parts = {part for merge in data["model"]["merges"] for part in merge.split(" ")}
        removed = next(token for token in new if len(token) > 1 and token[0] != "[" and token not in parts)
        new.remove(removed)
        del tokens[removed]
        data["model"]["merges"] = [m for m in data["model"]["merges"] if m.replace(" ", "") != removed]
    else:
        random.Random(0).shuffle(new)
    tokens.update({token: base_rows + number for number, token in enumerate(new)})
    for token in data["added_tokens"]:
        token["id"] = tokens[token["content"]]
    output.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return output


def write_variant(runs: MiniRuns, source: Path, vocab: Path, variant: str, folder: Path) -> Path:
    """Write a checkpoint for another vocabulary as variant b, c or d, and return its path."""
    opened = open_checkpoint_with_base(source, runs.base, None)
    moments, new_vocabulary = moments_by_name(opened), load_vocabulary(vocab)
    assert moments is not None
    assert opened.tokens is not None
    rows = opened.info.vocab_size
    migration = Migration.between(
        opened.tokens, new_vocabulary.tokens, rows, frozenset(), init="mean", spellings={}, seed=1
    )
    content = opened.content

    def in_place(table: torch.Tensor) -> torch.Tensor:
        size = new_vocabulary.size
        return torch.cat([table, table.new_zeros(max(0, size - rows), *table.shape[1:])])[:size].clone()

    if variant == "d":
        names = [opened.prefix + name for name in TOKEN_TENSORS]
        content["model"] = {**content["model"], **{name: in_place(content["model"][name]) for name in names}}
    else:
        content["model"] = migration.weights(content["model"], opened.prefix)
    for name, state in moments.items():
        for key in ("exp_avg", "exp_avg_sq"):
            kept = in_place(state[key]) if name in TOKEN_TENSORS else state[key]
            state[key] = torch.zeros_like(kept) if variant == "b" else kept
        if variant == "b":
            state["step"] = torch.zeros_like(state["step"])
    record = content["xtts_extend"]
    record["vocabulary"] = {"tokens": dict(new_vocabulary.tokens), "digest": new_vocabulary.digest}
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(content, folder / source.name)
    (folder / "vocab.json").write_bytes(vocab.read_bytes())
    return folder / source.name


def main() -> None:
    runs = MiniRuns(output_argument())
    first = runs.start("all rows", STEPS, no_freeze_base_rows=True)
    source = newest(first)
    base_rows = load_vocabulary(runs.base / "vocab.json").size
    reference = runs.continue_from("nothing changed", source, STEPS)
    runs_by_change: dict[str, dict[str, Path]] = {}
    for change in ("one added", "one removed", "permuted"):
        vocab = write_changed_vocabulary(runs.vocab, base_rows, change, runs.output / f"{change}.json")
        migrate = ["--on-vocab-change=migrate", f"--vocab={vocab}", "--init=mean"]
        runs_by_change[change] = {"a": runs.continue_from(f"{change} a", source, STEPS, *migrate)}
        for variant in ("b", "c", "d"):
            folder = runs.output / "otherwise" / f"{change} {variant}"
            checkpoint = write_variant(runs, source, vocab, variant, folder)
            runs_by_change[change][variant] = runs.continue_from(f"{change} {variant}", checkpoint, STEPS)

    rows = [["vocabulary", "variant", "steps 1–10", "11–50", "51–300", "Amharic mel", "Amharic text"]]
    for change, variants in {"unchanged": {"": reference}, **runs_by_change}.items():
        for variant, run in variants.items():
            loss = [line["loss"] for line in read_metrics(run)[0]]
            end = losses(run)
            means = [f"{fmean(part):.4f}" for part in (loss[:10], loss[10:50], loss[50:])]
            rows.append([change, VARIANTS.get(variant, ""), *means, f"{end['am']:.4f}", f"{end['text am']:.3f}"])
    print(table(rows))
    draw(reference, runs_by_change, runs.output / "vocabulary_change.png")


def draw(reference: Path, runs_by_change: dict[str, dict[str, Path]], output: Path) -> None:
    """Plot the text and mel losses of the batches as differences from the run without a change."""
    figure, axes = pyplot.subplots(2, len(runs_by_change), figsize=(12, 6), sharex=True, sharey="row")
    expected = read_metrics(reference)[0]
    for column, (change, variants) in enumerate(runs_by_change.items()):
        for row, (key, label) in enumerate((("loss_text_ce", "text loss"), ("loss_mel_ce", "mel loss"))):
            for variant, run in variants.items():
                scale = 100 if row == 0 else 1
                steps = read_metrics(run)[0]
                excess = [scale * (line[key] - other[key]) for line, other in zip(steps, expected, strict=True)]
                smooth = [fmean(excess[max(0, index - 4) : index + 1]) for index in range(len(excess))]
                axes[row][column].plot(range(1, len(smooth) + 1), smooth, label=VARIANTS[variant], linewidth=1)
            axes[row][column].axhline(0, color="black", linewidth=0.5)
            axes[0][column].set_title(change)
            # The variant with rows by position starts far above the others.
            axes[0][column].set_yscale("symlog", linthresh=0.1)
            axes[row][0].set_ylabel(f"excess {label}")
    figure.supxlabel("step after the change (mean of five steps)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="upper center", ncols=len(VARIANTS), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(output, dpi=110)
    print(output)


if __name__ == "__main__":
    main()
