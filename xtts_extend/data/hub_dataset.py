"""Find the Parquet files of a data set on the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from xtts_extend.data.parquet_set import PARTIAL, ParquetSplit, choose_parquet_split, find_splits
from xtts_extend.errors import DataError
from xtts_extend.hub_client.access import RepositoryKind, RevisionError
from xtts_extend.hub_client.repository import RemoteFile, Repository

logger = logging.getLogger("trainer")

#: Branch in which the hub keeps Parquet files that it made from data sets in other formats.
_CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set at a fixed commit.

    Attributes:
        repository: The repository with only the split's Parquet files, in order.
        config, split: Names of the configuration and the split.
    """

    repository: Repository
    config: str
    split: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HubSplit:
        """Return the split that `to_dict` was called on.

        Raises:
            TypeError, KeyError, ValueError: The values are not those of a split.
        """
        fields = dict(values["repository"])
        files = {file["name"]: RemoteFile(**file) for file in dict(fields["files"]).values()}
        repository = Repository(**{**fields, "files": files, "kind": RepositoryKind(fields["kind"])})
        return cls(repository, values["config"], values["split"])


def find_hub_split(repo: str, config: str, split: str) -> HubSplit:
    """Find the Parquet files of a split: in the repository itself or, if it has none, in the hub's conversion.

    Args:
        repo: USER/NAME.
        config: Name of the configuration, or "" for the only or default one.
        split: Name of the split, or "" for the training split.

    Raises:
        ConfigError: There is no such data set, configuration or split, or access has not been granted.
        DataError: The data set has no Parquet files.
        MachineError: The hub cannot be reached.
    """
    where = f"hf:{repo}"
    repository = Repository.open(repo, kind=RepositoryKind.DATA_SET)
    splits = _splits_of_card(repository.card.get("configs"), _parquet_names(repository))
    splits = splits or find_splits(_parquet_names(repository))
    if not splits:
        try:
            converted = Repository.open(repo, _CONVERTED, RepositoryKind.DATA_SET)
        except RevisionError as error:
            raise DataError(
                f"{where} has no Parquet files, and the hub has not converted it to Parquet. Choose another data set, "
                "or download its files, write a manifest, and pass that."
            ) from error
        repository = replace(converted, card=repository.card)
        splits = find_splits(_parquet_names(repository))
    if not splits:
        raise DataError(f"{where} has no Parquet files. Choose another data set.")
    chosen = choose_parquet_split(splits, config, split, where)
    if any(part.startswith(PARTIAL) for name in chosen.files for part in name.split("/")):
        logger.warning(" ! %s: The hub has converted only the first part of this data set to Parquet.", where)
    files = {name: repository.files[name] for name in chosen.files}
    return HubSplit(replace(repository, files=files), chosen.config, chosen.split)


def _parquet_names(repository: Repository) -> list[str]:
    return [name for name in repository.files if name.endswith(".parquet")]


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
