"""Compare learning Tigrinya from the base model and from the base model with a pack of the related Amharic.

    python benchmarks/start_from.py OUTPUT_FOLDER

Both runs see the same recordings in the same order, at the same learning rate. Prints the validation losses of Tigrinya
during training, and the step at which the run from the pack reaches the final loss of the other run.
"""

from __future__ import annotations

from mini_runs import MiniRuns, newest, output_argument, table

from xtts_extend.data.manifest import read_manifests, write_manifest
from xtts_extend.demo import texts
from xtts_extend.demo.speech import make_corpus
from xtts_extend.pack.model_folder import vocabulary_of
from xtts_extend.run.metrics import finite, read_metrics
from xtts_extend.speech.export import export
from xtts_extend.text.extend import extend_vocabulary

LANGUAGE = "ti"
STEPS, EVERY = 250, 25
_TRAIN, _VAL, _TOKENS = 200, 20, 300


def main() -> None:
    """Train both runs and print their losses."""
    mini = MiniRuns(output_argument())
    folder = mini.output / "am-model"
    if not folder.exists():
        export(newest(mini.start("am", STEPS)), folder)
    speech = mini.output / "speech" / LANGUAGE
    lines = texts.sentences(LANGUAGE, _TRAIN + _VAL)
    text = mini.output / f"{LANGUAGE}.txt"
    text.write_text("\n".join(lines), encoding="utf-8")
    mini.manifests[LANGUAGE] = speech / "val.csv"
    if not mini.manifests[LANGUAGE].is_file():
        samples = read_manifests([str(make_corpus(lines, LANGUAGE, speech))], LANGUAGE)
        write_manifest(samples[:_TRAIN], speech / "train.csv")
        write_manifest(samples[_TRAIN:], mini.manifests[LANGUAGE])
    curves = {}
    for name, base, flags in (
        ("from the base", mini.base / "vocab.json", {}),
        ("from am", f"{folder}:am", {"start_from": f"{folder}:am"}),
    ):
        vocab = mini.output / f"vocab {name}.json"
        extend_vocabulary(vocabulary_of(str(base)), LANGUAGE, vocab, texts=[text], size=_TOKENS)
        run = mini.start(name, STEPS, LANGUAGE, vocab=vocab, eval_step=EVERY, **flags)
        lines_of_run = [line for line in read_metrics(run)[1] if line["language"] == LANGUAGE]
        curves[name] = {line["step"]: finite(line["loss_mel_ce"]) for line in lines_of_run}
    steps = sorted(curves["from the base"])
    print(
        table(
            [["steps", *map(str, steps)]]
            + [[name, *(f"{curve[step]:.3f}" for step in steps)] for name, curve in curves.items()]
        )
    )
    end = curves["from the base"][steps[-1]]
    reached = next((step for step in steps if curves["from am"][step] <= end), None)
    print(f"\nThe run from am reaches the final loss of the other run after {reached} of {steps[-1]} steps.")


if __name__ == "__main__":
    main()
