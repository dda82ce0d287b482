"""Judge a new language, and the old ones beside it, by ear.

    WHISPER_FOLDER=FOLDER python benchmarks/judged.py OUTPUT_FOLDER --understood UNDERSTOOD_FOLDER

UNDERSTOOD_FOLDER is the output of benchmarks/understood.py: its base speaks English and Spanish. It learns Italian,
which the recognizer hears well, and Amharic, which it hears badly, each alone and with replayed speech of the old
languages. Judged are sentences that were not trained on: the recordings, what is left of them in the base's codes, the
base, and, of each run, the new language by steps, and the old ones in the pack's folder and with merged weights. All
speech is decoded by the DVAE and Griffin-Lim. The control is another sentence's text, or another voice. FOLDER is
described in benchmarks/whisper_words.py.

Prints tables, and writes error_rates.png, each judgment and a recording of each kind to OUTPUT_FOLDER. Calling this
again continues. Once the first run trains, a second process can take the other language (--languages); two of them,
with OMP_NUM_THREADS=1 each, are faster than one on two cores. A last call without --languages prints the tables.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import matplotlib.pyplot as plt
from mini_runs import table
from mini_speech import (
    Judge,
    Judged,
    manifest_of,
    recordings,
    speak_all,
    speak_parts,
    split_sentences,
    through_codes,
    voice_references,
)
from retention_data import only_run, run_recipe, slices
from torch import Tensor
from understood import SLICE_S, unseen
from understood import Folder as Understood

from xtts_extend.data.audio import save_wav
from xtts_extend.demo import texts
from xtts_extend.demo.dvae_speech import DvaeSpeech
from xtts_extend.demo.speech import SAMPLE_RATE
from xtts_extend.files import atomic_write
from xtts_extend.model.codec import Codec
from xtts_extend.setup.base import config_for_base
from xtts_extend.setup.encode import encode
from xtts_extend.speech.export import export
from xtts_extend.speech.replay import make_replay
from xtts_extend.speech.speaking import load_model
from xtts_extend.text.extend import extend_vocabulary

OLD, NEW = texts.BASE_LANGUAGES, ("it", "am")
#: Sentences of a new language to train on, to validate with, and to judge.
_TRAIN, _VAL, _UNSEEN = 1200, 24, 24
_REPLAY_HOURS, _REPLAY_SHARE, _BATCH, _RATE = 0.5, 0.25, 12, 5e-4
#: How often a run's new language is judged.
_JUDGED = 2


@dataclass(frozen=True)
class Run:
    """A run that teaches the base a language."""

    data: Data
    language: str
    has_replay: bool
    steps: int

    @property
    def name(self) -> str:
        return f"{self.language} with replay" if self.has_replay else f"{self.language} alone"

    @property
    def folder(self) -> Path:
        """Folder of the run and its model folders. A run of a different length is a different one."""
        return self.data.path / "runs" / f"{self.name}, {self.steps} steps"

    @property
    def batch(self) -> int:
        """Batch size with which a step has as many utterances in the new language with replay as without."""
        return round(_BATCH / (1 - _REPLAY_SHARE)) if self.has_replay else _BATCH

    def step(self, number: int) -> int:
        """Return the step of a judgment, from 1 to `_JUDGED`."""
        return self.steps * number // _JUDGED

    def train(self) -> None:
        """Train unless the run is complete; a run that was interrupted starts again."""
        data, language = self.data, self.language
        flags = [
            f"--base-dir={data.understood.base}", f"--vocab={data.vocab(language)}", f"--language={language}",
            f"--train-manifest={data.manifest(language, 'train')}:{language}",
            f"--val-manifest={data.manifest(language, 'val')}:{language}", f"--codes={data.codes}",
            f"--batch-size={self.batch}", "--grad-accum-steps=1", "--grad-clip=1", f"--learning-rate={_RATE}",
            f"--eval-step={self.steps}", f"--max-steps={self.steps}", f"--save-step={self.steps // _JUDGED}",
            f"--keep-checkpoints={_JUDGED}", "--coqpit.print_step=100", *slices(*SLICE_S),
        ]  # fmt: skip
        if self.has_replay:
            flags += [f"--replay={data.replay}", f"--replay-share={_REPLAY_SHARE}"]
        output = self.folder / "run"
        if not list(output.glob(f"*/checkpoint_{self.steps}.pth")):
            shutil.rmtree(output, ignore_errors=True)
            run_recipe(output, flags)

    def exported(self, step: int, *, merged: bool = False) -> Path:
        """Return the model folder of a step, which is exported unless it is there."""
        model = self.folder / f"{'merged' if merged else 'pack'} {step}"
        if not model.exists():
            checkpoint = only_run(self.folder / "run") / f"checkpoint_{step}.pth"
            export(checkpoint, model, self.data.understood.base, merged=merged)
        return model


@dataclass(frozen=True)
class Data:
    """The output folder with what all runs share, and the folder of the base."""

    path: Path
    understood: Understood

    @property
    def codes(self) -> Path:
        return self.path / "codes"

    @property
    def replay(self) -> Path:
        return self.path / "replay"

    def vocab(self, language: str) -> Path:
        return self.path / f"vocab-{language}.json"

    def manifest(self, language: str, part: str) -> Path:
        """Return a manifest: parts are train, val and unseen."""
        if language in OLD:
            return self.understood.manifest(language, part)
        return manifest_of(self.path, language, part)

    def unseen(self, language: str) -> list[str]:
        """Return the sentences that are judged."""
        return unseen(language) if language in OLD else split_sentences(language, _TRAIN, _VAL, _UNSEEN)["unseen"]

    def references(self, language: str) -> list[Path]:
        """Return a recording of each voice."""
        return voice_references(self.manifest(language, "train"))

    def prepare(self) -> None:
        """Make the speech, the vocabularies, the codes and the replayed speech unless they exist."""
        self.path.mkdir(parents=True, exist_ok=True)
        base = self.understood.base
        for language in NEW:
            parts = split_sentences(language, _TRAIN, _VAL, _UNSEEN)
            speak_parts(self.path, language, parts)
            if not self.vocab(language).exists():
                text = self.path / f"{language}.txt"
                text.write_text("\n".join(parts["train"]), encoding="utf-8")
                extend_vocabulary(base / "vocab.json", language, self.vocab(language), texts=[text], size=300)
            encode([f"{self.manifest(language, 'train')}:{language}"], base, self.codes, vocab=self.vocab(language))
        for language in OLD:
            lines = texts.sentences(language, _TRAIN)
            (self.path / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
        written = {language: [self.path / f"{language}.txt"] for language in OLD}
        make_replay(base, written, self.references(OLD[0]), _REPLAY_HOURS, self.replay, conditioning_s=SLICE_S)


class Judgments:
    """What was judged so far, by model and language; each judgment is in a file, and made only once.

    Args:
        data: The sentences and the voices.
        judge: The judge.
    """

    def __init__(self, data: Data, judge: Judge) -> None:
        self._data, self._judge = data, judge

    @cached_property
    def _speech(self) -> DvaeSpeech:
        return DvaeSpeech(self._data.understood.base)

    def of_recordings(self, language: str) -> Judged:
        """Judge the recordings of the sentences."""
        return self._once("recordings", language, lambda: self._recordings(language))

    def of_codes(self, language: str) -> Judged:
        """Judge what is left of the recordings in the base's codes."""

        def spoken() -> list[Tensor]:
            codec = Codec.load(config_for_base(self._data.understood.base))
            return through_codes(self._speech, codec, self._recordings(language))

        return self._once("their codes", language, spoken)

    def of_model(self, name: str, folder: Callable[[], Path], language: str) -> Judged:
        """Judge a model's speech; `folder` returns its folder."""

        def spoken() -> list[Tensor]:
            sentences, references = self._data.unseen(language), self._data.references(language)
            return speak_all(load_model(folder()), self._speech, sentences, language, references)

        return self._once(name, language, spoken)

    def of_run(self, run: Run, step: int, language: str, *, merged: bool = False) -> Judged:
        """Judge the speech of a run's model folder at a step."""
        form = "merged" if merged else "pack"
        name = f"{run.name}, step {step} of {run.steps}, {form}"
        return self.of_model(name, lambda: run.exported(step, merged=merged), language)

    def _recordings(self, language: str) -> list[Tensor]:
        return recordings(self._data.manifest(language, "unseen"), _UNSEEN)

    def _once(self, name: str, language: str, spoken: Callable[[], Sequence[Tensor]]) -> Judged:
        file = self._data.path / "judgments" / f"{language} {name}.json"
        if not file.is_file():
            audios = spoken()
            judged = self._judge(audios, self._data.unseen(language), self._data.references(language), language)
            (self._data.path / "recordings").mkdir(exist_ok=True)
            save_wav(self._data.path / "recordings" / f"{language} {name}.wav", audios[0], SAMPLE_RATE)
            with atomic_write(file) as opened:
                opened.write(json.dumps(asdict(judged), indent=1).encode())
            print(f"{language} {name}: {judged.error_rate:.3f} (control {judged.control:.3f})", flush=True)
        return Judged(**json.loads(file.read_text(encoding="utf-8")))


