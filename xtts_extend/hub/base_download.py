"""Download a base model into a folder: its license, then the files that are missing or differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.files import atomic_write, require_creatable, require_space, size_of
from xtts_extend.hub_client.access import XTTS_LICENCE, XTTS_LICENCE_ID, XTTS_REPOSITORY
from xtts_extend.hub_client.repository import Repository
from xtts_extend.setup.base import FILES

#: The built-in voices, which training does not need.
_SPEAKERS = "speakers_xtts.pth"
LICENCE_FILES = ("LICENSE.txt", "LICENSE", "LICENSE.md")
#: Larger files are not license texts.
_LONGEST_LICENCE_BYTES = 1 << 20


@dataclass(frozen=True)
class Licence:
    """The license of a repository.

    Attributes:
        name: The license's name; empty if the repository states none.
        link: Address where the license can be read.
        file: Name of the file with the text; empty if the repository has none.
        content: That file's contents.
    """

    name: str
    link: str
    file: str = ""
    content: bytes = b""

    @property
    def text(self) -> str:
        """The license's text without control characters, which could change what a terminal shows."""
        decoded = self.content.decode("utf-8", errors="replace")
        return "".join(letter for letter in decoded if letter.isprintable() or letter in "\n\t").strip()


def find_base(repo: str) -> Repository:
    """Return the repository of a base model.

    Raises:
        ConfigError: It does not exist, is gated, or is not the repository of a base model.
        MachineError: The Hub cannot be reached.
    """
    repository = Repository.open(repo)
    if missing := [name for name in FILES if name not in repository.files]:
        raise ConfigError(
            f"{repo} has no {' and no '.join(missing)}, so it is not a base model. Pass the repository of an XTTS-v2 "
            "base model with --repo."
        )
    return repository


def licence_of(repository: Repository) -> Licence:
    """Return a repository's license.

    Raises:
        ConfigError, MachineError: The text cannot be downloaded.
    """
    is_xtts = repository.name == XTTS_REPOSITORY or repository.licence_id == XTTS_LICENCE_ID
    name = XTTS_LICENCE if is_xtts else repository.licence_id
    for file in LICENCE_FILES:
        if file in repository.files and repository.files[file].size_bytes <= _LONGEST_LICENCE_BYTES:
            return Licence(name, f"{repository.page}/blob/main/{file}", file, repository.read(file))
    return Licence(name, repository.page)


def download_base(repository: Repository, licence: Licence, output: Path, report: Callable[[str], None]) -> None:
    """Download the files of a base model that a folder does not have yet.

    A file with the right name and different contents is replaced. An interrupted download resumes at the next call.

    Args:
        repository: The base model's repository.
        licence: Its license, which is written beside the files.
        output: The folder, which is created if needed.
        report: Function that shows a line to the user.

    Raises:
        ConfigError: `output` or one of its parents is a file.
        MachineError: The Hub cannot be reached, the disk is full or not writable, or another process is downloading
            into the same folder.
    """
    require_creatable(output)
    names = [*FILES, *([_SPEAKERS] if _SPEAKERS in repository.files else [])]
    if _SPEAKERS not in repository.files:
        report(f"{repository.name} has no {_SPEAKERS}. Continuing without the built-in voices.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with FileLock(output / ".lock").acquire(timeout=0):
            missing = [name for name in names if not _is_complete(repository, name, output, report)]
            files = {name: repository.files[name] for name in missing}
            here = {name: size_of(file.partial(output / name)) for name, file in files.items()}
            needed = sum(max(0, file.size_bytes - here[name]) for name, file in files.items())
            require_space(output, needed, repository.name)
            if licence.file:
                with atomic_write(output / licence.file) as written:
                    written.write(licence.content)
            for name, file in files.items():
                size = f"{file.size_bytes / 1e6:,.1f} MB"
                report(
                    f"Resuming {name} at {here[name] / 1e6:,.1f} of {size}."
                    if here[name]
                    else f"Downloading {name} ({size})."
                )
                repository.download(name, output / name)
    except Timeout as error:
        raise MachineError(f"Another process is downloading into {output}. Wait until it finishes.") from error
    except OSError as error:
        raise MachineError(
            f"{output} cannot be used: {error.strerror or error}. Make the folder readable and writable, or choose a "
            "different --output."
        ) from error


def _is_complete(repository: Repository, name: str, output: Path, report: Callable[[str], None]) -> bool:
    if not (output / name).exists():
        return False
    if repository.files[name].matches(output / name):
        report(f"{name} is already there and has the right digest.")
        return True
    report(f"{output / name} differs from the file in {repository.name}, so it is downloaded again.")
    return False
