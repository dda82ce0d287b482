"""Turn the name of a data set into a local folder with a manifest: download, unpack and convert it once."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from xtts_extend.data.archive_tables import find_table, prepare_tables
from xtts_extend.data.archives import is_archive, unpack
from xtts_extend.data.hub_dataset import HubSplit, find_hub_split
from xtts_extend.data.parquet_set import MANIFEST, choose_parquet_split, convert_parquet, find_splits, warn_of_skipped
from xtts_extend.data.resumable_download import download
from xtts_extend.data.source_spec import DataSource, SourceKind, parquet_files
from xtts_extend.errors import DataError
from xtts_extend.files import atomic_write, cache_folder, file_digest, locked_folder, require_space, size_of

logger = logging.getLogger("trainer")

RECORD = "SOURCE.json"
_DATA, _ARCHIVE = "data", "archive"
#: The files and the revision that an unfinished download began with. A later revision would not match its first files.
_PLAN, _PARQUET = "plan.json", "parquet"
_LICENSE_FILE = re.compile(r"(un)?licen[cs]e.*|copying.*", re.IGNORECASE)
#: The license in the header of a card, as a value or as the first item of a list.
_CARD_LICENSE = re.compile(r"^license:[\s-]*(?P<license>\S.*)$", re.MULTILINE)


@dataclass(frozen=True)
class SourceRecord:
    """What is known about a data set, as `SOURCE.json` beside it.

    Attributes:
        source: Its name, as the user passed it.
        url: Where it comes from, without secrets.
        revision: Commit on the hub, or SHA-256 of the archive; "" for local files.
        license: The license that the source states, or "".
        license_files: Files with the license, relative to the data.
        date: When it was complete, in UTC, in ISO 8601.
    """

    source: str
    url: str
    revision: str
    license: str
    license_files: tuple[str, ...]
    date: str


@dataclass(frozen=True)
class LocalData:
    """A data set on this machine.

    Attributes:
        folder: Folder with its files.
        manifest: Its manifest, or None if an archive contains no table of texts.
        record: Where it comes from.
    """

    folder: Path
    manifest: Path | None
    record: SourceRecord


def default_cache() -> Path:
    """Return the folder in the user's cache where data sets are kept."""
    return cache_folder() / "sources"


def resolve_source(source: DataSource, cache: Path | None = None, *, progress: bool = True) -> LocalData:
    """Return a data set's local copy, which is made on the first call.

    A finished copy is used as it is, without asking the hub or the server. An interrupted download, unpacking or
    conversion is resumed. Only one process at a time works on a data set; others wait for it.

    Args:
        source: The data set.
        cache: Folder for the copies of data sets; by default, the one in the user's cache.
        progress: Whether to show progress.

    Raises:
        ConfigError: There is no such configuration or split, or access has not been granted.
        DataError: The data set does not exist, is damaged or contains no recordings.
        MachineError: There is no connection, or a file cannot be written.
    """
    folder = (cache or default_cache()) / source.folder_name
    data = folder / _DATA
    record = _read_record(folder)
    if record is None:
        with locked_folder(folder, f"Waiting for another process that is preparing {source}."):
            record = _read_record(folder) or _fetch(source, folder, data, progress)
    _log_once(f"{source} is in {data}. {_describe_license(record, data)}")
    warn_of_skipped(data)
    if source.kind in (SourceKind.HUB, SourceKind.PARQUET):
        return LocalData(data, data / MANIFEST, record)
    return LocalData(data, find_table(data, source.split, str(source)), record)


def require_manifest(source: DataSource, local: LocalData) -> Path:
    """Return a data set's manifest.

    Raises:
        DataError: It has none.
    """
    if local.manifest is None:
        raise DataError(
            f"{source} contains no table of texts, such as train.tsv, metadata.csv or line_index.tsv. Its files are in "
            f"{local.folder}. Long recordings with their texts are for make-dataset."
        )
    return local.manifest


@cache
def _log_once(message: str) -> None:
    logger.info(" > %s", message)


def _fetch(source: DataSource, folder: Path, data: Path, progress: bool) -> SourceRecord:
    """Download, unpack or convert a data set, and write its record last."""
    license, revision, url = "", "", source.public_location
    if source.kind is SourceKind.HUB:
        split = _fetch_from_hub(source, folder, data, progress)
        license, revision, url = split.repository.licence, split.repository.commit, split.repository.page
    elif source.kind is SourceKind.PARQUET:
        _convert_local(source, data, progress)
        license = _license_of_card(Path(source.location))
    else:
        revision = _fetch_archive(source, folder, data, progress)
        license = _license_of_card(data)
    files = tuple(path.relative_to(data).as_posix() for path in _license_files(data))
    if source.kind is SourceKind.PARQUET:
        files = tuple(str(path) for path in _license_files(Path(source.location)))
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = SourceRecord(str(source), url, revision, license, files, date)
    with atomic_write(folder / RECORD) as file:
        file.write(json.dumps(asdict(record), ensure_ascii=False, indent=2).encode())
    # It would take as much space again.
    (folder / _ARCHIVE).unlink(missing_ok=True)
    return record


