"""Make data sets from long recordings whose contents are known, and judge them.

    python benchmarks/long_recordings.py OUTPUT_FOLDER --download --aligner CTC_FOLDER

benchmarks/train_whisper_ctc.py trains CTC_FOLDER. Clips that it was not trained on are joined to an hour of Czech (a
game's dialogues), of French and of Bulgarian (words and short sentences), with pauses of 0.3 to 3 s, noise and music.
There are 22 minutes of French and Bulgarian, pauses included; stretches of music or silence, 6 to 60 s long, make up
the hour, and `--minutes inf` leaves them out. Each recording goes through `xtts-extend make-dataset` with three texts:

- transcript: what is spoken, as paragraphs;
- subtitles: cues 2 s late, and up to 1.5 s more or less; some split, some merged;
- damaged: 10 % of the utterances are missing, 10 % added, 5 % replaced, and 5 % swapped with a neighbor.

--aligner may be repeated: NAME=VALUE, such as whisper=whisper_words:align_LANGUAGE, where LANGUAGE becomes cs, fr or
bg. A data set is made again if OUTPUT_FOLDER/LANGUAGE/TEXT/ALIGNER is missing; --judge-only makes none.

Prints a table, writes OUTPUT_FOLDER/long_recordings.json, and exits with 1 if a command failed or --aligner's first
model misses a bar: at least 98 % of the accepted clips have exactly their text, at most 0.5 % of words are split, and
at least 80 % of good seconds are kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from human_data import PACKAGES, is_held_out, music_files, read_corpus, unpack
from mini_runs import table
from truth_judge import Verdict, judge, read_clips
from truth_recordings import (
    as_spoken,
    damaged,
    is_usable,
    make_recording,
    read_text_truth,
    read_utterances,
    write_subtitles,
    write_text_truth,
    write_transcript,
    write_utterances,
)

#: File name and sample rate of each language's recording.
_FILES = {"cs": ("recording.mp3", 48000), "fr": ("recording.ogg", 22050), "bg": ("recording.flac", 44100)}
_TEXTS = {"transcript": "transcript.txt", "subtitles": "subtitles.srt", "damaged": "damaged.txt"}
_LEAST_EXACT, _MOST_SPLIT, _LEAST_KEPT = 0.98, 0.005, 0.80
#: Every n-th clip is not in the recording; the sentences are added to texts.
_SPARE = 6


def make_truth(packages: Path, language: str, folder: Path, minutes: float, seed: int) -> None:
    """Write a recording, its texts, and what is true about them, unless they are there."""
    if (folder / "truth.jsonl").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    clips = {
        recording.file: recording.text
        for recording in read_corpus(packages, language).recordings
        if is_held_out(recording, language) and is_usable(recording.text)
    }
    files = sorted(clips)
    # An added sentence that is also spoken elsewhere would be no addition.
    spare = sorted(
        {clips[file] for file in files[::_SPARE]} - {clips[file] for file in set(files) - set(files[::_SPARE])}
    )
    used = [(file, clips[file]) for number, file in enumerate(files) if number % _SPARE]
    name, rate = _FILES[language]
    utterances = make_recording(used, music_files(packages, held_out=True), folder / name, rate, minutes, generator)
    spoken, changed = as_spoken(utterances), damaged(utterances, spare, generator)
    write_transcript(spoken, folder / _TEXTS["transcript"], generator)
    write_transcript(changed, folder / _TEXTS["damaged"], generator)
    write_subtitles(utterances, folder / _TEXTS["subtitles"], generator)
    for text in _TEXTS:
        write_text_truth(changed if text == "damaged" else spoken, folder / f"{text}.truth.json")
    write_utterances(utterances, folder / "truth.jsonl")
    speech_s = sum(one.end_s - one.start_s for one in utterances)
    print(
        f"{folder / name}: {len(utterances)} utterances, {speech_s / 60:.1f} of "
        f"{utterances[-1].end_s / 60:.1f} min are speech.",
        flush=True,
    )


def make_dataset(recording: Path, text: Path, language: str, output: Path, options: Sequence[str]) -> dict[str, Any]:
    """Run the command, and return its exit code and seconds; its output is in OUTPUT.log."""
    # The script that knows how to load the stand-in for MMS.
    script = str(Path(__file__).with_name("whisper_ctc.py"))
    command = [sys.executable, script, "make-dataset", str(recording), "--language", language]
    command += ["--text", str(text), "--speaker", language, "--output", str(output), *options]
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here)))}
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with output.with_name(output.name + ".log").open("w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    return {"exit_code": code, "seconds": round(time.monotonic() - start)}


def read_set_aside(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a data set's rejected.csv that are no clips, with times in seconds or None."""
    clips = {(f"{row['start']:.3f}", f"{row['end']:.3f}", row["text"]) for row in read_clips(folder)}
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="|"))
    return [
        {**row, "start": float(row["start"]) if row["start"] else None, "end": float(row["end"] or "nan")}
        for row in rows
        if (row["start"], row["end"], row["text"]) not in clips
    ]


