"""Serves the page: bound to this machine, closed to other websites, with files of the project alone."""

from __future__ import annotations

import hmac
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xtts_extend.errors import ConfigError, MachineError

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger("trainer")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
#: Notebook services whose proxies have a host name of their own; both set this variable.
_NOTEBOOKS = ("COLAB_RELEASE_TAG", "LIGHTNING_CLOUD_PROJECT_ID")
#: gradio puts the server's own address into the page. Behind a proxy the browser's address is the right one.
_RELATIVE = (
    b'<script>window.gradio_config.root = location.origin + location.pathname.replace(/[/]$/, "");</script>'
    b"<script data-gradio-mode>"
)


class SameOrigin:
    """ASGI middleware that refuses requests that other websites make, and host names that are not ours.

    A website can send requests to servers on the user's own machine (cross-site request forgery), and can make its
    host name point to it (DNS rebinding).

    Args:
        app: The application.
        any_host: Accept every host name, because a password or a notebook's proxy protects the page.
    """

    def __init__(self, app: ASGIApp, *, any_host: bool) -> None:
        self._app, self._any_host = app, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with status 403, or pass it on."""
        if scope["type"] in ("http", "websocket") and (problem := self._problem(scope)):
            logger.warning(" > Refused a request for %s: %s", scope["path"], problem)
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse(problem, status_code=403)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._any_host and urlsplit(f"//{host}").hostname not in LOCAL_HOSTS:
            return "The page is open to this machine only. Start it with --host and --password to open it to others."
        # Browsers that send this header compare the addresses that they see, so it is right behind a proxy as well.
        site = headers.get("sec-fetch-site")
        if site is not None:
            is_link = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
            foreign = site not in ("same-origin", "none") and not is_link
        else:
            origin = headers.get("origin")
            hosts = {host, headers.get("x-forwarded-host", host)}
            foreign = origin is not None and urlsplit(origin).netloc not in hosts
        return "Another website sent this request. Open the page itself." if foreign else ""


class RelativeAddresses:
    """ASGI middleware that makes the page find the server under the address that the browser has.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; complete the HTML of the page itself."""
        if scope["type"] != "http" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        start: Message = {}
        chunks: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            chunks.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = b"".join(chunks).replace(b"<script data-gradio-mode>", _RELATIVE, 1)
            names = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send({**start, "headers": [*names, (b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

        # A compressed page could not be completed.
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        await self._app({**scope, "headers": headers}, receive, collect)


def serve(
    blocks: gr.Blocks,
    project: Path,
    *,
    host: str = LOCAL_HOSTS[0],
    port: int = 7860,
    share: bool = False,
    password: str = "",
    upload_limit_mb: int = 4096,
    wait: bool = True,
) -> str:
    """Serve the page until it is stopped.

    Args:
        blocks: The page.
        project: The project folder. Only files in it are served.
        host: The address to bind to.
        port: The port; 0 takes the first free one from 7860 on.
        share: Open a public address through gradio's tunnel.
        password: Asked for before anything is shown, with any user name.
        upload_limit_mb: The largest upload in megabytes.
        wait: Return only when the page is stopped.

    Returns:
        The page's address.

    Raises:
        ConfigError: The page would be open to others without a password.
        MachineError: The port is taken.
    """
    require_password(host, share=share, password=password)
    uploads = project / ".page"
    # gradio keeps uploads and copies of what it shows here, and reads the variable whenever it needs the folder.
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    any_host = bool(password) or any(name in os.environ for name in _NOTEBOOKS)
    try:
        _, address, shared = blocks.launch(
            server_name=host,
            server_port=port or None,
            share=share,
            auth=(lambda user, given: hmac.compare_digest(given.encode(), password.encode())) if password else None,
            max_file_size=upload_limit_mb * 1_000_000,
            allowed_paths=[str(project)],
            blocked_paths=[str(project / "project.json"), str(project / "jobs")],
            app_kwargs={"middleware": [Middleware(SameOrigin, any_host=any_host), Middleware(RelativeAddresses)]},
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise MachineError(f"The page cannot use port {port} of {host}: {error}. Pass another --port.") from error
    print(f"The page is at {shared or address}\nCtrl-C closes it. Jobs that it started go on.", flush=True)
    if wait:
        blocks.block_thread()
    return shared or address


def require_password(host: str, *, share: bool, password: str) -> None:
    """Raise ConfigError if others could open the page without a password."""
    if not password and (share or host not in LOCAL_HOSTS):
        raise ConfigError(
            "Others could open the page. Pass --password as well, or omit --host and --share to open it to this "
            "machine only."
        )
