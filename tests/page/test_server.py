"""Who may open the served page: other websites, proxies, passwords, and what the environment says."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from served import LIMIT_MB, VARIABLES, Page, memory

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.page.app import build
from xtts_extend.page.server import serve, set_environment

CROSS = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "{address}"}, 200),
        ({"origin": "{address}", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "{address}.evil.example"}, 403),
        ({"origin": "http://evil.example", "x-forwarded-host": "other.example"}, 403),
        (CROSS, 403),
        ({**CROSS, "origin": "{address}"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:7860"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "["}, 403),
        ({"host": "0.0.0.0"}, 403),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:1"}, 200),
    ],
)
def test_other_websites_cannot_send_requests(page, headers, status, nothing_outside):
    headers = {name: value.format(address=page.address) for name, value in headers.items()}
    assert page.client.get("/config", headers=headers).status_code == status
    event = {"fn_index": page.event("Check this machine"), "data": [], "session_hash": "foreign"}
    if status == 403:
        for method in ("POST", "PUT", "DELETE"):
            refused = page.client.request(method, "/gradio_api/queue/join", json=event, headers=headers)
            assert refused.status_code == 403
        assert page.upload(("foreign.csv", b"x"), **headers).status_code == 403
        assert not list((page.project.folder / ".page").rglob("foreign.csv"))
        # gradio answers this question itself, without content; the request that is asked for is refused.
        asked = {"origin": "http://evil.example", **headers, "access-control-request-method": "POST"}
        assert page.client.options("/gradio_api/queue/join", headers=asked).text in ("OK", "")


def test_links_lead_to_the_page_but_not_into_a_frame(page):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    response = page.client.get("/", headers=link)
    assert response.status_code == 200
    assert "frame-ancestors 'self'" in response.headers["content-security-policy"]
    assert page.client.get("/", headers={**link, "sec-fetch-dest": "iframe"}).status_code == 403
    assert page.client.head("/").status_code == 200
    assert page.client.post("/", headers=link).status_code == 403


def test_websockets_are_refused(page):
    headers = {
        "upgrade": "websocket",
        "connection": "upgrade",
        "sec-websocket-key": "eA==",
        "sec-websocket-version": "13",
    }
    for path in ("/", "/gradio_api/queue/join"):
        assert page.client.get(path, headers={**headers, "sec-fetch-mode": "navigate"}).status_code in (200, 403, 404)


def test_the_environment_cannot_open_the_page(page):
    blocks = page.blocks
    assert (blocks.share, blocks.server_name, blocks.root_path, blocks.ssr_mode) == (False, "127.0.0.1", "", False)
    assert blocks.allowed_paths == [str(page.project.folder)]
    assert (blocks.mcp_server, blocks.analytics_enabled, page.blocks.run_history) == (False, False, False)
    assert not [
        name for name in VARIABLES if name in os.environ and name not in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")
    ]
    caches = {Path(one.GRADIO_CACHE) for one in blocks.blocks.values() if hasattr(one, "GRADIO_CACHE")}
    assert caches == {page.project.folder / ".page"}


def test_the_page_loads_nothing_from_elsewhere(page, nothing_outside):
    html = page.client.get("/").text
    assert "googleapis" not in html + page.client.get("/theme.css").text
    assert 'src="http' not in html
    assert 'href="http' not in html
    assert "default-src 'self'" in page.client.get("/").headers["content-security-policy"]


def test_proxies_of_the_user_are_not_asked_for_the_page(tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "intern.example")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")
    set_environment(tmp_path)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intern.example,127.0.0.1,localhost,::1"
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path / ".page")


@pytest.mark.parametrize(
    "options", [{"host": "0.0.0.0"}, {"host": "192.168.1.2"}, {"host": "::"}, {"share": True}, {"host": ""}]
)
def test_pages_for_others_need_a_password(page, options):
    with pytest.raises(ConfigError, match="Other people could open the page. Pass --password, or"):
        serve(page.blocks, page.project.folder, **options)


@pytest.mark.parametrize("port", [None, 99_999_999])
def test_ports_that_cannot_be_used_are_said(page, port):
    port = port or int(page.address.rpartition(":")[2])
    other = build(page.project, upload_limit_mb=LIMIT_MB)
    with pytest.raises(MachineError, match=f"cannot use port {port} on 127.0.0.1: it is in use"):
        serve(other, page.project.folder, port=port, wait=False)


class Proxy(BaseHTTPRequestHandler):
    """A notebook's proxy: it takes a part off the path, and names the server by its own address."""

    target = ""

    def _pass_on(self) -> None:
        assert self.path.startswith("/proxy/7860/")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        with httpx.stream(
            self.command, self.target + self.path.removeprefix("/proxy/7860"), content=body,
            headers={**headers}, timeout=60,
        ) as response:  # fmt: skip
            self.send_response(response.status_code)
            for name in ("content-type", "content-encoding"):
                if name in response.headers:
                    self.send_header(name, response.headers[name])
            self.end_headers()
            for block in response.iter_raw():
                self.wfile.write(block)
                self.wfile.flush()

    do_GET = do_POST = _pass_on

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def behind_proxy(page: Page) -> Iterator[str]:
    """Serve a page behind a proxy as well; yields its address there."""
    handler = type("Handler", (Proxy,), {"target": page.address})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/proxy/7860"
    finally:
        server.shutdown()
        server.server_close()


