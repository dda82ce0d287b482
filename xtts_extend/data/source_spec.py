"""Parse where a data set comes from: the Hugging Face hub, a URL, a local archive, or a folder of Parquet files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from anyascii import anyascii

from xtts_extend.data.archives import is_archive
from xtts_extend.errors import ConfigError, DataError

T = TypeVar("T")
_HUB = "hf:"
_HUB_SPELLING = re.compile(
    r"hf:(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<config>[\w.+-]+(?:/[\w.+-]+)*))?(?:@(?P<split>[\w.-]+))?"
)
_URL = re.compile(r"https?://", re.IGNORECASE)
_SPLIT = re.compile(r"(?P<location>.+)@(?P<split>[\w.-]+)", re.DOTALL)
_DIGESTS = {"sha256": 64, "md5": 32}
#: Parameters of a URL that grant access for a while, as storage services append them. They do not say what the file is.
_ACCESS = re.compile(
    r"(?i)x-(amz|goog)-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|(access_)?token|"
    r"s(ig|e|p|v|r|t)|skoid|sktid|ske|sks|skv"
)
#: Names of the same split.
_SAME_SPLIT = {"dev": "validation", "val": "validation", "valid": "validation", "eval": "validation"}
DEFAULT_SPLIT = "train"
_LONGEST_NAME = 60
_LISTED = 10


class SourceKind(str, Enum):
    """Where a data set comes from.

    Attributes:
        HUB: A Hugging Face data set in Parquet.
        URL: An archive on a web server.
        ARCHIVE: A local archive.
        PARQUET: A local folder of Parquet files in Hugging Face's layout.
    """

    HUB = "hub"
    URL = "url"
    ARCHIVE = "archive"
    PARQUET = "parquet"


@dataclass(frozen=True)
class DataSource:
    """A data set that has to be downloaded, unpacked or converted before it is read.

    Attributes:
        kind: Where it comes from.
        location: USER/NAME on the hub, the URL without its fragment, or the absolute path.
        config: Configuration (subset) of a data set on the hub, or "".
        split: Split such as "train", or "" for the default.
        digest: Expected digest of the archive as ALGORITHM=HEX, or "" if the user did not state one.
    """

    kind: SourceKind
    location: str
    config: str = ""
    split: str = ""
    digest: str = ""

    def __str__(self) -> str:
        location = f"{_HUB}{self.location}" if self.kind is SourceKind.HUB else self.public_location
        config = f"/{self.config}" if self.config else ""
        return f"{location}{config}{f'@{self.split}' if self.split else ''}"

    @property
    def public_location(self) -> str:
        """The location without passwords and parameters that grant access."""
        if self.kind is not SourceKind.URL:
            return self.location
        parts = urlsplit(self.location)
        kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not _ACCESS.fullmatch(pair[0])]
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, urlencode(kept), ""))

    @property
    def folder_name(self) -> str:
        """Name of the folder that the data set is stored in. It differs if a local file has changed.

        Splits of one archive share a folder, but splits of Parquet files do not, because each is converted by itself.

        Raises:
            DataError: A local file cannot be read.
        """
        identity = [self.kind.value, self.public_location, self.digest]
        if self.kind in (SourceKind.HUB, SourceKind.PARQUET):
            identity += [self.config, self.split]
        try:
            for file in self.local_files():
                stat = file.stat()
                identity += [str(file), str(stat.st_size), str(stat.st_mtime_ns)]
        except OSError as error:
            raise DataError(f"{self.location} cannot be read: {error.strerror}. Check its permissions.") from error
        stem = urlsplit(self.location).path if self.kind is SourceKind.URL else self.location
        name = stem if self.kind is SourceKind.HUB else os.path.basename(stem.rstrip("/"))
        slug = re.sub(r"[^a-z0-9]+", "-", anyascii(f"{name} {self.config}").lower())[:_LONGEST_NAME].strip("-")
        digest = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogateescape")).hexdigest()
        return f"{slug or 'data'}-{digest[:12]}"

    def local_files(self) -> list[Path]:
        """Return the local archive, or the Parquet files of the local folder; an empty list for everything else."""
        if self.kind is SourceKind.ARCHIVE:
            return [Path(self.location)]
        return parquet_files(Path(self.location)) if self.kind is SourceKind.PARQUET else []


def parse_source(spec: str) -> DataSource | None:
    """Parse the name of a data set, or return None for any other path.

    Args:
        spec: `hf:USER/NAME[/CONFIG][@SPLIT]`, the URL of an archive, or the path of a local archive or of a folder of
            Parquet files. A URL and a path may end in `@SPLIT`; a URL may also end in `#sha256=HEX` or `#md5=HEX`.

    Raises:
        ConfigError: A name on the hub or a URL is malformed.

    >>> parse_source("hf:google/fleurs/am_et@validation")
    DataSource(kind=<SourceKind.HUB: 'hub'>, location='google/fleurs', config='am_et', split='validation', digest='')
    """
    if spec.startswith(_HUB):
        match = _HUB_SPELLING.fullmatch(spec)
        if match is None:
            raise ConfigError(
                f"{spec!r} is not the name of a data set on the hub. Expected hf:USER/NAME, hf:USER/NAME/CONFIG or "
                "hf:USER/NAME/CONFIG@SPLIT, for example hf:google/fleurs/am_et@train."
            )
        return DataSource(SourceKind.HUB, match["repo"], match["config"] or "", match["split"] or "")
    if _URL.match(spec):
        return _parse_url(spec)
    path, split = spec, ""
    if not os.path.exists(path) and (match := _SPLIT.fullmatch(spec)) and os.path.exists(match["location"]):
        path, split = match["location"], match["split"]
    local = Path(path)
    if os.path.isdir(path):
        if not parquet_files(local):
            return None
        return DataSource(SourceKind.PARQUET, os.path.abspath(path), split=split)
    return DataSource(SourceKind.ARCHIVE, os.path.abspath(path), split=split) if is_archive(local) else None


def is_remote(spec: str) -> bool:
    """Return whether a name refers to the hub or to a URL, so that it is not a path."""
    return spec.startswith(_HUB) or _URL.match(spec) is not None


def _parse_url(spec: str) -> DataSource:
    url, _, fragment = spec.partition("#")
    # A name and a password in front of the host also end in "@".
    folder, slash, name = url.rpartition("/")
    match = _SPLIT.fullmatch(name)
    split = match["split"] if match else ""
    url = f"{folder}{slash}{match['location'] if match else name}"
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise ConfigError(f"{spec!r} is not a URL. Expected https://HOST/ARCHIVE.tar.gz or another archive.")
    fragment, _, late_split = fragment.partition("@")
    algorithm, _, value = fragment.partition("=")
    if fragment and not re.fullmatch(rf"(?i)[0-9a-f]{{{_DIGESTS.get(algorithm, 0)}}}", value):
        raise ConfigError(
            f"{spec!r} ends in #{fragment}. Expected #sha256= followed by 64 hexadecimal digits, or #md5= followed by "
            "32."
        )
    return DataSource(SourceKind.URL, url, split=split or late_split, digest=fragment.lower())


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder and its visible subfolders, sorted by path."""
    found = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if name.endswith(".parquet") and not name.startswith(".")]
    return sorted(found)


