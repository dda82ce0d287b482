"""A repository of the Hub: its files with their digests, and downloads that resume and are checked."""

from __future__ import annotations

import glob
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import DatasetInfo, ModelInfo
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

import xtts_extend
from xtts_extend.errors import MachineError
from xtts_extend.files import atomic_path, file_digest, require_space
from xtts_extend.hub_client.access import (
    LIBRARY,
    TIMEOUT_S,
    RepositoryKind,
    endpoint,
    hub_api,
    hub_errors,
    page_of,
    require_repository_name,
)


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository.

    Attributes:
        name: Path in the repository.
        size_bytes: Size of the file.
        sha256: SHA-256 of the contents; empty for small files that git stores itself.
        git_sha1: Git's digest of the contents (of the pointer, for files with a SHA-256).
    """

    name: str
    size_bytes: int
    sha256: str
    git_sha1: str

    def matches(self, path: Path) -> bool:
        """Return whether a local file has this file's size and digest.

        Raises:
            DataError, OSError: The file cannot be read.
        """
        if path.stat().st_size != self.size_bytes:
            return False
        if self.sha256:
            return file_digest(path) == self.sha256
        return _git_digest(path.read_bytes()) == self.git_sha1

    def partial(self, target: Path) -> Path:
        """Return the path that holds an incomplete download; it is different for different contents."""
        return target.with_name(f".{target.name}.{(self.sha256 or self.git_sha1)[:16]}.partial")


@dataclass(frozen=True)
class Repository:
    """A repository at a fixed commit.

    Attributes:
        name: USER/NAME.
        commit: Digest of the commit. All downloads are from this commit.
        card: The metadata of its card, README.md.
        is_private: Whether only its owners can see it.
        files: The files by name.
        kind: What it contains.
    """

    name: str
    commit: str
    card: dict[str, Any]
    is_private: bool
    files: dict[str, RemoteFile]
    kind: RepositoryKind = RepositoryKind.MODEL

    @classmethod
    def open(cls, name: str, revision: str | None = None, kind: RepositoryKind = RepositoryKind.MODEL) -> Repository:
        """Ask the Hub for a repository's files.

        Args:
            name: USER/NAME.
            revision: Branch, tag or commit; by default, the main branch.
            kind: What the repository contains.

        Raises:
            RevisionError, ConfigError, MachineError: See `hub_errors`.
        """
        require_repository_name(name)
        with hub_errors(name, kind):
            api = hub_api()
            ask: Callable[..., ModelInfo | DatasetInfo]
            ask = api.dataset_info if kind is RepositoryKind.DATA_SET else api.model_info
            info = ask(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        return cls(
            name,
            info.sha or "main",
            info.card_data.to_dict() if info.card_data else {},
            bool(info.private),
            {
                file.rfilename: RemoteFile(
                    file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else "", file.blob_id or ""
                )
                for file in info.siblings or []
            },
            kind,
        )

    @property
    def page(self) -> str:
        """Address of the repository's page."""
        return page_of(self.name, self.kind)

    @property
    def licence_id(self) -> str:
        """Identifier of the license that the card states; empty if it states none."""
        return str(self.card.get("license_name") or self.card.get("license") or "")

    @property
    def licence(self) -> str:
        """The license that the card states, with its name and link if it is not a common one, or ""."""
        stated = self.card.get("license") or []
        parts = [", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)]
        parts += [str(self.card[key]) for key in ("license_name", "license_link") if self.card.get(key)]
        return " ".join(filter(None, parts))

    def read(self, name: str) -> bytes:
        """Return the contents of a small file.

        Raises:
            ConfigError, MachineError: See `hub_errors`.
        """
        content = io.BytesIO()
        self._get(self.files[name], content)
        return content.getvalue()

    def download(self, name: str, target: Path) -> None:
        """Download a file, resuming an earlier attempt, and check its digest.

        A file that is already there is kept if its contents are right, and replaced otherwise.

        Args:
            name: The file's name in the repository.
            target: The file to write. An incomplete download is kept beside it as a hidden file.

        Raises:
            ConfigError: See `hub_errors`.
            MachineError: See `hub_errors`; or the disk is full, or the contents do not match their digest.
        """
        file = self.files[name]
        if target.is_file() and file.matches(target):
            return
        partial = file.partial(target)
        for other in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
            if other != partial:
                other.unlink(missing_ok=True)
        with atomic_path(target, partial) as temporary:
            with temporary.open("ab") as opened:
                if opened.tell() > file.size_bytes:
                    opened.seek(0)
                    opened.truncate()
                require_space(target.parent, file.size_bytes - opened.tell(), name)
                self._get(file, opened)
            if not file.matches(temporary):
                temporary.unlink()
                raise MachineError(
                    f"{name} from {self.name} arrived damaged: its contents do not match the digest that the Hub "
                    "states. The damaged file was removed. Run the command again to download it from the start."
                )

    def _get(self, file: RemoteFile, opened: io.BytesIO | io.BufferedWriter) -> None:
        """Append the rest of a file to an open file."""
        headers = build_hf_headers(library_name=LIBRARY, library_version=xtts_extend.__version__)
        # Part of a compressed file cannot be resumed.
        headers["Accept-Encoding"] = "identity"
        with hub_errors(self.name, self.kind):
            # hf_hub_download would start interrupted downloads from the beginning.
            http_get(
                hf_hub_url(self.name, file.name, repo_type=self.kind.value, revision=self.commit, endpoint=endpoint()),
                opened,
                resume_size=opened.tell(),
                headers=headers,
                expected_size=file.size_bytes,
                displayed_filename=file.name,
            )


def _git_digest(content: bytes) -> str:
    """Return the digest under which git stores contents, which identifies them here and protects nothing."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
