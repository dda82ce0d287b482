"""Downloads over HTTP: complete, interrupted, changed, refused, and wrong."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_server import Page, WebServer, serving

from xtts_extend import files
from xtts_extend.data import resumable_download
from xtts_extend.data.resumable_download import download
from xtts_extend.errors import DataError, DiskFullError, MachineError

CONTENT = os.urandom(300_000)
TAG = {"ETag": '"v1"'}
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between attempts, and read in small blocks."""
    monkeypatch.setattr(resumable_download, "_BETWEEN_ATTEMPTS_S", 0.0)
    monkeypatch.setattr(resumable_download, "_BLOCK", 10_000)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[WebServer]:
    """One server for all tests."""
    with serving() as running:
        yield running


@pytest.fixture
def server(shared_server: WebServer) -> WebServer:
    """The server without pages."""
    shared_server.pages.clear()
    shared_server.requests.clear()
    return shared_server


def fetch(server: WebServer, path: Path, digest: str = "") -> bytes:
    """Download /a.tar.gz and return its content."""
    url = f"{server.url}/a.tar.gz"
    download(url, path, shown=url, digest=digest, progress=False)
    return path.read_bytes()


@pytest.mark.parametrize("has_size", [True, False])
def test_a_download(server: WebServer, tmp_path: Path, has_size: bool) -> None:
    server.pages["/a.tar.gz"] = Page(CONTENT, headers=TAG, has_size=has_size)
    assert fetch(server, tmp_path / "new folder" / "ሰላም", f"sha256={SHA}") == CONTENT
    assert [file.name for file in (tmp_path / "new folder").iterdir()] == ["ሰላም"]
    assert server.asked("/a.tar.gz") == [""]


def test_an_interrupted_download_resumes_at_once(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a.tar.gz"] = Page(CONTENT, headers=TAG, breaks=[100_000, 50_000])
    assert fetch(server, tmp_path / "a", f"md5={hashlib.md5(CONTENT).hexdigest()}") == CONTENT
    assert server.asked("/a.tar.gz") == ["", "bytes=100000-", "bytes=150000-"]


def test_an_interrupted_download_resumes_in_the_next_call(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable_download, "_ATTEMPTS", 2)
    server.pages["/a.tar.gz"] = Page(CONTENT, headers=TAG, breaks=[100_000, 0, 0])
    with pytest.raises(MachineError, match=r"cannot be downloaded: .*what has been downloaded is kept"):
        fetch(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    server.requests.clear()
    assert fetch(server, tmp_path / "a") == CONTENT
    assert server.asked("/a.tar.gz") == ["bytes=100000-"]


def test_a_complete_part_is_not_requested_again(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a.tar.gz"] = Page(CONTENT, headers=TAG)
    fetch(server, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "a.part")
    (tmp_path / "a.part.json").write_text(f'{{"size_bytes": {len(CONTENT)}, "version": "\\"v1\\"", "sha256": ""}}')
    server.requests.clear()
    assert fetch(server, tmp_path / "a") == CONTENT
    assert server.requests == []


@pytest.mark.parametrize(
    ("now", "requested"),
    [
        (Page(CONTENT, headers={"ETag": '"v2"'}), ["bytes=5000-"]),
        (Page(CONTENT, headers=TAG, has_ranges=False), ["bytes=5000-"]),
        (Page(CONTENT[:4000], headers=TAG), ["bytes=5000-", ""]),
    ],
    ids=["changed", "no ranges", "shorter"],
)
def test_a_part_that_cannot_be_resumed(server: WebServer, tmp_path: Path, now: Page, requested: list[str]) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 5000)
    (tmp_path / "a.part.json").write_text('{"size_bytes": 300000, "version": "\\"v1\\"", "sha256": ""}')
    server.pages["/a.tar.gz"] = now
    assert fetch(server, tmp_path / "a") == now.content
    assert server.asked("/a.tar.gz") == requested


@pytest.mark.parametrize("state", ["", "{}", '{"size_bytes": 9, "version": "", "sha256": ""}'])
def test_a_part_of_an_unknown_version_starts_again(server: WebServer, tmp_path: Path, state: str) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 5000)
    (tmp_path / "a.part.json").write_text(state)
    server.pages["/a.tar.gz"] = Page(CONTENT, headers={"ETag": 'W/"v1"'})
    assert fetch(server, tmp_path / "a") == CONTENT
    assert server.asked("/a.tar.gz") == [""]


@pytest.mark.parametrize(
    ("headers", "requested"),
    [
        ({"ETag": 'W/"v1"'}, ["", ""]),
        ({"ETag": 'W/"v1"', "Last-Modified": "Sat, 01 Nov 2025 00:00:00 GMT"}, ["", "bytes=100000-"]),
    ],
    ids=["weak tag", "weak tag and date"],
)
def test_a_weak_tag_does_not_identify_the_file(
    server: WebServer, tmp_path: Path, headers: dict[str, str], requested: list[str]
) -> None:
    server.pages["/a.tar.gz"] = Page(CONTENT, headers=headers, breaks=[100_000])
    assert fetch(server, tmp_path / "a") == CONTENT
    assert server.asked("/a.tar.gz") == requested


@pytest.mark.parametrize("header", ["Repr-Digest", "Digest"])
def test_a_wrong_digest_of_the_server(server: WebServer, tmp_path: Path, header: str) -> None:
    stated = base64.b64encode(bytes.fromhex(SHA)).decode()
    value = f"sha-256=:{stated}:" if header == "Repr-Digest" else f"MD5=abc,SHA-256={stated}"
    server.pages["/a.tar.gz"] = Page(CONTENT, headers={header: value})
    assert fetch(server, tmp_path / "a") == CONTENT
    server.pages["/a.tar.gz"].content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=f"has the SHA256 [0-9a-f]{{64}}, expected {SHA}. It was deleted"):
        fetch(server, tmp_path / "b")
    assert not list(tmp_path.glob("b.part"))