def test_the_page_works_behind_a_proxy_that_strips_its_path(page):
    with behind_proxy(page) as address, httpx.Client(timeout=60) as client:
        html = client.get(f"{address}/").text
        assert "window.gradio_config.root = location.origin + location.pathname" in html
        assert html.index("window.gradio_config.root") > html.index("window.gradio_config =")
        # As a browser sends them; the proxy keeps them.
        browser = {"referer": f"{address}/", "sec-fetch-site": "same-origin", "origin": "http://proxy.example"}
        inner, page.client = page.client, client
        client.base_url = httpx.URL(address)
        try:
            shown = page.fire(page.event("Comparison to listen to"), ["one"], **browser)[1]["value"]
        finally:
            page.client = inner
        assert shown["url"].startswith(f"{address}/gradio_api/file=")
        assert client.get(shown["url"]).content == (page.project.folder / "compared" / "one" / "a.wav").read_bytes()


@pytest.fixture(scope="module")
def locked(page) -> Iterator[Page]:
    """The page with a password, on a notebook service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLAB_RELEASE_TAG", "release")
        patch.setenv("GRADIO_TEMP_DIR", "")
        locked = Page(page.project, password="ይለፍ ቃል")
        yield locked
        locked.blocks.close(verbose=False)


def test_nothing_is_open_without_the_password(locked, nothing_outside):
    client = locked.client
    html = client.get("/").text
    assert "Manifest" not in html
    assert '"auth_required":true' in html
    event = {"fn_index": locked.event("Check this machine"), "data": [], "session_hash": "locked"}
    voice = f"/gradio_api/file={locked.project.folder}/voices/v.wav"
    for attempt in ({}, {"cookies": {"access-token": "x"}}, {"headers": {"authorization": "Bearer x"}}):
        assert client.get("/config", **attempt).status_code == 401
        assert client.get("/gradio_api/info", **attempt).status_code == 401
        assert client.get(voice, **attempt).status_code == 401
        assert client.get("/gradio_api/queue/data?session_hash=locked", **attempt).status_code == 401
        assert client.get("/gradio_api/upload_progress?upload_id=a", **attempt).status_code == 401
        assert client.post("/gradio_api/queue/join", json=event, **attempt).status_code == 401
        assert client.post("/gradio_api/upload", files={"files": ("locked.csv", b"x")}, **attempt).status_code == 401
    assert not list((locked.project.folder / ".page").rglob("locked.csv"))


def test_guesses_of_the_password_take_turns(locked):
    begin = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        wrong = ["", "x", "\ud800" * 0 + "ይለፍ"]
        forms = [{"username": "a", "password": guess} for guess in wrong]
        statuses = list(pool.map(lambda form: httpx.post(f"{locked.address}/login", data=form).status_code, forms))
    assert set(statuses) <= {400, 422}
    assert time.monotonic() - begin > statuses.count(400) - 0.5
    with httpx.Client(base_url=locked.address) as client:
        assert client.post("/login", data={"username": "a", "password": "ይለፍ ቃል"}).status_code == 200
        assert client.get("/config").status_code == 200


def test_the_page_works_behind_a_proxy_with_a_name_of_its_own(locked):
    """As on Colab: another host name, a frame of another website, and https in front."""
    forwarded = {"x-forwarded-host": "7860-colab.example", "x-forwarded-proto": "https"}
    frame = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    for headers in (forwarded, {"host": "7860-colab.example"}):
        response = httpx.get(locked.address, headers={**headers, **frame})
        assert response.status_code == 200
        assert "frame-ancestors" not in response.headers["content-security-policy"]
        own = {**headers, "origin": "https://7860-colab.example"}
        assert httpx.get(f"{locked.address}/config", headers=own).status_code == 401
        foreign = {**headers, "origin": "https://evil.example"}
        assert httpx.get(f"{locked.address}/config", headers=foreign).status_code == 403


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fifty_pages_are_answered(page, nothing_outside):
    """Each page opens a screen, and its timers tick, at the same time as those of the others."""
    loads = [number for number, event in page.events.items() if event["targets"][0][1] == "load"]
    ticks = [number for number, event in page.events.items() if event["targets"][0][1] == "tick"][:2]
    data = {number: [None] * len(page.events[number]["inputs"]) for number in page.events}

    def use_page(session: str) -> list[float]:
        times = []
        for number in loads + ticks * 3:
            begin = time.monotonic()
            page.fire(number, data[number], session)
            times.append(time.monotonic() - begin)
        return times

    use_page("first")
    memories, times = [memory()], []
    for _ in range(3):
        with ThreadPoolExecutor(50) as pool:
            times = sorted(one for found in pool.map(use_page, [f"page{n}" for n in range(50)]) for one in found)
        memories.append(memory())
    said = [f"{one / 1e6:.0f} MB" for one in memories]
    print(said, f"median {times[len(times) // 2]:.2f} s", f"worst {times[-1]:.2f} s")
    assert times[len(times) // 2] < 2, times
    # The first turn makes the sessions and the threads.
    assert memories[3] - memories[1] < 50_000_000, said
