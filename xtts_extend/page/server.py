"""Serve the page: bound to this machine, closed to other websites, limited to the project's files."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.page.gate import JOIN, LOCAL_HOSTS, UPLOADS, Gate

if TYPE_CHECKING:
    import gradio as gr

#: Age in seconds (a day) at which gradio removes its copies of the files that it shows.
CACHE_S = 86_400
#: Address from which a shared page loads gradio's scripts.
_SCRIPTS_OF_SHARED = "https://gradio.s3-us-west-2.amazonaws.com"
#: Minimum time between two password guesses, in seconds.
_GUESS_S = 1.0
#: Variables that identify notebook services whose proxies have their own host names.
_NOTEBOOKS = ("COLAB_RELEASE_TAG", "LIGHTNING_CLOUD_PROJECT_ID")
#: gradio puts the server's own address into the page. Behind a proxy, the address in the browser must replace it.
_RELATIVE = (
    b'<script>window.gradio_config.root = location.origin + location.pathname.replace(/[/]$/, "");</script>'
    b"<script data-gradio-mode>"
)


class RelativeAddresses:
    """ASGI middleware that makes the page find the server and its files at the address shown in the browser.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. If it is for the page itself, add the script to its HTML."""
        if scope["type"] == "http" and scope["path"] == JOIN:
            await self._app(_with_address(scope), receive, send)
            return
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
            MutableHeaders(scope=start)["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

        # The script could not be inserted into a compressed page.
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        await self._app({**scope, "headers": headers}, receive, collect)


def _with_address(scope: Scope) -> Scope:
    """Return an event's scope, changed so that gradio's file links use the address shown in the browser.

    A proxy may remove part of the path without saying so, but the request still contains the page's address (referer).
    """
    headers = MutableHeaders(raw=list(scope["headers"]))
    try:
        address = urlsplit(headers.get("referer", ""))
    except ValueError:
        return scope
    if address.scheme not in ("http", "https") or not address.netloc:
        return scope
    headers["x-forwarded-host"] = address.netloc + address.path.rstrip("/")
    headers["x-forwarded-proto"] = address.scheme
    return {**scope, "headers": headers.raw}


def set_environment(project: Path) -> None:
    """Make gradio keep its files in a project and use the settings that the page needs, whatever the environment says.

    gradio reads some variables when it is imported and others when components are created.

    Args:
        project: The project's folder.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_TEMP_DIR"] = str(project / UPLOADS)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # gradio sends requests to its own server to check it. These must not go through an internet proxy.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), *LOCAL_HOSTS)))


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
        port: The port; 0 uses the first free one, starting at 7860.
        share: Open a public address through gradio's tunnel.
        password: Required before anything is shown; any user name works.
        upload_limit_mb: Maximum size of an upload, in megabytes.
        wait: Whether to return only once the page is stopped.

    Returns:
        The page's address.

    Raises:
        ConfigError: The page would be open to others without a password.
        MachineError: The port is already in use.
    """
    require_password(host, share=share, password=password)
    _remove_old_uploads(project / UPLOADS)
    is_notebook = any(name in os.environ for name in _NOTEBOOKS)
    upload_limit = upload_limit_mb * 1_000_000
    gate = Middleware(
        Gate,
        project=project,
        events=frozenset(blocks.fns),
        upload_limit=upload_limit,
        any_host=bool(password) or is_notebook,
        may_be_framed=is_notebook,
        scripts=_SCRIPTS_OF_SHARED if share else "",
    )
    try:
        _, address, shared = blocks.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port or None,
            share=share,
            # gradio awaits it, although its type hints do not say so.
            auth=_password_check(password) if password else None,  # type: ignore[arg-type]
            max_file_size=upload_limit,
            allowed_paths=[str(project)],
            root_path="",
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            show_error=True,
            app_kwargs={"middleware": [gate, Middleware(RelativeAddresses)]},
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:
        # gradio's own message mentions settings that the user does not have.
        raise MachineError(
            f"The page cannot use port {port} on {host}: it is in use, or this machine has no such address or port. "
            "Pass a different --port or --host."
        ) from error
    print(f"The page is at {shared or address}\nPress Ctrl-C to close it. Jobs keep running.", flush=True)
    if wait:
        blocks.block_thread()
    return shared or address


def require_password(host: str, *, share: bool, password: str) -> None:
    """Raise ConfigError if others could open the page without a password."""
    if not password and (share or host not in LOCAL_HOSTS):
        raise ConfigError(
            "Other people could open the page. Pass --password, or omit --host and --share to limit it to this machine."
        )


def _password_check(password: str) -> Callable[[str, str], Awaitable[bool]]:
    """Return a function that checks a password. It checks one guess at a time, so that nobody can try many."""
    turn = asyncio.Lock()

    async def is_right(user: str, given: str) -> bool:
        async with turn:
            known = hmac.compare_digest(given.encode("utf-8", "replace"), password.encode("utf-8", "replace"))
            if not known:
                await asyncio.sleep(_GUESS_S)
            return known

    return is_right


def _remove_old_uploads(folder: Path) -> None:
    """Remove old files left behind by killed pages. Newer files may belong to another page."""
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if file.is_file() and time.time() - file.stat().st_mtime > CACHE_S:
                file.unlink()
