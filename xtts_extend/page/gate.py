"""Check requests before gradio sees them: their origin, route and size, and the files that they name.

gradio serves far more than the page uses: it fetches addresses for browsers, runs FFmpeg, and creates share links. Only
the routes that the page needs are open here, so that a new release of gradio cannot open others.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xtts_extend.page.project import JOBS, SETTINGS

logger = logging.getLogger("trainer")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
#: Folder in the project for uploads and for copies of the recordings that are shown.
UPLOADS = ".page"
_API = "/gradio_api/"
JOIN, _UPLOAD, _FILE = f"{_API}queue/join", f"{_API}upload", f"{_API}file="
#: gradio's routes that the page needs, by method. Those that end with a slash or an equals sign are prefixes.
_ROUTES = {
    "GET": (
        "/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/logout", "/assets/",
        "/static/", "/svelte/", _FILE, f"{_API}heartbeat/",
        *(f"{_API}{name}" for name in ("app_id", "info", "login_check", "queue/data", "startup-events", "theme.css",
                                       "upload_progress")),
    ),
    "POST": ("/login", JOIN, _UPLOAD),
}  # fmt: skip
#: What the page may load, and who may show it in a frame.
_POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'{more}; object-src 'none'; base-uri 'self'"
_FRAMES = "; frame-ancestors 'self'"
#: A file from the project must not act as a web page, whatever it contains.
_FILE_POLICY = "default-src 'none'; sandbox"
#: Longest request that is not an upload, in bytes.
_LONGEST_BODY = 4_000_000
#: Maximum size of everything in a multipart upload except its files, in bytes.
_UPLOAD_OVERHEAD = 1_000_000
#: Bytes received between checks of the disk, and bytes that an upload must leave free on it.
_LOOK_BYTES, _FREE_BYTES = 16_000_000, 200_000_000
_SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
#: Longest number in a request, in characters.
_LONGEST_NUMBER = 40


class Gate:
    """ASGI middleware that rejects requests that the page never makes, and says why.

    A website can send requests to servers on the user's own machine (cross-site request forgery), and can make its
    own host name point to that machine (DNS rebinding).

    Args:
        app: The application.
        project: The project's folder. Files outside it are not served, not even through a link inside it.
        events: Indices of the page's event handlers.
        upload_limit: Maximum total size of the files in an upload, in bytes.
        any_host: Accept every host name, because a password or a notebook's proxy protects the page.
        may_be_framed: Allow other websites to show the page in a frame, as notebooks do.
        scripts: Another address that the page loads its scripts from.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        project: Path,
        events: Container[object],
        upload_limit: int,
        any_host: bool,
        may_be_framed: bool = False,
        scripts: str = "",
    ) -> None:
        self._app, self._project, self._events = app, project.resolve(), events
        self._upload_limit, self._any_host, self._may_be_framed = upload_limit, any_host, may_be_framed
        self._policy = _POLICY.format(more=f" {scripts}" if scripts else "") + ("" if may_be_framed else _FRAMES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a request and say why, or pass it on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._answer(scope, receive, self._with_policy(scope["path"], send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, is_post = scope["path"], scope["method"] == "POST"
        status, problem = self._problem(scope)
        if not problem and is_post and path != _UPLOAD:
            body = await _read(receive)
            if body is None:
                status, problem = 413, f"A request may be at most {_LONGEST_BODY:,} bytes long. Shorten what you typed."
            elif path == JOIN:
                status, problem = 400, self._problem_of_event(body)
            receive = _again(body or b"", receive)
        if problem:
            logger.warning(" > Rejected a request for %r: %s", path[:200], problem)
            await PlainTextResponse(problem, status_code=status)(scope, receive, send)
        elif path == _UPLOAD:
            try:
                await self._app(scope, self._limited(receive), send)
            except (OSError, ValueError, TypeError):
                # Raised before gradio answers.
                logger.exception(" > An upload could not be stored.")
                problem = "The upload could not be stored. Give its files short names, then upload them again."
                await PlainTextResponse(problem, status_code=400)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> tuple[int, str]:
        """Return the status and the message for a rejected request; the message is empty for others."""
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        host = headers.get("host", "")
        if not self._any_host and _hostname(host) not in LOCAL_HOSTS:
            return 403, (
                "The page is available only on this machine. Start it with --host and --password to open it to others."
            )
        if self._is_foreign(headers, host, is_page=method in ("GET", "HEAD") and path == "/"):
            return 403, "Another website sent this request. Open the page itself."
        if not _is_open("GET" if method == "HEAD" else method, path):
            return 404, "There is nothing at this address."
        if path.startswith(_FILE) and not self._is_served(path.removeprefix(_FILE)):
            return 403, "The project has no such file, or the page does not serve it."
        return 200, ""

    def _is_foreign(self, headers: Headers, host: str, *, is_page: bool) -> bool:
        """Return whether another website sent a request. Following a link to the page does not count."""
        # Browsers set this header by comparing the addresses that they see, so it is also correct behind a proxy.
        site = headers.get("sec-fetch-site")
        if site is not None:
            is_link = is_page and headers.get("sec-fetch-mode") == "navigate"
            is_shown = self._may_be_framed or headers.get("sec-fetch-dest", "document") == "document"
            return site not in ("same-origin", "none") and not (is_link and is_shown)
        origin = headers.get("origin")
        return origin is not None and _netloc(origin) not in {host, headers.get("x-forwarded-host", host)}

    def _is_served(self, path: str) -> bool:
        inner = self._inside(path)
        return inner is not None and bool(inner) and inner[0].casefold() not in (SETTINGS, JOBS)

    def _inside(self, path: str) -> tuple[str, ...] | None:
        """Return the parts of a path below the project's folder, with links followed; None if it leads out of it."""
        try:
            file = Path(path)
            real = file.resolve()
            return real.relative_to(self._project).parts if file.is_absolute() and real.is_file() else None
        except (OSError, ValueError, RuntimeError):
            return None

    def _problem_of_event(self, body: bytes) -> str:
        """Return why an event is rejected, or an empty string."""
        try:
            event = json.loads(body, parse_constant=_refuse, parse_float=_float, parse_int=_int)
            known = event["fn_index"] in self._events and isinstance(event["data"], list)
            if not known or not _SESSION.fullmatch(event["session_hash"]):
                return "The page has changed, or did not send this request. Reload it."
        except OverflowError as error:
            return str(error)
        except (ValueError, TypeError, LookupError, RecursionError):
            return "This request is damaged. Reload the page."
        waiting: list[Any] = [event]
        while waiting:
            value = waiting.pop()
            if isinstance(value, str) and not _is_unicode(value):
                return "The text contains an invalid character (an unpaired surrogate). Type it again."
            if isinstance(value, dict):
                if "path" in value and not self._is_upload(value["path"]):
                    return "This file was not uploaded here, or has since been removed. Upload it again."
                waiting += (*value, *value.values())
            elif isinstance(value, list):
                waiting += value
        return ""

    def _is_upload(self, path: object) -> bool:
        inner = self._inside(path) if isinstance(path, str) else None
        return inner is not None and inner[0] == UPLOADS

    def _limited(self, receive: Receive) -> Receive:
        """Return a `receive` that raises an error if an upload is too large, is cut off, or fills the disk.

        Only after this error does gradio remove the stored part of an upload and answer with the error's message.
        """
        size = looked = 0

        async def limited() -> Message:
            nonlocal size, looked
            message = await receive()
            if message["type"] != "http.request":
                raise MultiPartException("The upload was cut off. Upload it again.")
            size += len(message.get("body", b""))
            problem = ""
            if size > self._upload_limit + _UPLOAD_OVERHEAD:
                problem = (
                    f"The files exceed the maximum allowed size of {self._upload_limit / 1e6:,.0f} MB per upload. "
                    f"Upload fewer at a time, or copy them into {self._project}."
                )
            elif size >= looked:
                looked = size + _LOOK_BYTES
                if shutil.disk_usage(self._project).free < _FREE_BYTES:
                    problem = "The disk is full. Free some space, then upload the files again."
            if problem:
                # Browsers read the response only after they have sent everything.
                while message.get("more_body"):
                    message = await receive()
                raise MultiPartException(problem)
            return message

        return limited

    def _with_policy(self, path: str, send: Send) -> Send:
        """Return a `send` that adds headers that tell browsers what a response may do."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = _FILE_POLICY if path.startswith(_FILE) else self._policy
                headers["x-content-type-options"] = "nosniff"
                # `RelativeAddresses` needs the page's full address.
                headers["referrer-policy"] = "same-origin"
            await send(message)

        return sending


def _is_open(method: str, path: str) -> bool:
    return any(
        path == route or (route[-1] in "/=" and route != "/" and path.startswith(route))
        for route in _ROUTES.get(method, ())
    )


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _netloc(address: str) -> str:
    try:
        return urlsplit(address).netloc
    except ValueError:
        return ""


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request; None if it is too long or cut off."""
    body, is_complete = b"", False
    while not is_complete:
        message = await receive()
        if message["type"] != "http.request":
            return None
        if len(body) <= _LONGEST_BODY:
            body += message.get("body", b"")
        is_complete = not message.get("more_body")
    return body if len(body) <= _LONGEST_BODY else None


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first returns a body that has already been read."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(number: str) -> float:
    raise OverflowError(f"{number[:_LONGEST_NUMBER]} is not a number that can be used here. Type a different one.")


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _int(text: str) -> int:
    return int(text) if len(text) <= _LONGEST_NUMBER else int(_refuse(text))
