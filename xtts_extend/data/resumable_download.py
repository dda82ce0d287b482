"""Download a file over HTTP. An interrupted download resumes where it stopped, and a finished one is checked."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from xtts_extend.errors import DataError, MachineError
from xtts_extend.files import atomic_write, file_digest, require_space, size_of, write_error
from xtts_extend.progress import with_progress

logger = logging.getLogger("trainer")

_BLOCK = 1_000_000
_TIMEOUT_S = (20, 60)
#: Number of attempts in a row that bring no data, and the seconds between them.
_ATTEMPTS, _BETWEEN_ATTEMPTS_S = 5, 2.0
_TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_BUSY = (429, 500, 502, 503, 504)
_WEB_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
_HEAD_BYTES = 1024


@dataclass(frozen=True)
class _State:
    """What the server said about the file that is being downloaded.

    Attributes:
        size_bytes: Size of the whole file, or None if the server does not state it.
        version: The strong ETag or the modification time, or "". A part can only be resumed if it is known.
        sha256: SHA-256 that the server states, or "".
    """

    size_bytes: int | None
    version: str
    sha256: str


def download(
    url: str,
    path: Path,
    *,
    shown: str,
    digest: str = "",
    progress: bool = True,
) -> None:
    """Download a file, or resume an earlier attempt.

    What has been downloaded is in `path` with the suffix `.part`, beside a file that says which version of the file it
    is. If the file on the server has changed, or the server cannot send a part of it, the download starts again.

    Args:
        url: URL to download from.
        path: File to write.
        shown: The URL without secrets, for messages.
        digest: Expected digest as `sha256=HEX` or `md5=HEX`, or "".
        progress: Whether to show progress.

    Raises:
        DataError: The server does not have the file, refuses access or sends a web page; or the digest is wrong.
        DiskFullError, MachineError: There is no connection, or the file cannot be written.
    """
    part, state_file = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = _fetch(url, part, state_file, shown, progress)
        _require_archive(part, shown)
        expected = digest or (f"sha256={state.sha256}" if state.sha256 else "")
        algorithm, _, value = expected.partition("=")
        if expected and (found := file_digest(part, algorithm)) != value:
            part.unlink()
            raise DataError(
                f"The file from {shown} has the {algorithm.upper()} {found}, expected {value}. It was deleted. Check "
                "the digest, then run the command again."
            )
        part.replace(path)
        state_file.unlink(missing_ok=True)
    except requests.RequestException as error:
        raise MachineError(
            f"{shown} cannot be downloaded: {_reason(error, url, shown)}. Check the connection and the URL, then run "
            "the command again; what has been downloaded is kept."
        ) from error
    except OSError as error:
        raise write_error(
            f"{part} could not be written",
            error,
            "Free up disk space, or make sure that the folder is writable, then run the command again; what has been "
            "downloaded is kept.",
        ) from error


def _fetch(url: str, part: Path, state_file: Path, shown: str, progress: bool) -> _State:
    """Download until the part is the whole file, and return what the server said about it."""
    failures = 0
    while True:
        before = size_of(part)
        try:
            state = _fetch_rest(url, part, state_file, shown, progress)
            if state is None:
                continue
            if state.size_bytes is None or size_of(part) == state.size_bytes:
                return state
            # The server closed the connection too early.
            error: Exception | None = None
        except _TRANSIENT as caught:
            error = caught
        failures = 0 if size_of(part) > before else failures + 1
        if failures >= _ATTEMPTS:
            if error is not None:
                raise error
            raise MachineError(
                f"{shown} ends after {size_of(part):,} bytes, before its end. Run the command again to continue; if "
                "that does not help, the file on the server is damaged."
            )
        logger.warning(" ! The connection to %s was interrupted after %.1f MB. Retrying.", shown, size_of(part) / 1e6)
        time.sleep(_BETWEEN_ATTEMPTS_S * failures)


def _fetch_rest(url: str, part: Path, state_file: Path, shown: str, progress: bool) -> _State | None:
    """Request what is missing and append it to the part. Return None if the part was of no use and was removed."""
    known = _read_state(state_file)
    start = size_of(part)
    if known is None or not known.version:
        start = 0
    headers = {"User-Agent": "xtts_extend", "Accept-Encoding": "identity"}
    if start and known is not None:
        if start == known.size_bytes:
            return known
        headers |= {"Range": f"bytes={start}-", "If-Range": known.version}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if start and response.status_code == 416:
            # The file on the server is shorter than the part.
            part.unlink()
            return None
        if response.status_code in _BUSY:
            raise requests.ConnectionError(f"the server is busy ({response.status_code} {response.reason})")
        _require_success(response, shown)
        if response.status_code == 206 and known is not None:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink()
                return None
            state = known
        else:
            start, state = 0, _state_of(response)
            with atomic_write(state_file) as file:
                file.write(json.dumps(asdict(state)).encode())
        missing = None if state.size_bytes is None else state.size_bytes - start
        require_space(part.parent, missing or 0, shown)
        with part.open("ab" if start else "wb") as file:
            blocks = response.iter_content(_BLOCK)
            for block in with_progress(blocks, -(-(missing or 0) // _BLOCK), "MB downloaded", progress):
                file.write(block)
    return state


def _state_of(response: requests.Response) -> _State:
    tag = response.headers.get("ETag", "")
    # A weak tag does not promise that the bytes are the same.
    version = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() and "Content-Encoding" not in response.headers else None
    return _State(size, version, _stated_sha256(response.headers.get("Repr-Digest") or response.headers.get("Digest")))


def _stated_sha256(header: str | None) -> str:
    """Return the SHA-256 in a Repr-Digest (RFC 9530) or Digest header (RFC 3230), or ""."""
    match = re.search(r"(?i)sha-256=:?([A-Za-z0-9+/]{43}=)", header or "")
    try:
        return base64.b64decode(match[1]).hex() if match else ""
    except binascii.Error:
        return ""


def _require_success(response: requests.Response, shown: str) -> None:
    """Raise DataError if the server does not send the file."""
    status = f"{response.status_code} {response.reason or ''}".strip()
    if response.status_code in (401, 403):
        raise DataError(
            f"The server refuses access to {shown} ({status}). The link may have expired, or the data set may need a "
            "login or the acceptance of its terms. Download the archive in a browser, and pass the file."
        )
    if response.status_code in (404, 410):
        raise DataError(f"There is no file at {shown} ({status}). Check the URL.")
    if not response.ok:
        raise DataError(f"The server does not send {shown} ({status}). Check the URL, or try again later.")
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise _web_page(shown)


def _require_archive(part: Path, shown: str) -> None:
    """Raise DataError if the file is a web page, whatever the server called it."""
    with part.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if _WEB_PAGE.match(head):
        part.unlink()
        raise _web_page(shown)
    if not head:
        part.unlink()
        raise DataError(f"The file from {shown} is empty. Check the URL.")


def _web_page(shown: str) -> DataError:
    return DataError(
        f"{shown} is a web page, not an archive. Open it in a browser, copy the link of the download itself, and pass "
        "that; if the page asks for a login or for the acceptance of terms, download the archive and pass the file."
    )


def _read_state(file: Path) -> _State | None:
    try:
        return _State(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        # Without it, the download starts again.
        return None


def _reason(error: requests.RequestException, url: str, shown: str) -> str:
    """Return an error's message without the secrets in the URL."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return (str(cause).replace(url, shown) or type(cause).__name__).rstrip(".")
