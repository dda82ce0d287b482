"""Demo in which a mini base model for English and Spanish learns Amharic, from new vocabulary to generated speech.

It runs the same code and the same recipe that users run, but on a small scale.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.table import Table

import xtts_extend
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.data.audio import load_audio, save_wav
from xtts_extend.data.check import check_samples
from xtts_extend.data.manifest import read_manifests, write_manifest
from xtts_extend.demo import texts
from xtts_extend.demo.dvae_speech import DvaeSpeech
from xtts_extend.demo.mini_base import SENTENCES, cached_mini_base
from xtts_extend.demo.plot import draw_losses
from xtts_extend.demo.speech import make_corpus
from xtts_extend.errors import CheckFailed, ConfigError, XttsExtendError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.model.voice import REFERENCE_RATE, make_voice
from xtts_extend.pack.route import routed
from xtts_extend.recipes import find_recipe
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.metrics import MetricsLine, finite, read_metrics
from xtts_extend.setup.samples import limits_of
from xtts_extend.speech.compare import say
from xtts_extend.speech.export import export
from xtts_extend.speech.speaking import load_model, speak_to_file
from xtts_extend.text.extend import check_vocabulary, extend_vocabulary
from xtts_extend.text.tokenizer import load_tokenizer

LANGUAGE = "am"
SENTENCE = "ሰላም ለዓለም።"
#: Number of training steps: five epochs of 50 batches.
STEPS = 250
#: Step at which the run is stopped, in the middle of an epoch.
STOP_AT = 120
_VOCABULARY_SIZE = 300
_TRAIN, _VAL = 200, 20

#: Log file in the output folder, with the messages from all steps, the recipe's full output, and any traceback.
LOG = "demo.log"

console = Console()
#: Logger that writes only to the log file.
logger = logging.getLogger(__name__)


def run_demo(output: Path) -> dict[str, Any]:
    """Run the demo: extend the vocabulary, check the data, train, stop with a real signal, resume, export and speak.

    The results are printed, and the losses are plotted.

    Args:
        output: A folder that does not exist yet, or the folder of an earlier demo, which is overwritten.

    Returns:
        The measurements, which are also written to `report.json`.

    Raises:
        CheckFailed: A step failed. The message names the step and the log file.
        ConfigError: The folder contains files that are not from a demo, or the recipe is not found.
    """
    output = output.absolute()
    _prepare_folder(output)
    steps = _Steps()
    with _logged_to(output / LOG):
        try:
            return _run_steps(output, steps)
        # Any error is reported on one line. The traceback goes to the log.
        except Exception as error:  # noqa: BLE001
            _fail(error, steps.current, output / LOG)


@contextmanager
def _logged_to(file: Path) -> Iterator[None]:
    """Also write messages from the demo, and from the trainer in this process, to a log file."""
    handler = logging.FileHandler(file, mode="w", encoding="utf-8")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    loggers = (logger, logging.getLogger("trainer"))
    for each in loggers:
        each.addHandler(handler)
    try:
        yield
    finally:
        for each in loggers:
            each.removeHandler(handler)
        handler.close()


def _fail(error: Exception, step: str, log: Path) -> NoReturn:
    logger.error("The demo failed.", exc_info=error)
    kind = type(error) if isinstance(error, XttsExtendError) else CheckFailed
    reason = (str(error) or type(error).__name__).splitlines()[0].removesuffix(".")
    raise kind(f'The demo failed at step "{step}": {reason}. See the log: {log}') from error


class _Steps:
    """The title of the demo's current step, which is printed as a heading when the step begins."""

    def __init__(self) -> None:
        self.current = "0. Preparation"

    def begin(self, title: str) -> None:
        self.current = title
        console.rule(f"[bold]{title}", align="left")
        logger.info("===== %s", title)


