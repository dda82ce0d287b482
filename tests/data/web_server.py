"""A web server for tests: files with ranges, connections that break, and errors."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Page:
    """What the server sends for a path.

    Attributes:
        content: The body.
        status: Status of the response.
        headers: Additional headers.
        has_ranges: Whether requests for a part are answered with that part.
        has_size: Whether Content-Length is sent.
        breaks: Numbers of bytes after which the next responses break off, in order.
    """

    content: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    has_ranges: bool = True
    has_size: bool = True
    breaks: list[int] = field(default_factory=list)


@dataclass
class WebServer:
    """A running server.

    Attributes:
        url: Its address.
        pages: The pages by path.
        requests: The requests so far: method, path, and the Range header or "".
    """

    url: str
    pages: dict[str, Page]
    requests: list[tuple[str, str, str]]

    def asked(self, path: str) -> list[str]:
        """Return the Range headers of the GET requests for a path."""
        return [requested for method, asked, requested in self.requests if (method, asked) == ("GET", path)]


@contextmanager
def serving() -> Iterator[WebServer]:
    """Run a server on a free port of this machine."""
    pages: dict[str, Page] = {}
    requests: list[tuple[str, str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            requested = self.headers.get("Range", "")
            requests.append((self.command, path, requested))
            page = pages.get(path, Page(b"not here", 404))
            status, content = page.status, page.content
            headers = dict(page.headers)
            tag = page.headers.get("Last-Modified", page.headers.get("ETag"))
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", requested)
            if match and page.has_ranges and self.headers.get("If-Range", tag) == tag:
                first, last = int(match[1]), int(match[2] or len(content) - 1)
                if first >= len(content):
                    status, content = 416, b""
                else:
                    status = 206
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                    content = content[first : last + 1]
            self.send_response(status)
            if page.has_size:
                headers["Content-Length"] = str(len(content))
            else:
                headers["Connection"] = "close"
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if page.breaks:
                content = content[: page.breaks.pop(0)]
                self.close_connection = True
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield WebServer(f"http://127.0.0.1:{server.server_port}", pages, requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
