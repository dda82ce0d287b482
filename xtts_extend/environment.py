"""Check for installed packages that are known not to work together, before any of them is imported.

The versions come from `importlib.metadata` alone, because a broken combination may fail at `import torch` or `import
TTS`, or only hours later, when the first sentence is spoken. This matters on Colab, Kaggle and Lightning, where
packages are preinstalled.
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

#: The newest versions that the tests have run with; constraints.txt lists the same ones.
TESTED = {
    "coqui-tts": "0.28.0",
    "coqui-tts-trainer": "0.4.0",
    "coqpit-config": "0.2.5",
    "torch": "2.11.0",
    "torchaudio": "2.11.0",
    "torchcodec": "0.11.1",
    "transformers": "5.23.0",
    "huggingface-hub": "2.4.0",
    "tokenizers": "0.23.3",
    "peft": "0.21.2",
    "sentencepiece": "0.2.3",
    "protobuf": "7.36.2",
    "num2words": "0.5.14",
    "pysbd": "0.3.4",
    "tensorboard": "2.21.0",
    "silero-vad": "6.2.3",
}
#: Environment variable that, if set to 1, turns known conflicts into warnings, for users who have patched a package.
IGNORE_VARIABLE = "XTTS_EXTEND_IGNORE_CONFLICTS"

_TORCH_FIX = '"torch>=2.9,<2.12" "torchaudio>=2.9,<2.11.1" "torchcodec>=0.9,<0.12"'


@dataclass(frozen=True)
class Conflict:
    """A combination of packages that is known not to work.

    Attributes:
        versions: Version specifier of each package. "" means any version, and None means that the package is not
            installed. The conflict applies when all the packages match.
        effect: What breaks, worded as the end of a sentence.
        fix: The commands that resolve the conflict.
    """

    versions: Mapping[str, str | None]
    effect: str
    fix: str

    def applies(self, installed: Mapping[str, str]) -> bool:
        """Return whether the installed versions match this combination."""
        return all(
            package not in installed if specifier is None else _satisfies(installed.get(package), specifier)
            for package, specifier in self.versions.items()
        )

    def describe(self, installed: Mapping[str, str]) -> str:
        """Return one line that says what is installed, what breaks and which command to run."""
        present = " with ".join(f"{package} {installed[package]}" for package in self.versions if package in installed)
        missing = " and ".join(package for package in self.versions if package not in installed)
        if not present:
            return f"{missing} is not installed: {self.effect}. Run `{self.fix}`."
        return f"{present}{f' without {missing}' if missing else ''} does not work: {self.effect}. Run `{self.fix}`."


def _satisfies(version: str | None, specifier: str) -> bool:
    if version is None:
        return False
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidVersion:
        # This is a custom build, so its version number tells us nothing.
        return False


KNOWN_CONFLICTS = (
    Conflict(
        {"transformers": ">=5.24", "coqui-tts": "<0.29"},
        "speech generation fails ('NoneType' object has no attribute 'get_seq_length')",
        'pip install "transformers<5.24"',
    ),
    Conflict(
        {"torch": ">=2.12", "torchaudio": "<2.12"},
        "torchaudio up to 2.11 cannot be imported with this version of torch",
        f"pip install {_TORCH_FIX}",
    ),
    Conflict(
        {"torch": "<2.12", "torchaudio": ">=2.11.1"},
        "torchaudio was compiled for a newer version of torch and cannot be imported",
        f"pip install {_TORCH_FIX}",
    ),
    Conflict(
        {"torch": ">=2.9", "torchaudio": "<2.9"},
        "torchaudio was compiled for an older version of torch and cannot be imported",
        f"pip install {_TORCH_FIX}",
    ),
    Conflict(
        {"torch": ">=2.9", "torchcodec": None},
        "coqui-tts cannot be imported without torchcodec",
        'pip install "torchcodec>=0.9,<0.12"',
    ),
    Conflict(
        {"coqpit": ""},
        "coqui-tts cannot be imported while the original coqpit is installed",
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
        "its trainers and configurations have incompatible signatures",
        'pip install "coqui-tts>=0.28,<0.29"',
    ),
    Conflict(
        {"coqui-tts-trainer": "<0.4"},
        "the first training step fails ('AdamW' object is not subscriptable)",
        'pip install "coqui-tts-trainer>=0.4,<0.5"',
    ),
    Conflict({"six": None, "coqui-tts": "<0.29"}, "coqui-tts imports six without requiring it", "pip install six"),
    *(
        Conflict({package: None}, "xtts_extend requires it", f'pip install "{requirement}"')
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
    """Return the versions of the packages in `TESTED` and `KNOWN_CONFLICTS` that are installed.

    >>> installed_versions()["torch"]
    '2...'
    """
    versions = {}
    for package in {*TESTED, *(name for conflict in KNOWN_CONFLICTS for name in conflict.versions)}:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        # A folder left behind by a broken installation has no version.
        if version:
            versions[package] = version
    return versions


def conflicts(installed: Mapping[str, str]) -> list[str]:
    """Return one line for each known conflict among these versions; see `Conflict.describe`.

    >>> for line in conflicts(installed_versions() | {"transformers": "5.24.0", "coqui-tts": "0.28.0"}):
    ...     print(line)
    transformers 5.24.0 with coqui-tts 0.28.0 does not work: ...
    """
    return [conflict.describe(installed) for conflict in KNOWN_CONFLICTS if conflict.applies(installed)]


def newer_than_tested(installed: Mapping[str, str]) -> list[str]:
    """Return one string for each package that is newer than the tested version, with both version numbers."""
    return [
        f"{package} {installed[package]} (tested up to {tested})"
        for package, tested in TESTED.items()
        if package in installed and _satisfies(installed[package], f">{tested}")
    ]


def require_environment(written_for: str | None = None) -> None:
    """Raise an error before any heavy import if installed packages are known not to work together.

    Print one warning line to standard error for packages that are newer than the tested versions.

    Args:
        written_for: The xtts_extend release that a copied recipe was written for. The warning line mentions it if a
            different release is installed.

    Raises:
        InstallationError: Packages conflict. The message says what breaks and which command fixes it. With
            `XTTS_EXTEND_IGNORE_CONFLICTS=1`, conflicts are only reported as warnings.
    """
    installed = installed_versions()
    known = conflicts(installed)
    if known and os.environ.get(IGNORE_VARIABLE) != "1":
        raise InstallationError(" ".join(known))
    warnings = known
    if newer := newer_than_tested(installed):
        warnings.append(
            f"Some packages are newer than the tested versions: {', '.join(newer)}. If something fails, run "
            "`xtts-extend check-env`."
        )
    if written_for not in (None, __version__):
        warnings.append(
            f"{sys.argv[0]} was written for xtts_extend {written_for}, but {__version__} is installed. If something "
            "fails, compare the script with the one that `xtts-extend recipe copy` writes."
        )
    # Under torchrun, only one process prints.
    if warnings and os.environ.get("RANK", "0") == "0":
        print(f"warning: {' '.join(warnings)}", file=sys.stderr)