def _run_steps(output: Path, steps: _Steps) -> dict[str, Any]:
    start = time.monotonic()
    recipe = find_recipe()

    steps.begin("1. Base model for English and Spanish")
    base = cached_mini_base()
    console.print(f"{base}")

    steps.begin("2. Speech in Amharic, and in the old languages for evaluation")
    manifests = speak_corpora(output)

    steps.begin("3. Extend the vocabulary")
    vocab = output / "vocab.json"
    report = extend_vocabulary(base / "vocab.json", LANGUAGE, vocab, texts=[output / "am.txt"], size=_VOCABULARY_SIZE)
    check = check_vocabulary(base / "vocab.json", vocab, [output / "en.txt", output / "es.txt"])
    console.print(f"Added {report.added} entries. Share of unknown tokens: {report.unknown_share}.")

    steps.begin("4. Check the data")
    xtts_extend.enable()
    limits = limits_of(NewLanguageConfig())
    data = check_samples(read_manifests([str(manifests["train"])], LANGUAGE), load_tokenizer(vocab), limits)
    console.print(data.summary())

    steps.begin(f"5. Train, and stop with a real signal at step {STOP_AT}, in the middle of an epoch")
    flags = {
        "base-dir": base,
        "vocab": vocab,
        "language": LANGUAGE,
        "train-manifest": manifests["train"],
        "output-dir": output / "runs",
        "max-steps": STEPS,
        "batch-size": 4,
        "grad-accum-steps": 1,
        "learning-rate": 5e-4,
        "grad-clip": 1,
        "save-step": 100,
    }
    command = [f"--{key}={value}" for key, value in flags.items()]
    command += [f"--val-manifest={manifests[code]}:{code}" for code in (LANGUAGE, *texts.BASE_LANGUAGES)]
    # Condition on 1.5 to 3 s, as in the base's training.
    command += ["--coqpit.model_args.min_conditioning_length=33075"]
    command += ["--coqpit.model_args.max_conditioning_length=66150", "--coqpit.print_step=20"]
    _run(recipe, command, expected=130, stop_at=STOP_AT)
    (run,) = (output / "runs").glob("xtts-*/")
    stopped = _newest_step(run)

    steps.begin("6. Resume the run from its folder")
    first = _run(recipe, [f"--checkpoint={run}"], expected=0)
    lines, evaluations = read_metrics(run)

    steps.begin("7. Export the language as a pack alongside the base's files")
    model = output / "am-model"
    exported = export(run, model, base)
    console.print(f"{exported['pack']}: {exported['pack_bytes'] / 1e6:.1f} MB")

    steps.begin("8. Speak")
    voice = manifests["train"].parent / "wavs" / f"{LANGUAGE}_00000.wav"
    spoken = speak_to_file(model, LANGUAGE, [voice], SENTENCE, output / "hello.wav", seed=0)
    # The base's vocoder is untrained, so no words can be heard in it.
    xtts = load_model(model)
    latents = make_voice(xtts, [load_audio(voice, REFERENCE_RATE)]).latents
    decoded = DvaeSpeech(base).speak(xtts, SENTENCE, LANGUAGE, latents)
    save_wav(output / "hello-griffin-lim.wav", decoded, REFERENCE_RATE)

    steps.begin("9. Compare speech in the old languages with the base's, sample by sample")
    equal = compare_waveforms(model, base, voice)
    console.print(", ".join(f"{name}: {'equal' if same else 'different'}" for name, same in equal.items()))

    before, after = (_by_language(evaluations, step) for step in (0, STEPS))
    numbers = {
        "steps_before_the_stop": stopped,
        "first_step_after_the_resume": first,
        "steps_in_all": len(lines),
        "step_numbers_without_gap_or_repeat": [line["step"] for line in lines] == list(range(1, STEPS + 1)),
        "loss_before": before,
        "loss_after": after,
        "old_ids_changed": check.changed_ids,
        "old_lines_cut_differently": check.changed_lines,
        "old_rows_changed": _changed_rows(run, base),
        "waveforms_equal_the_bases": equal,
        "rows": {"old": exported["base_rows"], "new": report.vocab_size - exported["base_rows"]},
        "megabytes": {
            "base model.pth": (base / "model.pth").stat().st_size / 1e6,
            "checkpoint": max(file.stat().st_size for file in run.glob("checkpoint_*.pth")) / 1e6,
            "language pack": exported["pack_bytes"] / 1e6,
        },
        "spoken_s": spoken["audio_s"],
        "spoken_griffin_lim_s": len(decoded) / REFERENCE_RATE,
        "minutes": (time.monotonic() - start) / 60,
    }
    (output / "report.json").write_text(json.dumps(numbers, indent=2, ensure_ascii=False), encoding="utf-8")
    draw_losses(lines, evaluations, stopped, output / "losses.png")
    _print_table(numbers)
    for name in ("losses.png", "hello.wav", "hello-griffin-lim.wav", "am-model", "report.json"):
        console.print(f"{output / name}", soft_wrap=True)
    return numbers