def choose_split(splits: Mapping[str, T], wanted: str, where: str) -> T:
    """Return what belongs to a split: the one that was asked for, the only one, or the one for training.

    Args:
        splits: What there is, by the name of its split. "dev", "val" and "validation" are the same split.
        wanted: Name of the split, or "" for the default.
        where: What has these splits, for messages.

    Raises:
        ConfigError: There is no such split, or several splits and none for training.
    """
    by_name = {same_split(name): value for name, value in splits.items()} | dict(splits)
    name = wanted or DEFAULT_SPLIT
    for spelling in (name, same_split(name)):
        if spelling in by_name:
            return by_name[spelling]
    if not wanted and len(splits) == 1:
        return next(iter(splits.values()))
    problem = f"no split {wanted!r}" if wanted else f"several splits, but none called {DEFAULT_SPLIT}"
    example = next(iter(splits), "NAME")
    raise ConfigError(f"{where} has {problem}. Its splits are: {listed(list(splits))}. Append one, as in @{example}.")


def same_split(name: str) -> str:
    """Return the usual name of a split: "validation" for "dev"."""
    return _SAME_SPLIT.get(name.lower(), name.lower())


def listed(names: Sequence[str]) -> str:
    """Return up to ten names, and how many there are in total if there are more."""
    more = f", … ({len(names):,} in total)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