def new_rows(judgments: Judgments, runs: Sequence[Run]) -> list[list[str]]:
    """Return the table of the new languages: error rates by steps, and whose voice it is."""
    languages = languages_of(runs)
    rows = first_rows(judgments, languages)
    for has_replay in (False, True):
        of_language = {run.language: run for run in runs if run.has_replay is has_replay}
        for number in range(1, _JUDGED + 1):
            name = f"{of_language[languages[0]].step(number)} steps {'with replay' if has_replay else 'alone'}"
            runs_at = [(of_language[code], of_language[code].step(number)) for code in languages]
            rows.append(row_of(name, [judgments.of_run(run, step, run.language) for run, step in runs_at]))
    return rows


def old_rows(judgments: Judgments, data: Data, runs: Sequence[Run]) -> list[list[str]]:
    """Return the table of the old languages."""
    rows = first_rows(judgments, OLD)
    rows.append(row_of("base", [judgments.of_model("base", lambda: data.understood.base, code) for code in OLD]))
    for run in runs:
        for merged in (True,) if run.has_replay else (False, True):
            name = f"{run.name}, {'merged' if merged else 'in the folder of the pack'}"
            rows.append(row_of(name, [judgments.of_run(run, run.steps, code, merged=merged) for code in OLD]))
    return rows