def _prepare_folder(output: Path) -> None:
    if output.exists():
        if any(output.iterdir()) and not any((output / name).is_file() for name in (LOG, "am.txt")):
            raise ConfigError(f"{output} contains files that are not from a demo. Choose a different --output.")
        for run in (output / "runs").glob("xtts-*"):
            run.rename(output / f"earlier-{run.name}")
        if (output / "am-model").exists():
            (output / "am-model").rename(output / f"earlier-am-model-{time.time_ns()}")
    output.mkdir(parents=True, exist_ok=True)


def speak_corpora(output: Path) -> dict[str, Path]:
    """Synthesize sentences in the new and old languages, and write the sentences to text files.

    Args:
        output: Folder for the text files and the speech.

    Returns:
        The manifests by key: "train" for training, and each language's code for evaluation.
    """
    amharic = texts.sentences(LANGUAGE, _TRAIN + _VAL)
    (output / "am.txt").write_text("\n".join(amharic), encoding="utf-8")
    manifest = make_corpus(amharic, LANGUAGE, output / "speech" / LANGUAGE)
    samples = read_manifests([str(manifest)], LANGUAGE)
    manifests = {"train": manifest.with_name("train.csv"), LANGUAGE: manifest.with_name("val.csv")}
    write_manifest(samples[:_TRAIN], manifests["train"])
    write_manifest(samples[_TRAIN:], manifests[LANGUAGE])
    for language in texts.BASE_LANGUAGES:
        # The base was trained on the first sentences.
        unseen = texts.sentences(language, SENTENCES + _VAL)[SENTENCES:]
        (output / f"{language}.txt").write_text("\n".join(unseen), encoding="utf-8")
        manifests[language] = make_corpus(unseen, language, output / "speech" / language)
    return manifests


