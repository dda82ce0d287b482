"""The whole job on the embedded default: a mini base that knows English and Spanish learns Amharic.

Every step is the command or the recipe that a user calls, on the same files; only the sizes are small.
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
from TTS.tts.models.xtts import Xtts

import xtts_extend
from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.data.audio import load_audio, save_wav
from xtts_extend.data.check import check_samples
from xtts_extend.data.manifest import read_manifests, write_manifest
from xtts_extend.demo import texts
from xtts_extend.demo.griffin_lim import codes_to_audio
from xtts_extend.demo.mini_base import SENTENCES, cached_mini_base
from xtts_extend.demo.plot import draw_losses
from xtts_extend.demo.speech import make_corpus
from xtts_extend.errors import CheckFailed, ConfigError, XttsExtendError
from xtts_extend.model.codec import make_dvae
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.model.voice import REFERENCE_RATE, Voice, make_voice, speak_sentences
from xtts_extend.pack.route import routed
from xtts_extend.recipes import find_recipe
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.metrics import MetricsLine, finite, read_metrics
from xtts_extend.setup.samples import limits_of
from xtts_extend.speech.export import export
from xtts_extend.speech.speaking import load_model, speak_to_file
from xtts_extend.text.extend import check_vocabulary, extend_vocabulary
from xtts_extend.text.tokenizer import load_tokenizer

LANGUAGE = "am"
SENTENCE = "ሰላም ለዓለም።"
#: Five epochs of 50 batches; the signal comes in the middle of one.
STEPS = 250
STOP_AT = 120
_VOCABULARY_SIZE = 300
_TRAIN, _VAL = 200, 20

#: In the output folder: what every step said, the recipe's whole output, and the traceback of a failure.
LOG = "demo.log"

console = Console()
#: Writes to the log file alone.
logger = logging.getLogger(__name__)


def run_demo(output: Path) -> dict[str, Any]:
    """Extend, check, train, stop by a real signal, resume, export, speak; print the numbers and draw the losses.

    Args:
        output: a folder that does not exist yet, or one of an earlier demo, which is written over.

    Returns:
        The measured numbers, as they are written to `report.json`.

    Raises:
        CheckFailed: a step did not end as it should, or broke; the message names the step and the log.
        ConfigError: the folder holds something else, or the recipe is not where it should be.
    """
    output = output.absolute()
    _prepare_folder(output)
    steps = _Steps()
    with _logged_to(output / LOG):
        try:
            return _run_steps(output, steps)
        # whatever it is, it ends in one line; the rest stands in the log
        except Exception as error:  # noqa: BLE001
            _fail(error, steps.current, output / LOG)


@contextmanager
def _logged_to(file: Path) -> Iterator[None]:
    """Write what the demo and, in this process, the trainer say to a file as well."""
    handler = logging.FileHandler(file, mode="w", encoding="utf-8")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    loggers = (logger, logging.getLogger("trainer"))
    for one in loggers:
        one.addHandler(handler)
    try:
        yield
    finally:
        for one in loggers:
            one.removeHandler(handler)
        handler.close()


def _fail(error: Exception, step: str, log: Path) -> NoReturn:
    logger.error("The demo failed.", exc_info=error)
    kind = type(error) if isinstance(error, XttsExtendError) else CheckFailed
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise kind(f"The demo failed at step {step}: {reason} The log: {log}") from error


class _Steps:
    """Announces the steps, and knows the current one."""

    def __init__(self) -> None:
        self.current = "0  preparation"

    def begin(self, title: str) -> None:
        self.current = title
        console.rule(f"[bold]{title}", align="left")
        logger.info("===== %s", title)


def _run_steps(output: Path, steps: _Steps) -> dict[str, Any]:
    start = time.monotonic()
    recipe = find_recipe()

    steps.begin("1  a base model that knows English and Spanish")
    base = cached_mini_base()
    console.print(f"{base}")

    steps.begin("2  speech in Amharic, and some in the old languages to see what is kept")
    manifests = speak_corpora(output)

    steps.begin("3  extend the vocabulary")
    vocab = output / "vocab.json"
    report = extend_vocabulary(base / "vocab.json", LANGUAGE, vocab, texts=[output / "am.txt"], size=_VOCABULARY_SIZE)
    check = check_vocabulary(base / "vocab.json", vocab, [output / "en.txt", output / "es.txt"])
    console.print(f"{report.added} entries added, unknown share {report.unknown_share}")

    steps.begin("4  check the data")
    xtts_extend.enable()
    limits = limits_of(NewLanguageConfig())
    data = check_samples(read_manifests([str(manifests["train"])], LANGUAGE), load_tokenizer(vocab), limits)
    console.print(data.summary())

    steps.begin(f"5  train, and stop at step {STOP_AT} with a real signal, in the middle of an epoch")
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
    # conditioning on 1.5 to 3 s, as the base was trained
    command += ["--coqpit.model_args.min_conditioning_length=33075"]
    command += ["--coqpit.model_args.max_conditioning_length=66150", "--coqpit.print_step=20"]
    _run(recipe, command, expected=130, stop_at=STOP_AT)
    (run,) = (output / "runs").glob("xtts-*/")
    stopped = _newest_step(run)

    steps.begin("6  the same run folder again: it continues")
    first = _run(recipe, [f"--checkpoint={run}"], expected=0)
    lines, evaluations = read_metrics(run)

    steps.begin("7  export: the base's own files, and the language as a pack beside them")
    model = output / "am-model"
    exported = export(run, model, base)
    console.print(f"{exported['pack']}: {exported['pack_bytes'] / 1e6:.1f} MB")

    steps.begin("8  speak")
    voice = manifests["train"].parent / "wavs" / f"{LANGUAGE}_00000.wav"
    spoken = speak_to_file(model, LANGUAGE, [voice], SENTENCE, output / "hello.wav", seed=0)
    heard_s = _speak_through_dvae(model, base, voice, output / "hello-griffin-lim.wav")

    steps.begin("9  the old languages: the base's waveforms, sample by sample")
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
        "spoken_griffin_lim_s": heard_s,
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
            raise ConfigError(f"{output} holds files that no demo wrote. Give another --output.")
        for run in (output / "runs").glob("xtts-*"):
            run.rename(output / f"earlier-{run.name}")
        if (output / "am-model").exists():
            (output / "am-model").rename(output / f"earlier-am-model-{time.time_ns()}")
    output.mkdir(parents=True, exist_ok=True)


def speak_corpora(output: Path) -> dict[str, Path]:
    """Speak sentences in the new and the old languages; text files of them lie in `output`.

    Returns:
        Manifests: "train", and one for the evaluation of each language by its code.
    """
    amharic = texts.sentences(LANGUAGE, _TRAIN + _VAL)
    (output / "am.txt").write_text("\n".join(amharic), encoding="utf-8")
    everything = make_corpus(amharic, LANGUAGE, output / "speech" / LANGUAGE)
    samples = read_manifests([str(everything)], LANGUAGE)
    manifests = {"train": everything.with_name("train.csv"), LANGUAGE: everything.with_name("val.csv")}
    write_manifest(samples[:_TRAIN], manifests["train"])
    write_manifest(samples[_TRAIN:], manifests[LANGUAGE])
    for language in texts.BASE_LANGUAGES:
        # the base was trained on the first ones
        unheard = texts.sentences(language, SENTENCES + _VAL)[SENTENCES:]
        (output / f"{language}.txt").write_text("\n".join(unheard), encoding="utf-8")
        manifests[language] = make_corpus(unheard, language, output / "speech" / language)
    return manifests


def _run(recipe: Path, flags: list[str], *, expected: int, stop_at: int | None = None) -> int:
    """Run the recipe in a process of its own, show what it prints, and stop it at a step if asked.

    Returns:
        The first step that it printed.
    """
    console.print(f"python {recipe} {' '.join(flags)}", style="dim", soft_wrap=True)
    process = subprocess.Popen(
        [sys.executable, str(recipe), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    first, signalled = None, False
    try:
        for line in process.stdout or ():
            logger.info("%s", line.rstrip())
            if line.startswith(" > "):
                console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
            found = re.match(r" > step (\d+)/", line)
            if found:
                first = first or int(found.group(1))
                if stop_at is not None and int(found.group(1)) >= stop_at and not signalled:
                    process.send_signal(signal.SIGINT)
                    signalled = True
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if code != expected or first is None:
        raise CheckFailed(f"The recipe ended with exit code {code}, expected {expected}. Its output is in the log.")
    return first


def _newest_step(run: Path) -> int:
    step = xtts_extend.inspect_checkpoint(run).step
    if step is None:
        raise CheckFailed(f"{run} holds no checkpoint with a step.")
    return step


def _by_language(evaluations: list[MetricsLine], step: int) -> dict[str, float]:
    """Mel loss by language, of the evaluation at a step or the last one before it."""
    return {line["language"]: finite(line["loss_mel_ce"]) for line in evaluations if line["step"] <= step}


def _changed_rows(run: Path, base: Path) -> int:
    """How many of the base's token rows differ in the run's newest checkpoint, bit for bit."""
    trained = xtts_weights(load_checkpoint(Path(xtts_extend.inspect_checkpoint(run).path))[0]["model"])
    old = xtts_weights(load_checkpoint(base / "model.pth")[0]["model"])
    changed = 0
    for name in TOKEN_TENSORS:
        rows = old[f"gpt.{name}"]
        differs = trained[f"gpt.{name}"][: len(rows)] != rows
        changed += int(differs.reshape(len(rows), -1).any(dim=1).sum())
    return changed


def _speak_through_dvae(model: Path, base: Path, voice: Path, output: Path) -> float:
    """The mini decoder is untrained; the codes themselves can be heard through DVAE and Griffin-Lim. Seconds spoken."""
    xtts = load_model(model)
    latents = make_voice(xtts, [load_audio(voice, REFERENCE_RATE)]).latents
    tokens = torch.tensor([xtts.tokenizer.encode(SENTENCE, LANGUAGE)])
    torch.manual_seed(0)
    with torch.no_grad(), routed(xtts, LANGUAGE):
        codes = xtts.gpt.generate(
            cond_latents=latents, text_inputs=tokens, do_sample=True, top_k=50, top_p=0.85, temperature=0.75
        )[0]
    dvae = make_dvae(xtts.args.gpt_num_audio_tokens - 2)
    dvae.load_state_dict(load_pickled(base / "dvae.pth", map_location="cpu"))
    mel_stats = load_pickled(base / "mel_stats.pth", map_location="cpu")
    audio = codes_to_audio(codes[codes < xtts.args.gpt_start_audio_token], dvae.eval(), mel_stats)
    save_wav(output, audio, REFERENCE_RATE)
    return len(audio) / REFERENCE_RATE


def compare_waveforms(model: Path, base: Path, voice: Path) -> dict[str, bool]:
    """Whether a model folder speaks a sentence exactly as the base does, by language.

    The last entry is the opposite: a sentence in English that is spoken with what the run learned.

    Args:
        model: a folder with a pack of `LANGUAGE`.
        base: the base's folder.
        voice: a recording of the voice.
    """
    spoken: dict[str, list[torch.Tensor]] = {}
    for folder in (base, model):
        xtts = load_model(folder)
        heard = make_voice(xtts, [load_audio(voice, REFERENCE_RATE)])
        for language in texts.BASE_LANGUAGES:
            spoken.setdefault(language, []).append(_say(xtts, texts.sentences(language, 1)[0], language, heard))
        if folder == model:
            with routed(xtts, LANGUAGE):
                forced = _say(xtts, texts.sentences("en", 1)[0], "en", heard)
    pairs = {**spoken, "en, spoken with the pack": [spoken["en"][0], forced]}
    return {name: torch.equal(*pair) for name, pair in pairs.items()}


def _say(xtts: Xtts, text: str, language: str, voice: Voice) -> torch.Tensor:
    """A sentence as audio (samples,), drawn with the same seed every time."""
    torch.manual_seed(0)
    (said,) = speak_sentences(xtts, [text], language, voice)
    return torch.from_numpy(said[1]["wav"])


def _print_table(numbers: dict[str, Any]) -> None:
    table = Table(title="What was measured", show_header=False)
    table.add_row("steps before the stop", f"{numbers['steps_before_the_stop']}")
    table.add_row("first step after the resume", f"{numbers['first_step_after_the_resume']}")
    table.add_row(
        "step numbers without gap or repeat", "yes" if numbers["step_numbers_without_gap_or_repeat"] else "NO"
    )
    for code, kind in ((LANGUAGE, " (new language)"), *((code, ", if merged") for code in texts.BASE_LANGUAGES)):
        before, after = numbers["loss_before"][code], numbers["loss_after"][code]
        table.add_row(f"mel loss of {code}{kind}", f"{before:.3f} → {after:.3f}")
    table.add_row("old ids changed", f"{numbers['old_ids_changed']}")
    table.add_row("old lines cut differently", f"{numbers['old_lines_cut_differently']}")
    rows = numbers["rows"]
    table.add_row("old rows changed", f"{numbers['old_rows_changed']} of {3 * rows['old']} ({rows['new']} new tokens)")
    for name, same in numbers["waveforms_equal_the_bases"].items():
        table.add_row(f"waveform of {name}", "the base's, sample by sample" if same else "differs from the base's")
    for name, size in numbers["megabytes"].items():
        table.add_row(name, f"{size:.1f} MB")
    table.add_row("spoken", f"{numbers['spoken_s']:.1f} s; as codes {numbers['spoken_griffin_lim_s']:.1f} s")
    table.add_row("time", f"{numbers['minutes']:.1f} min")
    console.print(table)
