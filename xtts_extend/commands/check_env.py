"""`xtts-extend check-env`: test the installation, for bug reports.

This compares package versions with the tested ones and then runs everything once on a tiny model: training for one
step, writing and reading a checkpoint, and generating and decoding a sentence. Heavy modules are imported only
inside these trials.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import xtts_extend
from xtts_extend.commands.common import add_json, show_findings
from xtts_extend.environment import TESTED, conflicts, installed_versions, newer_than_tested
from xtts_extend.findings import Finding

HELP = "Test the installation and report problems."

_LANGUAGE = "en"
#: Maximum length, in characters, of an error message in a finding.
_MESSAGE_LENGTH = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    # This command itself reports conflicts.
    parser.set_defaults(needs_coqui=False)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; return 1 if something does not work."""
    return show_findings(check_environment(), args.json)


def check_environment() -> Iterator[Finding]:
    """Check Python, the machine and the packages, and then train, save, load and use a tiny model.

    Yields:
        Each finding as soon as it is known. After a failed trial, later trials are skipped.
    """
    supported = (3, 10) <= sys.version_info < (3, 14)
    yield Finding("Python 3.10 to 3.13", f"{platform.python_version()} ({sys.executable})", supported)
    yield Finding("platform", platform.platform(), None)
    yield Finding("xtts_extend", f"{xtts_extend.__version__} in {Path(xtts_extend.__file__).parent}", None)
    installed = installed_versions()
    newer = newer_than_tested(installed)
    for package, tested in TESTED.items():
        version = installed.get(package, "not installed")
        is_newer = any(line.startswith(f"{package} ") for line in newer)
        yield Finding(package, f"{version} (tested: {tested}{', this is newer' if is_newer else ''})", None)
    known = conflicts(installed)
    yield Finding("known package conflicts", " ".join(known) or "none", not known)
    unmet = unmet_requirements()
    # Not a failure, because the packages may work with other versions.
    yield Finding("package requirements", "; ".join(unmet) or "all met", None if unmet else True)

    trial = _Trial()
    yield trial.attempt("import coqui-tts and torch", _import)
    if not trial.failed:
        yield from _machine()
    with tempfile.TemporaryDirectory(prefix="xtts-extend-check-") as folder:
        work = Path(folder)
        for assumption, step in (
            ("create a tiny base model", _make_base),
            ("train one step", _train),
            ("read the checkpoint", _read_checkpoint),
            ("generate and decode a sentence", _speak),
        ):
            if not trial.failed:
                yield trial.attempt(assumption, partial(step, work))


def unmet_requirements() -> list[str]:
    """Return a description of each unmet requirement of this package and, recursively, of the packages it requires."""
    # Imported here because at the top it would slow down `--help` by a fifth.
    from packaging.requirements import Requirement

    unmet: list[str] = []
    seen = set()
    queue = [("this checkout", Requirement("xtts_extend"))]
    while queue:
        dependent, requirement = queue.pop()
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{dependent} requires {requirement.name}, which is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{dependent} requires {requirement.name} {requirement.specifier}, but {version} is installed")
        if requirement.name not in seen:
            seen.add(requirement.name)
            dependencies = map(Requirement, metadata.requires(requirement.name) or ())
            queue += [
                (requirement.name, dependency)
                for dependency in dependencies
                if dependency.marker is None or dependency.marker.evaluate({"extra": ""})
            ]
    return unmet


class _Trial:
    """A runner for steps that may fail in any way. It captures their output and records whether one has failed."""

    def __init__(self) -> None:
        self.failed = False

    def attempt(self, assumption: str, step: Callable[[], str]) -> Finding:
        start, output = time.monotonic(), io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                result = step()
        # Any error becomes a finding, so that the remaining checks are still reported.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self.failed = True
            message = f"{type(error).__name__}: {error}".replace("\n", " ")[:_MESSAGE_LENGTH]
            print(output.getvalue(), "".join(traceback.format_exception(error)), sep="", file=sys.stderr)
            return Finding(assumption, message, False)
        return Finding(assumption, f"{result}, {time.monotonic() - start:.1f} s", True)


def _import() -> str:
    import torchaudio
    import trainer
    import transformers

    from xtts_extend.training.trainer import ResumableTrainer

    names = (torchaudio, trainer, transformers, sys.modules[ResumableTrainer.__module__])
    return ", ".join(module.__name__ for module in names)


def _machine() -> Iterator[Finding]:
    import psutil
    import torch

    from xtts_extend.setup.hardware import has_bf16

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Finding(
                f"GPU {index}",
                f"{properties.name}, {properties.total_memory / 1e9:.1f} GB, compute capability "
                f"{properties.major}.{properties.minor}",
                None,
            )
    else:
        yield Finding("GPU", "torch detects no GPU, so training will be slow", None)
    yield Finding("torch's CUDA version", torch.version.cuda or "none", None)
    yield Finding("bfloat16", "supported in hardware" if has_bf16() else "not supported in hardware", None)
    memory = psutil.virtual_memory()
    yield Finding("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free", None)
    yield Finding("CPUs", f"{os.cpu_count()}; number of threads that torch uses: {torch.get_num_threads()}", None)
    disk = shutil.disk_usage(Path.cwd())
    yield Finding("disk", f"{disk.free / 1e9:.1f} GB free in {Path.cwd()}", None)


def _make_base(work: Path) -> str:
    from xtts_extend.demo.mini_base import make_mini_base

    make_mini_base(work / "base", layers=1, channels=32, heads=1, progress=False)
    return "layers: 1, channels: 32"


def _train(work: Path) -> str:
    import torch

    from xtts_extend.data.audio import save_wav
    from xtts_extend.demo.mini_base import train_base
    from xtts_extend.model.voice import REFERENCE_RATE

    manifest = work / "train.csv"
    lines = ["audio_file|text|speaker_name"]
    for index in range(4):
        save_wav(work / f"{index}.wav", 0.1 * torch.randn(1, 2 * REFERENCE_RATE), REFERENCE_RATE)
        lines.append(f"{index}.wav|this is a sentence|voice")
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    train_base(work / "base", {_LANGUAGE: manifest}, work / "runs", steps=1, seed=0)
    return "with the recipe's trainer"


def _read_checkpoint(work: Path) -> str:
    info = xtts_extend.inspect_checkpoint(*(work / "runs").glob("xtts-*/checkpoint_1.pth"))
    if (info.kind, info.step) != ("training", 1):
        raise RuntimeError(f"Expected a training checkpoint from step 1, got {info}.")
    return f"{info.size_bytes / 1e6:.0f} MB, {info.kind}, step {info.step}"


def _speak(work: Path) -> str:
    from xtts_extend.speech.speaking import speak_to_file

    spoken = speak_to_file(work / "base", _LANGUAGE, [work / "0.wav"], "Hello.", work / "hello.wav", seed=0)
    return f"{spoken['audio_s']:.1f} s of audio"
