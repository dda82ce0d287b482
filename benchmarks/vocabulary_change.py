"""A run meets another vocabulary: what its next 300 steps cost when rows and moments follow their tokens, or do not.

    python benchmarks/vocabulary_change.py OUTPUT_FOLDER

One run (all rows trained, so that every row has moments) goes on after a token was added before the other new ones,
after one was removed, and after all new ones were permuted: (a) migrated, (b) weights migrated and a fresh optimizer,
(c) weights migrated and the moments left where they were, (d) both left where they were, as happens where only sizes
are compared. The same samples in the same order, beside the run that nothing happened to. Prints a table, draws
OUTPUT_FOLDER/vocabulary_change.png.
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
WAYS = {
    "a": "migrate_checkpoint",
    "b": "fresh optimizer",
    "c": "moments by position",
    "d": "rows and moments by position",
}


def changed(vocab: Path, base_rows: int, how: str, output: Path) -> Path:
    """A vocabulary whose new tokens have moved: one more before them, the first one gone, or shuffled."""
    data = json.loads(vocab.read_text(encoding="utf-8"))
    tokens = data["model"]["vocab"]
    new = sorted((token for token, row in tokens.items() if row >= base_rows), key=tokens.__getitem__)
    if how == "one added":
        new.insert(0, "፨")
    elif how == "one removed":
        # its text is spelled by the parts of its merge from then on
        needed = {part for merge in data["model"]["merges"] for part in merge.split(" ")}
        gone = next(token for token in new if len(token) > 1 and token[0] != "[" and token not in needed)
        new.remove(gone)
        del tokens[gone]
        data["model"]["merges"] = [m for m in data["model"]["merges"] if m.replace(" ", "") != gone]
    else:
        random.Random(0).shuffle(new)
    tokens.update({token: base_rows + number for number, token in enumerate(new)})
    for token in data["added_tokens"]:
        token["id"] = tokens[token["content"]]
    output.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return output


def otherwise(runs: MiniRuns, source: Path, vocab: Path, way: str, folder: Path) -> Path:
    """The checkpoint with its weights at the places of another vocabulary, and the moments fresh or left in place."""
    opened = open_checkpoint_with_base(source, runs.base, None)
    moments, now = moments_by_name(opened), load_vocabulary(vocab)
    assert moments is not None
    assert opened.tokens is not None
    rows = opened.info.vocab_size
    migration = Migration.between(opened.tokens, now.tokens, rows, frozenset(), init="mean", spellings={}, seed=1)
    content = opened.content

    def in_place(table: torch.Tensor) -> torch.Tensor:
        return torch.cat([table, table.new_zeros(max(0, now.size - rows), *table.shape[1:])])[: now.size].clone()

    if way == "d":
        names = [opened.prefix + name for name in TOKEN_TENSORS]
        content["model"] = {**content["model"], **{name: in_place(content["model"][name]) for name in names}}
    else:
        content["model"] = migration.weights(content["model"], opened.prefix)
    for name, state in moments.items():
        for key in ("exp_avg", "exp_avg_sq"):
            kept = in_place(state[key]) if name in TOKEN_TENSORS else state[key]
            state[key] = torch.zeros_like(kept) if way == "b" else kept
        if way == "b":
            state["step"] = torch.zeros_like(state["step"])
    record = content["xtts_extend"]
    record["vocabulary"] = {"tokens": dict(now.tokens), "digest": now.digest}
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(content, folder / source.name)
    (folder / "vocab.json").write_bytes(vocab.read_bytes())
    return folder / source.name


def main() -> None:
    runs = MiniRuns(output_argument())
    first = runs.start("all rows", STEPS, no_freeze_base_rows=True)
    source = newest(first)
    base_rows = load_vocabulary(runs.base / "vocab.json").size
    reference = runs.go_on("nothing changed", source, STEPS)
    found: dict[str, dict[str, Path]] = {}
    for how in ("one added", "one removed", "permuted"):
        vocab = changed(runs.vocab, base_rows, how, runs.output / f"{how}.json")
        migrate_checkpoint = ["--on-vocab-change=migrate", f"--vocab={vocab}", "--init=mean"]
        found[how] = {"a": runs.go_on(f"{how} a", source, STEPS, *migrate_checkpoint)}
        for way in ("b", "c", "d"):
            given = otherwise(runs, source, vocab, way, runs.output / "otherwise" / f"{how} {way}")
            found[how][way] = runs.go_on(f"{how} {way}", given, STEPS)

    rows = [["vocabulary", "way", "steps 1–10", "11–50", "51–300", "Amharic mel", "Amharic text"]]
    for how, ways in {"unchanged": {"": reference}, **found}.items():
        for way, run in ways.items():
            loss = [line["loss"] for line in read_metrics(run)[0]]
            end = losses(run)
            means = [f"{fmean(part):.4f}" for part in (loss[:10], loss[10:50], loss[50:])]
            rows.append([how, WAYS.get(way, ""), *means, f"{end['am']:.4f}", f"{end['text am']:.3f}"])
    print(table(rows))
    draw(reference, found, runs.output / "vocabulary_change.png")


def draw(reference: Path, found: dict[str, dict[str, Path]], output: Path) -> None:
    """Text and mel loss of the batches, each as its difference to the run that nothing happened to."""
    figure, axes = pyplot.subplots(2, len(found), figsize=(12, 6), sharex=True, sharey="row")
    expected = read_metrics(reference)[0]
    for column, (how, ways) in enumerate(found.items()):
        for row, (key, label) in enumerate((("loss_text_ce", "text loss"), ("loss_mel_ce", "mel loss"))):
            for way, run in ways.items():
                scale = 100 if row == 0 else 1
                steps = read_metrics(run)[0]
                excess = [scale * (one[key] - other[key]) for one, other in zip(steps, expected, strict=True)]
                smooth = [fmean(excess[max(0, at - 4) : at + 1]) for at in range(len(excess))]
                axes[row][column].plot(range(1, len(smooth) + 1), smooth, label=WAYS[way], linewidth=1)
            axes[row][column].axhline(0, color="black", linewidth=0.5)
            axes[0][column].set_title(how)
            # rows by position begin far above
            axes[0][column].set_yscale("symlog", linthresh=0.1)
            axes[row][0].set_ylabel(f"excess {label}")
    figure.supxlabel("step after the change (mean of five)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="upper center", ncols=len(WAYS), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(output, dpi=110)
    print(output)


if __name__ == "__main__":
    main()
