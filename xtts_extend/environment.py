"""Installed packages that are known not to work together, named before any of them is imported.

Read from `importlib.metadata` alone: a broken combination may fail at `import torch` or `import TTS` already, or only
after hours, when the first sentence is spoken. Colab, Kaggle and Lightning come with packages installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from xtts_extend import __version__
from xtts_extend.errors import InstallationError

#: The newest versions that the tests ran with, those of constraints.txt.
TESTED = {
    "coqui-tts": "0.28.0",
    "coqui-tts-trainer": "0.4.0",
    "coqpit-config": "0.2.5",
    "torch": "2.11.0",
    "torchaudio": "2.11.0",
    "torchcodec": "0.11.1",
    "transformers": "5.23.0",
    "tokenizers": "0.23.3",
    "peft": "0.21.2",
    "sentencepiece": "0.2.3",
    "protobuf": "7.36.2",
    "num2words": "0.5.14",
    "pysbd": "0.3.4",
    "tensorboard": "2.21.0",
}
#: Set to 1, known conflicts are warnings: for whoever has patched a package, and to see what else breaks.
IGNORE_VARIABLE = "XTTS_EXTEND_IGNORE_CONFLICTS"

_TORCH_FIX = '"torch>=2.9,<2.12" "torchaudio>=2.9,<2.11.1" "torchcodec>=0.9,<0.12"'


@dataclass(frozen=True)
class Conflict:
    """A combination that is known not to work.

    Attributes:
        versions: package → a version specifier; "" is any version, None that it is not installed. The combination is
            there when all of them hold.
        effect: what breaks, as the end of a sentence.
        fix: the commands that fix it.
    """

    versions: Mapping[str, str | None]
    effect: str
    fix: str

    def applies(self, installed: Mapping[str, str]) -> bool:
        """Whether these installed versions are the combination."""
        return all(
            package not in installed if specifier is None else _within(installed.get(package), specifier)
            for package, specifier in self.versions.items()
        )

    def describe(self, installed: Mapping[str, str]) -> str:
        """One line: what is installed, what breaks, and what to type."""
        found = " with ".join(f"{package} {installed[package]}" for package in self.versions if package in installed)
        missing = " and ".join(package for package in self.versions if package not in installed)
        if not found:
            return f"{missing} is not installed: {self.effect}. Run `{self.fix}`."
        return f"{found}{f' without {missing}' if missing else ''} does not work: {self.effect}. Run `{self.fix}`."


def _within(version: str | None, specifier: str) -> bool:
    if version is None:
        return False
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidVersion:
        # a build by hand; nothing is known of it
        return False


KNOWN_CONFLICTS = (
    Conflict(
        {"transformers": ">=5.24", "coqui-tts": "<0.29"},
        "no sentence can be generated ('NoneType' object has no attribute 'get_seq_length')",
        'pip install "transformers<5.24"',
    ),
    Conflict(
        {"torch": ">=2.12", "torchaudio": "<2.12"},
        "torchaudio up to 2.11 cannot be imported beside it",
        f"pip install {_TORCH_FIX}",
    ),
    Conflict(
        {"torch": "<2.12", "torchaudio": ">=2.11.1"},
        "torchaudio was compiled for a newer torch and cannot be imported",
        f"pip install {_TORCH_FIX}",
    ),
    Conflict(
        {"torch": ">=2.9", "torchaudio": "<2.9"},
        "torchaudio was compiled for an older torch and cannot be imported",
        f"pip install {_TORCH_FIX}",
    ),
    Conflict(
        {"torch": ">=2.9", "torchcodec": None},
        "coqui-tts cannot be imported without torchcodec",
        'pip install "torchcodec>=0.9,<0.12"',
    ),
    Conflict(
        {"coqpit": ""},
        "coqui-tts cannot be imported beside the original coqpit",
        "pip uninstall --yes coqpit && pip install --force-reinstall --no-deps coqpit-config",
    ),
    Conflict(
        {"TTS": ""},
        "the original Coqui TTS overwrites modules of coqui-tts",
        'pip uninstall --yes TTS && pip install --force-reinstall --no-deps "coqui-tts>=0.28,<0.29"',
    ),
    Conflict(
        {"trainer": "", "coqui-tts-trainer": ""},
        "the original trainer overwrites modules of coqui-tts-trainer",
        'pip uninstall --yes trainer && pip install --force-reinstall --no-deps "coqui-tts-trainer>=0.4,<0.5"',
    ),
    Conflict(
        {"coqui-tts": "<0.28"},
        "its trainers and configurations have other signatures",
        'pip install "coqui-tts>=0.28,<0.29"',
    ),
    Conflict(
        {"coqui-tts-trainer": "<0.4"},
        "the first training step fails ('AdamW' object is not subscriptable)",
        'pip install "coqui-tts-trainer>=0.4,<0.5"',
    ),
    Conflict({"six": None, "coqui-tts": "<0.29"}, "coqui-tts imports six and does not install it", "pip install six"),
    *(
        Conflict({package: None}, "nothing works without it", f'pip install "{requirement}"')
        for package, requirement in {
            "coqui-tts": "coqui-tts>=0.28,<0.29",
            "coqui-tts-trainer": "coqui-tts-trainer>=0.4,<0.5",
            "torch": "torch>=2.9,<2.12",
            "torchaudio": "torchaudio>=2.9,<2.11.1",
            "transformers": "transformers<5.24",
        }.items()
    ),
)


def installed_versions() -> dict[str, str]:
    """The versions of the packages that the table of conflicts and the tested versions name, where installed."""
    found = {}
    for package in {*TESTED, *(name for conflict in KNOWN_CONFLICTS for name in conflict.versions)}:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        # a folder that a broken installation left behind has no version
        if version:
            found[package] = version
    return found


def conflicts(installed: Mapping[str, str]) -> list[str]:
    """A line for each known combination that these versions are; see `Conflict.describe`."""
    return [conflict.describe(installed) for conflict in KNOWN_CONFLICTS if conflict.applies(installed)]


def newer_than_tested(installed: Mapping[str, str]) -> list[str]:
    """The packages of these versions that are newer than the tested ones, each with both versions."""
    return [
        f"{package} {installed[package]} (tested up to {tested})"
        for package, tested in TESTED.items()
        if package in installed and _within(installed[package], f">{tested}")
    ]


def require_environment(written_for: str | None = None) -> None:
    """Stop before anything heavy is imported when installed packages are known not to work together.

    Versions that are newer than any tested one are one line on standard error.

    Args:
        written_for: the release of this package that a copied recipe belongs to; that line says so where another one is
            installed.

    Raises:
        InstallationError: each combination, what breaks, and the command that fixes it; unless
            `XTTS_EXTEND_IGNORE_CONFLICTS` is 1.
    """
    installed = installed_versions()
    known = conflicts(installed)
    if known and os.environ.get(IGNORE_VARIABLE) != "1":
        raise InstallationError(" ".join(known))
    warnings = known
    if newer := newer_than_tested(installed):
        warnings.append(f"Newer than tested: {', '.join(newer)}. If something fails, run xtts-extend check-env.")
    if written_for not in (None, __version__):
        warnings.append(
            f"{sys.argv[0]} belongs to xtts_extend {written_for}, and {__version__} is installed. If something fails, "
            "compare it with what `xtts-extend recipe copy` writes."
        )
    # under torchrun one process speaks for all
    if warnings and os.environ.get("RANK", "0") == "0":
        print(f"warning: {' '.join(warnings)}", file=sys.stderr)
