"""Train a mini base until it can be understood: the character error rate of its speech by training time.

    WHISPER_FOLDER=FOLDER python benchmarks/understood.py OUTPUT_FOLDER --minutes 180

espeak-ng speaks sentences in English and Spanish; the base's codec has high quality. The recipe trains the GPT in
segments, each of which resumes the run, and after each, a recognizer hears sentences that were not trained on,
conditioned on a recording, decoded by the DVAE and Griffin-Lim. Calling this again continues the run. FOLDER is
described in benchmarks/whisper_words.py.

Prints a table, writes OUTPUT_FOLDER/understood.json, and keeps the base with the last weights in OUTPUT_FOLDER/base.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mini_runs import newest, table
from mini_speech import (
    Judge,
    manifest_of,
    recordings,
    speak_all,
    speak_parts,
    split_sentences,
    through_codes,
    voice_references,
)
from retention_data import copy_with, newest_weights, only_run, slices

from xtts_extend.demo import texts
from xtts_extend.demo.dvae_speech import DvaeSpeech
from xtts_extend.demo.mini_base import Quality, make_mini_base
from xtts_extend.files import atomic_write
from xtts_extend.model.codec import Codec
from xtts_extend.recipes import find_recipe
from xtts_extend.setup.base import config_for_base
from xtts_extend.setup.encode import encode
from xtts_extend.speech.speaking import load_model

#: Sentences per language to train on, to validate with, and to judge.
_TRAIN, _VAL, _UNSEEN = 3000, 24, 24
_LAYERS, _CHANNELS, _HEADS = 4, 256, 4
#: Conditioning in seconds. It is short because it takes time, and the base has not learned to use it in an hour.
SLICE_S = (0.5, 1.0)
_PEAK_RATE, _BATCH = 1e-3, 8


@dataclass(frozen=True)
class Folder:
    """The benchmark's output folder."""

    path: Path

    @property
    def raw(self) -> Path:
        """The base before the GPT is trained."""
        return self.path / "base-untrained"

    @property
    def base(self) -> Path:
        """The base after the last segment."""
        return self.path / "base"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def codes(self) -> Path:
        return self.path / "codes"

    def manifest(self, language: str, part: str) -> Path:
        return manifest_of(self.path, language, part)

    def prepare(self) -> None:
        """Make the speech, the untrained base and the codes unless they exist."""
        for language in texts.BASE_LANGUAGES:
            speak_parts(self.path, language, split_sentences(language, _TRAIN, _VAL, _UNSEEN))
        if not self.raw.exists():
            make_mini_base(self.raw, layers=_LAYERS, channels=_CHANNELS, heads=_HEADS, steps=1, quality=Quality.HIGH)
        encode([f"{self.manifest(code, 'train')}:{code}" for code in texts.BASE_LANGUAGES], self.raw, self.codes)


def train(folder: Folder, steps: int, minutes: float) -> int:
    """Start or resume the run, train for some minutes, and return the number of steps that the run has."""
    if folder.runs.exists() and any(folder.runs.glob("*/checkpoint_*.pth")):
        flags = [f"--checkpoint={only_run(folder.runs)}"]
    else:
        shutil.rmtree(folder.runs, ignore_errors=True)
        schedule = json.dumps({"max_lr": _PEAK_RATE, "total_steps": steps, "pct_start": 0.05})
        flags = [
            f"--base-dir={folder.raw}", f"--output-dir={folder.runs}", f"--codes={folder.codes}", "--language=en",
            *(f"--train-manifest={folder.manifest(code, 'train')}:{code}" for code in texts.BASE_LANGUAGES),
            *(f"--val-manifest={folder.manifest(code, 'val')}:{code}" for code in texts.BASE_LANGUAGES),
            f"--max-steps={steps}", f"--batch-size={_BATCH}", "--grad-accum-steps=1", "--grad-clip=1",
            f"--learning-rate={_PEAK_RATE}", "--coqpit.lr_scheduler=OneCycleLR",
            f"--coqpit.lr_scheduler_params={schedule}", "--save-step=100000", "--eval-step=1000",
            "--coqpit.print_step=100", "--keep-checkpoints=1", *slices(*SLICE_S),
        ]  # fmt: skip
    command = [sys.executable, str(find_recipe()), *flags, f"--max-minutes={minutes}"]
    with (folder.path / "training.log").open("a", encoding="utf-8") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    return int(newest(only_run(folder.runs)).stem.rpartition("_")[2])