def judge_folder(folder: Path, truth: Path, text: str) -> Verdict:
    """Judge a data set that was made with one of the texts in the folder `truth`."""
    utterances, text_truth = read_utterances(truth / "truth.jsonl"), read_text_truth(truth / f"{text}.truth.json")
    return judge(read_clips(folder), read_set_aside(folder), utterances, text_truth)


def meets_bars(verdict: Verdict) -> bool:
    """Return whether a data set is as good as it has to be."""
    return (
        verdict.exact_share >= _LEAST_EXACT and verdict.split_share <= _MOST_SPLIT and verdict.kept_share >= _LEAST_KEPT
    )


def row_of(name: str, verdict: Verdict) -> list[str]:
    """Return a verdict as a row of the table."""
    return [
        name,
        str(verdict.accepted),
        f"{verdict.accepted_s / 60:.1f}",
        f"{100 * verdict.exact_share:.1f} %",
        f"{100 * verdict.split_share:.2f} %",
        f"{100 * verdict.kept_share:.1f} %",
        ", ".join(f"{reason} {amount:.0f}" for reason, amount in sorted(verdict.rightly.items())),
        ", ".join(f"{reason} {amount:.0f}" for reason, amount in sorted(verdict.wrongly.items())),
    ]


def _named(value: str) -> tuple[str, str]:
    name, equals, rest = value.partition("=")
    return (name, rest) if equals else ("ctc", value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--packages", type=Path, help="Folder of the unpacked packages [OUTPUT/packages].")
    parser.add_argument("--download", action="store_true", help="Fetch missing packages.")
    parser.add_argument("--aligner", type=_named, action="append", default=[], help="[NAME=]VALUE; may be repeated.")
    parser.add_argument("--asr", help="A recognizer for all data sets; LANGUAGE becomes its code.")
    parser.add_argument("--languages", nargs="+", default=list(_FILES), choices=list(_FILES))
    parser.add_argument("--texts", nargs="+", default=list(_TEXTS), choices=list(_TEXTS))
    parser.add_argument("--minutes", type=float, default=60, help="Length of a recording [%(default)s].")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--judge-only", action="store_true", help="Judge the data sets that are there.")
    arguments = parser.parse_args()
    packages = arguments.packages or arguments.output / "packages"
    rows = [["data set", "clips", "minutes", "exact", "split", "kept", "set aside rightly", "wrongly"]]
    results: dict[str, Any] = {}
    passed = True
    for language in arguments.languages:
        truth = arguments.output / language
        if not (truth / "truth.jsonl").is_file():
            unpack(packages, PACKAGES, download=arguments.download)
        make_truth(packages, language, truth, arguments.minutes, arguments.seed)
        for text in arguments.texts:
            for number, (name, aligner) in enumerate(arguments.aligner):
                folder = truth / text / name
                label = f"{language} {text} {name}"
                made: dict[str, Any] = {"exit_code": 0}
                if not arguments.judge_only and not (folder / "clips.jsonl").is_file():
                    options = ["--aligner", aligner.replace("LANGUAGE", language)]
                    if arguments.asr:
                        options += ["--asr", arguments.asr.replace("LANGUAGE", language)]
                    recording = truth / _FILES[language][0]
                    made = make_dataset(recording, truth / _TEXTS[text], language, folder, options)
                if made["exit_code"] or not (folder / "clips.jsonl").is_file():
                    print(f"{label}: make-dataset failed, see {folder}.log", flush=True)
                    passed = False
                    continue
                verdict = judge_folder(folder, truth, text)
                results[label] = made | verdict.as_json()
                rows.append(row_of(label, verdict))
                print(" | ".join(rows[-1]), flush=True)
                passed = passed and (number > 0 or meets_bars(verdict))
    print(table(rows))
    arguments.output.mkdir(parents=True, exist_ok=True)
    content = json.dumps(results, ensure_ascii=False, indent=1)
    (arguments.output / "long_recordings.json").write_text(content, encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
