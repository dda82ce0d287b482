"""A small Hugging Face Hub on this machine: the addresses that huggingface_hub calls, with files in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secretSecretSecret"
_LARGE = (".pth", ".safetensors", ".parquet")


@dataclass
class FakeRepository:
    """A repository.

    Attributes:
        files: Path → contents, in the branch main.
        branches: The contents of other branches and tags, and of earlier commits under any name.
        private, gated: Whether only users with the token can see it, or read it.
        card: The metadata that the README of the branch main would have.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        """The commit of the branch main."""
        return commit_of(self.files)

    def files_of(self, revision: str) -> dict[str, bytes] | None:
        """Return the files of a branch, tag or commit."""
        branches = {"main": self.files, **self.branches}
        commits = {commit_of(files): files for files in branches.values()}
        return {**branches, **commits}.get(revision)


@dataclass(frozen=True)
class Request:
    """A request that the hub received; `token` says whether it had the right one."""

    method: str
    path: str
    range: str
    token: bool


@dataclass
class FakeHub:
    """The hub and its settings.

    Attributes:
        address: For HF_ENDPOINT.
        repositories: By name; data sets as `datasets/USER/NAME`.
        requests: All requests, in order.
        cut: Large file → number of bytes after which the connection is closed, once. Later requests get status 503.
        wrong: Name of a large file whose contents arrive changed.
        answer: Status and text of all answers to POST, for errors.
    """

    address: str
    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    wrong: str = ""
    answer: tuple[int, str] | None = None
    _uploaded: dict[str, bytes] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)

    def repair(self) -> None:
        """Stop answering with errors."""
        self.cut, self.wrong, self.answer = {}, "", None
        self._broken.clear()

    def downloads(self) -> list[tuple[str, str]]:
        """Return the name and the range of all requests for files that did not answer with a redirect."""
        return [
            (request.path.rpartition("/")[2], request.range)
            for request in self.requests
            if request.method == "GET" and ("/cdn/" in request.path or not request.path.endswith(_LARGE))
            if not request.path.startswith("/api/")
        ]


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run a hub in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet; otherwise each answer waits for an acknowledgment.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Print nothing."""

    def handle_one_request(self) -> None:
        """Handle a request of a client that may have gone."""
        try:
            super().handle_one_request()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    @property
    def hub(self) -> FakeHub:
        return self.server.hub

    def _start(self) -> str:
        self.path = unquote(urlsplit(self.path).path)
        self.has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.hub.requests.append(Request(self.command, self.path, self.headers.get("Range", ""), self.has_token))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self.path

    def _send(self, status: int, content: bytes | dict[str, Any] = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repository(self, name: str) -> FakeRepository | None:
        """Return a repository, or answer with the hub's error."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.has_token):
            status = 404 if self.has_token else 401
            self._send(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return found

    def do_GET(self) -> None:
        """Answer questions about repositories, and send files."""
        path = self._start()
        if match := re.fullmatch(r"/api/(?:models/)?((?:datasets/)?[^/]+/[^/]+)(?:/revision/(.+))?", path):
            if repository := self._repository(match[1]):
                self._describe(match[1].removeprefix("datasets/"), repository, match[2] or "main")
        elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if repository := self._repository(match[1]):
                self._resolve(*match.groups(), repository)
        elif match := re.fullmatch(r"/cdn/((?:datasets/)?[^/]+/[^/]+)/([^/]+)/(.+)", path):
            self._send_large(match[3], self.hub.repositories[match[1]].files_of(match[2])[match[3]])
        else:
            self._send(404)

    def _describe(self, name: str, repository: FakeRepository, revision: str) -> None:
        files = repository.files_of(revision)
        if files is None:
            self._send(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return
        siblings = []
        for file, content in files.items():
            sibling: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": _git(content)}
            if file.endswith(_LARGE):
                digest = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 130}
            siblings.append(sibling)
        self._send(
            200,
            {
                "id": name,
                "sha": commit_of(files),
                "private": repository.private,
                "gated": "manual" if repository.gated else False,
                "cardData": repository.card if files is repository.files else None,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            },
        )

    def _resolve(self, name: str, revision: str, file: str, repository: FakeRepository) -> None:
        files = repository.files_of(revision) or {}
        if repository.gated and not self.has_token:
            self._send(401, {"error": "Access is restricted"}, X_Error_Code="GatedRepo")
        elif file not in files:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        elif file.endswith(_LARGE):
            # A different host, to which the client must not send the token.
            host = self.hub.address.replace("127.0.0.1", "localhost")
            self._send(302, Location=f"{host}/cdn/{name}/{revision}/{file}")
        else:
            self._send(200, files[file])

    def _send_large(self, file: str, content: bytes) -> None:
        if file in self.hub._broken:
            self._send(503, b"down")
            return
        first = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        sent = content[first:]
        if file == self.hub.wrong:
            sent = sent[:-1] + bytes([sent[-1] ^ 1])
        if (length := self.hub.cut.pop(file, None)) is not None:
            self.hub._broken.add(file)
            self.send_response(200)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent[:length])
            self.wfile.flush()
            self.close_connection = True
            return
        range_ = {"Content_Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}
        self._send(206 if first else 200, sent, **range_)

    def do_POST(self) -> None:
        """Create repositories and receive commits."""
        path = self._start()
        if self.hub.answer:
            self._send(self.hub.answer[0], {"error": self.hub.answer[1]})
        elif not self.has_token:
            self._send(401, {"error": "Invalid credentials in Authorization header"})
        elif path == "/api/validate-yaml":
            self._send(200, {"warnings": [], "errors": []})
        elif path == "/api/repos/create":
            asked = json.loads(self.body)
            name = f"{asked['organization']}/{asked['name']}"
            is_private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.repositories.setdefault(name, FakeRepository(private=bool(is_private)))
            self._send(200, {"url": f"{self.hub.address}/{name}"})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._send(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            wanted = [
                {**each, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}}
                for each in json.loads(self.body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": wanted})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(self.hub.repositories[match[1]])
        else:
            self._send(404)

    def _commit(self, repository: FakeRepository) -> None:
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub._uploaded[value["oid"]]
        oid = repository.commit
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.address}/me/xtts/commit/{oid}"})

    def do_PUT(self) -> None:
        """Receive a large file."""
        path = self._start()
        digest = path.rpartition("/")[2]
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.hub._uploaded[digest] = self.body
        self._send(200)


def commit_of(files: dict[str, bytes]) -> str:
    """Return a digest of all files, which is their commit."""
    return hashlib.sha1(repr(sorted((name, _git(each)) for name, each in files.items())).encode()).hexdigest()


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