def _run(recipe: Path, flags: list[str], *, expected: int, stop_at: int | None = None) -> int:
    """Run the recipe in a separate process and show its output.

    Args:
        recipe: The recipe's script.
        flags: Flags of the recipe.
        expected: Expected exit code of the recipe.
        stop_at: Step at which to interrupt the recipe, if any.

    Returns:
        The first step that the recipe's output mentions.

    Raises:
        CheckFailed: The recipe ended with a different exit code, or did not print a step.
    """
    console.print(f"python {recipe} {' '.join(flags)}", style="dim", soft_wrap=True)
    process = subprocess.Popen(
        [sys.executable, str(recipe), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    first, is_interrupted = None, False
    try:
        for line in process.stdout or ():
            logger.info("%s", line.rstrip())
            if line.startswith(" > "):
                console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
            match = re.match(r" > step (\d+)/", line)
            if match:
                first = first or int(match.group(1))
                if stop_at is not None and int(match.group(1)) >= stop_at and not is_interrupted:
                    process.send_signal(signal.SIGINT)
                    is_interrupted = True
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if code != expected or first is None:
        raise CheckFailed(f"Expected the recipe to exit with code {expected}, got {code}. See its output in the log.")
    return first


def _newest_step(run: Path) -> int:
    step = xtts_extend.inspect_checkpoint(run).step
    if step is None:
        raise CheckFailed(f"{run} has no checkpoint that records a step number.")
    return step


def _by_language(evaluations: list[MetricsLine], step: int) -> dict[str, float]:
    """Return each language's mel loss in the last evaluation at or before a step."""
    return {line["language"]: finite(line["loss_mel_ce"]) for line in evaluations if line["step"] <= step}


def _changed_rows(run: Path, base: Path) -> int:
    """Return how many of the base's token rows differ in the run's newest checkpoint."""
    trained = xtts_weights(load_checkpoint(Path(xtts_extend.inspect_checkpoint(run).path))[0]["model"])
    old = xtts_weights(load_checkpoint(base / "model.pth")[0]["model"])
    changed = 0
    for name in TOKEN_TENSORS:
        rows = old[f"gpt.{name}"]
        differs = trained[f"gpt.{name}"][: len(rows)] != rows
        changed += int(differs.reshape(len(rows), -1).any(dim=1).sum())
    return changed


def compare_waveforms(model: Path, base: Path, voice: Path) -> dict[str, bool]:
    """Return, for each language, whether the model in a folder speaks a sentence exactly as the base does.

    The last entry is a counterexample: an English sentence that is spoken with the Amharic pack.

    Args:
        model: Folder of a model with a pack for `LANGUAGE`.
        base: Folder of the base.
        voice: Recording of the voice.
    """
    spoken: dict[str, list[torch.Tensor]] = {}
    for folder in (base, model):
        xtts = load_model(folder)
        reference = make_voice(xtts, [load_audio(voice, REFERENCE_RATE)])
        for language in texts.BASE_LANGUAGES:
            spoken.setdefault(language, []).append(say(xtts, texts.sentences(language, 1)[0], language, reference))
        if folder == model:
            with routed(xtts, LANGUAGE):
                with_pack = say(xtts, texts.sentences("en", 1)[0], "en", reference)
    pairs = {**spoken, "en, spoken with the pack": [spoken["en"][0], with_pack]}
    return {name: torch.equal(*pair) for name, pair in pairs.items()}


def _print_table(numbers: dict[str, Any]) -> None:
    table = Table(title="Results", show_header=False)
    table.add_row("steps before the stop", f"{numbers['steps_before_the_stop']}")
    table.add_row("first step after resuming", f"{numbers['first_step_after_the_resume']}")
    table.add_row(
        "step numbers without gaps or repeats", "yes" if numbers["step_numbers_without_gap_or_repeat"] else "NO"
    )
    for code, kind in ((LANGUAGE, " (new language)"), *((code, " (if merged)") for code in texts.BASE_LANGUAGES)):
        before, after = numbers["loss_before"][code], numbers["loss_after"][code]
        table.add_row(f"mel loss of {code}{kind}", f"{before:.3f} → {after:.3f}")
    table.add_row("old ids changed", f"{numbers['old_ids_changed']}")
    table.add_row("old lines tokenized differently", f"{numbers['old_lines_cut_differently']}")
    rows = numbers["rows"]
    table.add_row("old rows changed", f"{numbers['old_rows_changed']} of {3 * rows['old']} ({rows['new']} new tokens)")
    for name, same in numbers["waveforms_equal_the_bases"].items():
        table.add_row(
            f"waveform of {name}", "same as the base's, sample by sample" if same else "differs from the base's"
        )
    for name, size in numbers["megabytes"].items():
        table.add_row(name, f"{size:.1f} MB")
    table.add_row(
        "spoken", f"{numbers['spoken_s']:.1f} s; decoded with the DVAE: {numbers['spoken_griffin_lim_s']:.1f} s"
    )
    table.add_row("time", f"{numbers['minutes']:.1f} min")
    console.print(table)