def judge_base(folder: Folder, judge: Judge) -> dict[str, dict[str, Any]]:
    """Return what the recognizer hears in the base's speech, by language."""
    shutil.rmtree(folder.base, ignore_errors=True)
    copy_with(folder.raw, newest_weights(folder.runs), folder.base)
    xtts, speech = load_model(folder.base), DvaeSpeech(folder.base)
    found = {}
    for language in texts.BASE_LANGUAGES:
        sentences, references = unseen(language), voice_references(folder.manifest(language, "train"))
        spoken = speak_all(xtts, speech, sentences, language, references)
        found[language] = asdict(judge(spoken, sentences, references, language))
    return found


def unseen(language: str) -> list[str]:
    """Return the sentences that are judged."""
    return split_sentences(language, _TRAIN, _VAL, _UNSEEN)["unseen"]


def limits(folder: Folder, judge: Judge) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the recognizer hears in the recordings, and in the recordings' codes."""
    speech, codec = DvaeSpeech(folder.raw), Codec.load(config_for_base(folder.raw))
    found: dict[str, dict[str, dict[str, Any]]] = {"recordings": {}, "their codes": {}}
    for language in texts.BASE_LANGUAGES:
        references = voice_references(folder.manifest(language, "train"))
        audios = recordings(folder.manifest(language, "unseen"), _UNSEEN)
        for name, spoken in (("recordings", audios), ("their codes", through_codes(speech, codec, audios))):
            found[name][language] = asdict(judge(spoken, unseen(language), references, language))
    return found


def save(state: dict[str, Any], file: Path) -> None:
    """Write what was found so far; an interruption leaves the file as it was."""
    with atomic_write(file) as opened:
        opened.write(json.dumps(state, indent=1).encode())


def row_of(name: str, steps: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a row of the table."""
    cells = [name, steps, *(f"{one['error_rate']:.3f}" for one in found.values())]
    return [*cells, *(f"{one['control']:.3f}" for one in found.values())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("--minutes", type=float, default=180, help="Minutes of training in all. [180]")
    parser.add_argument("--segment", type=float, default=10, help="Minutes between judgments. [10]")
    parser.add_argument("--steps", type=int, default=20000, help="Length of the learning rate's schedule. [20000]")
    parser.add_argument("--asr", default="whisper_words:recognize_LANGUAGE", help="The recognizer. [%(default)s]")
    args = parser.parse_args()
    folder = Folder(args.output.absolute())
    folder.prepare()
    judge = Judge(args.asr)
    file = folder.path / "understood.json"
    state = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"minutes": 0.0, "curve": []}
    if "limits" not in state:
        state["limits"] = limits(folder, judge)
        save(state, file)
    while state["minutes"] < args.minutes and (not state["curve"] or state["curve"][-1]["steps"] < args.steps):
        start = time.monotonic()
        steps = train(folder, args.steps, min(args.segment, args.minutes - state["minutes"]))
        state["minutes"] += (time.monotonic() - start) / 60
        # Minutes count even if the judgment is interrupted.
        save(state, file)
        found = judge_base(folder, judge)
        state["curve"].append({"minutes": state["minutes"], "steps": steps, "found": found})
        save(state, file)
        print(" | ".join(row_of(f"{state['minutes']:.0f} min", str(steps), found)), flush=True)
    rows = [
        [
            "",
            "steps",
            *(f"CER {code}" for code in texts.BASE_LANGUAGES),
            *(f"control {code}" for code in texts.BASE_LANGUAGES),
        ],
        *(row_of(name, "", found) for name, found in state["limits"].items()),
        *(row_of(f"{one['minutes']:.0f} min", str(one["steps"]), one["found"]) for one in state["curve"]),
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
