"""Find and download the Parquet files of a data set on the Hugging Face hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, errors, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import DatasetInfo, RepoSibling

from xtts_extend.data.encoded import file_digest
from xtts_extend.data.parquet_set import PARTIAL, ParquetSplit, choose_parquet_split, find_splits
from xtts_extend.data.resumable_download import download
from xtts_extend.errors import ConfigError, DataError, MachineError

logger = logging.getLogger("trainer")

#: Base class of the errors of the hub's HTTP library, whichever library that is.
_HTTP_ERROR: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
#: Branch in which the hub keeps Parquet files that it made from data sets in other formats.
_CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class HubFile:
    """A file in a repository.

    Attributes:
        name: Path in the repository.
        size_bytes: Size, or None if the hub does not state it.
        sha256: SHA-256 that the hub states, or "".
    """

    name: str
    size_bytes: int | None
    sha256: str


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set at a fixed revision.

    Attributes:
        repo: USER/NAME.
        revision: Commit that contains the files, 40 hexadecimal digits.
        config, split: Names of the configuration and the split.
        files: The Parquet files, in order.
        license: The license that the data set's card states, or "".
    """

    repo: str
    revision: str
    config: str
    split: str
    files: tuple[HubFile, ...]
    license: str

    @property
    def url(self) -> str:
        """Page of the data set."""
        return f"{_endpoint()}/datasets/{self.repo}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return {**vars(self), "files": [vars(file) for file in self.files]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HubSplit:
        """Return the split that `to_dict` was called on.

        Raises:
            TypeError, KeyError: The values are not those of a split.
        """
        return cls(**{**values, "files": tuple(HubFile(**file) for file in values["files"])})


def find_hub_split(repo: str, config: str, split: str) -> HubSplit:
    """Find the Parquet files of a split: in the repository itself or, if it has none, in the hub's conversion.

    Args:
        repo: USER/NAME.
        config: Name of the configuration, or "" for the only or default one.
        split: Name of the split, or "" for the training split.

    Raises:
        ConfigError: There is no such configuration or split, or access has not been granted.
        DataError: There is no such data set, or it has no Parquet files.
        MachineError: The hub cannot be reached.
    """
    api = HfApi(endpoint=_endpoint())
    where = f"hf:{repo}"
    with _explained(repo):
        info = api.dataset_info(repo, files_metadata=True)
        card = info.card_data.to_dict() if info.card_data else {}
        splits = _splits_of(card, info)
        if not splits:
            try:
                info = api.dataset_info(repo, revision=_CONVERTED, files_metadata=True)
            except RevisionNotFoundError as error:
                raise DataError(
                    f"{where} has no Parquet files, and the hub has not converted it to Parquet. Choose another data "
                    "set, or download its files, write a manifest, and pass that."
                ) from error
            splits = _splits_of({}, info)
    if not splits:
        raise DataError(f"{where} has no Parquet files. Choose another data set.")
    chosen = choose_parquet_split(splits, config, split, where)
    if any(part.startswith(PARTIAL) for name in chosen.files for part in name.split("/")):
        logger.warning(" ! %s: The hub has converted only the first part of this data set to Parquet.", where)
    by_name = {sibling.rfilename: sibling for sibling in info.siblings or []}
    files = tuple(HubFile(name, by_name[name].size, _sha256_of(by_name[name])) for name in chosen.files)
    return HubSplit(repo, str(info.sha), chosen.config, chosen.split, files, _license_of(card))


def download_hub_file(split: HubSplit, file: HubFile, folder: Path, progress: bool = True) -> Path:
    """Download a file of a split, or resume an earlier attempt, and check its digest.

    `hf_hub_download` does not resume the downloads of an earlier process, and shards have hundreds of megabytes.

    Raises:
        ConfigError: Access has not been granted.
        DataError: The file does not have the digest that the hub states.
        MachineError: The hub cannot be reached, or the disk is full.
    """
    path = folder / file.name
    if path.is_file() and file.sha256 and file_digest(path) == file.sha256:
        return path
    url = hf_hub_url(split.repo, file.name, repo_type="dataset", revision=split.revision, endpoint=_endpoint())
    with _explained(split.repo):
        # Raises if the terms of a gated data set have not been accepted. Their list of files is public.
        get_hf_file_metadata(url, endpoint=_endpoint())
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    digest = f"sha256={file.sha256}" if file.sha256 else ""
    download(url, path, shown=url, digest=digest, headers=headers, progress=progress)
    return path


def _endpoint() -> str:
    """Return the address of the hub, which users set in the environment for mirrors."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn the errors of the hub's library into ours."""
    try:
        yield
    except GatedRepoError as error:
        raise ConfigError(
            f"hf:{repo} asks for the acceptance of its terms. Accept them at {_endpoint()}/datasets/{repo}, then log "
            "in with `hf auth login`, or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"There is no data set hf:{repo}, or it is private. Check the spelling; for a private data set, log in "
            "with `hf auth login`, or set HF_TOKEN."
        ) from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise ConfigError(
                f"The hub refuses access to hf:{repo} ({error.response.status_code}). Log in with `hf auth login`, or "
                "set HF_TOKEN to a token that may read it."
            ) from error
        raise _unreachable(repo, error) from error
    except (_HTTP_ERROR, OSError, ValueError) as error:
        raise _unreachable(repo, error) from error


def _unreachable(repo: str, error: Exception) -> MachineError:
    message = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return MachineError(
        f"hf:{repo} cannot be downloaded from {_endpoint()}: {message}. Check the connection, HF_HUB_OFFLINE and the "
        "free disk space, then run the command again; what has been downloaded is kept."
    )


def _splits_of(card: Mapping[str, Any], info: DatasetInfo) -> list[ParquetSplit]:
    """Return the splits in a repository: as its card lists them or, without such a list, by the files' paths."""
    names = [sibling.rfilename for sibling in info.siblings or [] if sibling.rfilename.endswith(".parquet")]
    return _splits_of_card(card.get("configs"), names) or find_splits(names)


def _sha256_of(sibling: RepoSibling) -> str:
    return sibling.lfs.sha256 if sibling.lfs else ""


def _splits_of_card(configs: Any, names: Sequence[str]) -> list[ParquetSplit]:
    """Return the splits in the `configs` of a card, or an empty list if it has none or their files are not Parquet."""
    splits = []
    for config in configs if isinstance(configs, list) else []:
        files = config.get("data_files") if isinstance(config, dict) else None
        name = str(config.get("config_name", "default")) if files else ""
        if isinstance(files, str) or (isinstance(files, list) and all(isinstance(file, str) for file in files)):
            files = [{"split": "train", "path": files}]
        for entry in files if isinstance(files, list) else []:
            patterns = entry.get("path", []) if isinstance(entry, dict) else []
            matches = _matching(names, [patterns] if isinstance(patterns, str) else patterns)
            if matches:
                splits.append(ParquetSplit(name, str(entry.get("split", "train")), tuple(matches)))
    return splits


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return sorted(name for name in names if any(fnmatchcase(name, str(pattern)) for pattern in patterns))


def _license_of(card: Mapping[str, Any]) -> str:
    """Return the license in a card, with its name and link if it is not a common one."""
    stated = card.get("license") or ""
    parts = [", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)]
    parts += [str(card[key]) for key in ("license_name", "license_link") if card.get(key)]
    return " ".join(filter(None, parts))
