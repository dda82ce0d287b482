"""Publish language packs and exported model folders on the Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd

from xtts_extend.checkpoint.integrity import require_intact
from xtts_extend.errors import ConfigError, MachineError, XttsExtendError
from xtts_extend.hub.base_download import LICENCE_FILES
from xtts_extend.hub.hub_card import Published, hub_card
from xtts_extend.hub_client.access import (
    XTTS_LICENCE,
    endpoint,
    hub_api,
    hub_errors,
    redacted,
    require_repository_name,
    require_token,
)
from xtts_extend.hub_client.repository import Repository
from xtts_extend.pack.file import SUFFIX, Pack
from xtts_extend.pack.model_folder import PACKS, ModelFolder
from xtts_extend.text.languages import validate_code

#: Files of a model folder that are published if they exist, besides its packs.
_FOLDER_FILES = ("config.json", "model.pth", "vocab.json", "speakers_xtts.pth", "dvae.pth", "mel_stats.pth")
#: File that `export --merged` writes. It is not published, because it contains paths of the user's machine.
_MERGED = "xtts_extend.json"


@dataclass(frozen=True)
class Upload:
    """Checked files that can be uploaded.

    Attributes:
        published: What the model card describes.
        files: Path in the repository → local file, without the card.
        private: Whether a new repository is created as private.
    """

    published: Published
    files: Mapping[str, Path]
    private: bool

    @property
    def size_bytes(self) -> int:
        """Size of all files, without the card."""
        return sum(file.stat().st_size for file in self.files.values())


def prepare(path: Path, repo: str, base_repo: str, *, private: bool) -> Upload:
    """Check a pack or a model folder and return what can be uploaded. Nothing is sent.

    Args:
        path: A language pack, or a folder written by `xtts-extend export`.
        repo: The repository to publish to, USER/NAME.
        base_repo: The repository of the base that the packs were made for.
        private: Whether a new repository is created as private.

    Raises:
        ConfigError: A name is malformed, the folder is not a model folder, or the user is not logged in.
        PackError: A pack is damaged or does not match its base.
        CheckpointError: `model.pth` is damaged.
    """
    require_repository_name(repo)
    require_repository_name(base_repo)
    require_token()
    if not path.is_dir():
        pack = Pack.open(path)
        pack.require_intact()
        published = Published(repo, base_repo, [pack.info.language], [pack.info], contains_base=False)
        return Upload(published, {f"{pack.info.language}{SUFFIX}": path}, private)
    folder = ModelFolder(path)
    packs = folder.packs()
    for pack in packs.values():
        pack.require_intact()
    require_intact(folder.model)
    languages, steps = (list(packs), None) if packs else _merged(path)
    files = {name: path / name for name in (*_FOLDER_FILES, *LICENCE_FILES) if (path / name).is_file()}
    files |= {f"{PACKS}/{language}{SUFFIX}": pack.path for language, pack in packs.items()}
    infos = [pack.info for pack in packs.values()]
    return Upload(Published(repo, base_repo, languages, infos, contains_base=True, steps=steps), files, private)


def publish(upload: Upload) -> dict[str, Any]:
    """Create the repository if it does not exist, and upload the files and the model card in one commit.

    Returns:
        `repo`, `url`, `private`, `files`, `size_bytes`, `languages`, `licence`, `contains_base` and `commit`.

    Raises:
        ConfigError: The repository refuses access, is public although it should be private, or has other packs.
        MachineError: The Hub cannot be reached, or the upload failed.
    """
    published, repo = upload.published, upload.published.repo
    with hub_errors(repo):
        is_new = not hub_api().repo_exists(repo)
        if is_new:
            hub_api().create_repo(repo, private=upload.private, exist_ok=True)
    existing = Repository.open(repo)
    if upload.private and not existing.is_private:
        raise ConfigError(
            f"{repo} already exists and is public, so --private cannot be met. Nothing was uploaded. Make it private "
            f"at {endpoint()}/{repo}/settings, or choose a different --repo."
        )
    _require_no_other_pack(existing, upload)
    operations = [CommitOperationAdd(name, str(file)) for name, file in upload.files.items()]
    card = CommitOperationAdd("README.md", hub_card(published).encode())
    languages = ", ".join(published.languages)
    try:
        with hub_errors(repo):
            commit = hub_api().create_commit(
                repo, [*operations, card], commit_message=f"Publish {languages or 'the model'} with xtts_extend"
            )
    except XttsExtendError:
        raise
    # What the upload's threads and hf_xet raise, and errors in the card's metadata.
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"The upload to {repo} failed: {redacted(error.__cause__ or error)}. Run the command again; data that "
            "has arrived is not sent again."
        ) from None
    return {
        "repo": repo,
        "url": f"{endpoint()}/{repo}",
        "private": existing.is_private,
        "files": [*upload.files, "README.md"],
        "size_bytes": upload.size_bytes,
        "languages": list(published.languages),
        "licence": published.licence,
        "contains_base": published.contains_base,
        "commit": commit.oid,
    }


def licence_notice(published: Published) -> str:
    """Return what a user should know about licenses before the upload."""
    if published.contains_base:
        weights = f"The upload contains the weights of the base model {published.base_repo}."
    else:
        weights = f"The pack was trained from {published.base_repo}, whose license applies to it."
    if published.is_xtts:
        return (
            f"{weights} The model card states their license, the {XTTS_LICENCE}, which allows non-commercial use only."
        )
    return f"{weights} Make sure that its license allows publishing."


def _merged(path: Path) -> tuple[list[str], int | None]:
    """Return the language and the steps of merged weights, as far as they are known."""
    try:
        values = json.loads((path / _MERGED).read_text(encoding="utf-8"))
        language, steps = str(values["language"]), int(values["step"] or 0) or None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path} has neither language packs nor a readable {_MERGED}, so it is a base model or not an export. Pass "
            "a pack, or a folder written by `xtts-extend export`."
        ) from None
    try:
        return [validate_code(language)], steps
    except XttsExtendError:
        # A run of the stock Trainer does not record its language.
        return [], steps


def _require_no_other_pack(existing: Repository, upload: Upload) -> None:
    others = [name for name in existing.files if name.endswith(SUFFIX) and name not in upload.files]
    if others and not upload.published.contains_base:
        raise ConfigError(
            f"{existing.name} already contains a different pack: {', '.join(others[:10])}. `xtts-extend pack add` "
            "expects one pack in a repository. Nothing was uploaded. Choose a different --repo for each language."
        )