def _fetch_from_hub(source: DataSource, folder: Path, data: Path, progress: bool) -> HubSplit:
    split = _read_plan(folder / _PLAN)
    if split is None:
        split = find_hub_split(source.location, source.config, source.split)
        with atomic_write(folder / _PLAN) as file:
            file.write(json.dumps(split.to_dict(), ensure_ascii=False).encode())
    files = split.repository.files
    sizes = [file.size_bytes for file in files.values()]
    logger.info(
        " > Downloading %s: split %s%s, Parquet files: %d (%.2f GB).",
        source,
        split.split,
        f" of {split.config}" if split.config else "",
        len(files),
        sum(sizes) / 1e9,
    )
    # Each file is removed once it is converted.
    needed = sum(sizes) + max(sizes, default=0) - size_of(folder)
    require_space(folder, needed, str(source))

    def fetch(name: str) -> Path:
        number, size_bytes = list(files).index(name) + 1, files[name].size_bytes
        logger.info(" > Downloading %s (file %d of %d, %.1f MB).", name, number, len(files), size_bytes / 1e6)
        split.repository.download(name, folder / _PARQUET / name)
        return folder / _PARQUET / name

    convert_parquet(list(files), fetch, Path.unlink, data, progress)
    shutil.rmtree(folder / _PARQUET, ignore_errors=True)
    return split


def _convert_local(source: DataSource, data: Path, progress: bool) -> None:
    root = Path(source.location)
    names = [path.relative_to(root).as_posix() for path in parquet_files(root)]
    split = choose_parquet_split(find_splits(names), "", source.split, str(source))
    logger.info(" > Converting split %s of %s, Parquet files: %d.", split.split, root, len(split.files))
    convert_parquet(split.files, root.joinpath, lambda path: None, data, progress)


def _fetch_archive(source: DataSource, folder: Path, data: Path, progress: bool) -> str:
    """Unpack an archive, after downloading it if necessary, and return the SHA-256 of a downloaded one."""
    archive, digest = Path(source.location), ""
    if source.kind is SourceKind.URL:
        archive = folder / _ARCHIVE
        if not archive.is_file():
            logger.info(" > Downloading %s.", source)
            download(source.location, archive, shown=source.public_location, digest=source.digest, progress=progress)
        digest = file_digest(archive)
        if not is_archive(archive):
            archive.unlink()
            raise DataError(
                f"The file from {source} is not a .zip, .tar or .tar.gz archive. It was deleted. Check the URL."
            )
    logger.info(" > Unpacking %s.", source)
    try:
        unpack(archive, data, progress=progress)
    except DataError:
        if source.kind is SourceKind.URL:
            # Otherwise, the next call would fail in the same way, although the server may have repaired the file.
            archive.unlink()
        raise
    prepare_tables(data)
    return digest


def _read_record(folder: Path) -> SourceRecord | None:
    """Return a data set's record, or None if the data set is not complete."""
    try:
        values: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = SourceRecord(**{**values, "license_files": tuple(values["license_files"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if (folder / _DATA).is_dir() else None


def _read_plan(file: Path) -> HubSplit | None:
    try:
        return HubSplit.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _license_files(folder: Path) -> Iterator[Path]:
    """Yield the license files in a folder and its subfolders."""
    for parent, subfolders, names in os.walk(folder):
        subfolders.sort()
        yield from (Path(parent, name) for name in sorted(names) if _LICENSE_FILE.fullmatch(name))


def _license_of_card(folder: Path) -> str:
    """Return the license that a data set's card, README.md, states, or ""."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    header = card.split("\n---", 1)[0] if card.startswith("---") else ""
    match = _CARD_LICENSE.search(header)
    return match["license"].strip().strip("\"'") if match else ""


def _describe_license(record: SourceRecord, data: Path) -> str:
    stated = [record.license] if record.license else []
    stated += [str(data / name) for name in record.license_files[:3]]
    if stated:
        return f"License: {', '.join(stated)}."
    return "Its license is not stated in the data; look it up where the data set is published."