def test_a_wrong_digest_of_the_user(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a.tar.gz"] = Page(CONTENT)
    with pytest.raises(DataError, match=f"has the MD5 .*, expected {'0' * 32}"):
        fetch(server, tmp_path / "a", f"md5={'0' * 32}")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(b"", 404), r"There is no file at .*/a\.tar\.gz \(404 Not Found\)\. Check the URL"),
        (Page(b"", 403), r"refuses access to .* \(403 Forbidden\)\. The link may have expired"),
        (Page(b"", 401), "refuses access to"),
        (Page(b"", 400), r"does not send .* \(400 Bad Request\)"),
        (Page(b"<p>", headers={"Content-Type": "text/html; charset=utf-8"}), "is a web page, not an archive"),
        (Page(b"\n<!-- x -->\n<!DOCTYPE HTML>\n<html>"), "is a web page, not an archive"),
        (Page(b""), "is empty"),
    ],
    ids=["404", "403", "401", "400", "html by type", "html by content", "empty"],
)
def test_what_is_not_sent(server: WebServer, tmp_path: Path, page: Page, message: str) -> None:
    server.pages["/a.tar.gz"] = page
    with pytest.raises(DataError, match=message):
        fetch(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.part").exists()


def test_a_busy_server_is_asked_again(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a.tar.gz"] = Page(b"", 503)
    with pytest.raises(MachineError, match=r"the server is busy \(503 Service Unavailable\)"):
        fetch(server, tmp_path / "a")
    assert len(server.requests) == 5


def test_no_connection(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/a.tar.gz?X-Amz-Signature=secret"
    with pytest.raises(MachineError, match="cannot be downloaded: .*refused. Check the connection") as caught:
        download(url, tmp_path / "a", shown="http://127.0.0.1:9/a.tar.gz", progress=False)
    assert "secret" not in str(caught.value)


def test_a_url_that_cannot_be_requested(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"downloaded: Invalid URL 'http:///a': No host supplied") as caught:
        download("http:///a?token=secret", tmp_path / "a", shown="http:///a", progress=False)
    assert "secret" not in str(caught.value)


def test_a_full_disk(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/a.tar.gz"] = Page(CONTENT, headers=TAG)
    free = type("Usage", (), {"free": 1000})()
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda path: free)
        with pytest.raises(DiskFullError, match="needs 0.0003 GB more on the disk"):
            fetch(server, tmp_path / "a")

    def full(*arguments: object) -> Iterator[bytes]:
        yield CONTENT[:1000]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(resumable_download, "with_progress", full)
        with pytest.raises(DiskFullError, match=r"a\.part could not be written: the disk is full"):
            fetch(server, tmp_path / "a")
    # What was written is kept.
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:1000]
    assert fetch(server, tmp_path / "a") == CONTENT
    assert server.asked("/a.tar.gz")[-1] == "bytes=1000-"