def languages_of(runs: Sequence[Run]) -> list[str]:
    """Return the new languages of runs."""
    return list(dict.fromkeys(run.language for run in runs))


def first_rows(judgments: Judgments, languages: Sequence[str]) -> list[list[str]]:
    """Return the head of a table, and the limits: what is heard in the recordings, and in their codes."""
    head = [f"{code}: {what}" for code in languages for what in ("error rate", "control", "own voice", "another")]
    return [
        ["", *head],
        row_of("recordings", [judgments.of_recordings(code) for code in languages]),
        row_of("their codes", [judgments.of_codes(code) for code in languages]),
    ]


def row_of(name: str, found: Sequence[Judged]) -> list[str]:
    """Return a row of a table, with what was found for each language."""
    numbers = [
        number
        for judged in found
        for number in (judged.error_rate, judged.control, judged.similarity, judged.other_voice)
    ]
    return [name, *("" if number is None else f"{number:.2f}" for number in numbers)]


def draw(judgments: Judgments, runs: Sequence[Run], file: Path) -> None:
    """Draw the error rates of the new languages by steps, and those of the recordings' codes."""
    languages = languages_of(runs)
    figure, axes = plt.subplots(1, len(languages), figsize=(5 * len(languages), 4), squeeze=False)
    for code, axis in zip(languages, axes[0], strict=True):
        for run in (run for run in runs if run.language == code):
            steps = [run.step(number) for number in range(1, _JUDGED + 1)]
            rates = [judgments.of_run(run, step, code).error_rate for step in steps]
            axis.plot(steps, rates, marker="o", label="with replay" if run.has_replay else "alone")
        axis.axhline(judgments.of_codes(code).error_rate, color="gray", linestyle="--", label="the recordings' codes")
        axis.set(title=code, xlabel="steps", ylabel="character error rate", ylim=(0, None))
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("--understood", type=Path, required=True, help="Output folder of benchmarks/understood.py.")
    parser.add_argument("--steps", type=int, default=1600, help="Steps of each run, a multiple of 2. [%(default)s]")
    parser.add_argument("--languages", nargs="+", choices=NEW, default=NEW, help="The new languages. [it am]")
    parser.add_argument("--asr", default="whisper_words:recognize_LANGUAGE", help="The recognizer. [%(default)s]")
    parser.add_argument("--voices", default="resemblyzer_voices:embed", help="The judge of voices. [%(default)s]")
    args = parser.parse_args()
    if args.steps < _JUDGED or args.steps % _JUDGED:
        parser.error(f"--steps {args.steps}: expected a multiple of {_JUDGED}.")
    data = Data(args.output.absolute(), Understood(args.understood.absolute()))
    data.prepare()
    judgments = Judgments(data, Judge(args.asr, args.voices))
    runs = [Run(data, language, has_replay, args.steps) for language in args.languages for has_replay in (False, True)]
    for run in runs:
        run.train()
    print(table(new_rows(judgments, runs)), end="\n\n")
    print(table(old_rows(judgments, data, runs)))
    draw(judgments, runs, data.path / "error_rates.png")


if __name__ == "__main__":
    main()
