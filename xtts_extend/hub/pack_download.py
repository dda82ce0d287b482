"""Find the language pack in a repository on the Hub, and download it."""

from __future__ import annotations

import re
from pathlib import Path

from xtts_extend.errors import PackError
from xtts_extend.files import cache_folder
from xtts_extend.hub_client.repository import Repository
from xtts_extend.pack.file import SUFFIX


def is_repository_name(path: Path) -> bool:
    """Return whether a command's argument names a repository, USER/NAME or USER/NAME@REVISION, rather than a file."""
    name = path.as_posix()
    return (
        not path.exists() and path.suffix != SUFFIX and bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+(@\S+)?", name, re.ASCII))
    )


def download_pack(spec: str) -> Path:
    """Download the only pack in a repository into the user's cache and return the file.

    Args:
        spec: USER/NAME, or USER/NAME@REVISION with a branch, tag or commit.

    Raises:
        ConfigError: The repository does not exist, is gated, or refuses access.
        PackError: It has no pack, or more than one.
        MachineError: The Hub cannot be reached, or the disk is full.
    """
    name, _, revision = spec.partition("@")
    repository = Repository.open(name, revision or None)
    packs = [file for file in repository.files.values() if file.name.endswith(SUFFIX)]
    if len(packs) != 1:
        found = f"{len(packs)} files NAME{SUFFIX} ({', '.join(file.name for file in packs[:10])})" if packs else "none"
        raise PackError(
            f"Expected exactly one language pack, NAME{SUFFIX}, in {spec}; got {found}. Download the right file in a "
            "browser, and pass the file."
        )
    (file,) = packs
    target = cache_folder() / "hub" / name.replace("/", "--") / Path(file.name).name
    repository.download(file.name, target)
    return target
