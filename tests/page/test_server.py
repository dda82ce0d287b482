"""Attacks on the served page: what is refused, and that nothing outside of the project is read, written or started."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
import threading
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("gradio")

from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.page import jobs
from xtts_extend.page.app import build
from xtts_extend.page.project import Project, Settings
from xtts_extend.page.server import serve, set_environment

LIMIT_MB = 5
SCRIPT = "<img src=x onerror=alert(1)>"
FILE_DATA = {"_type": "gradio.FileData"}
#: Environment variables with which gradio would open the page, or break it.
VARIABLES = {
    "GRADIO_SHARE": "True",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_ROOT_PATH": "/elsewhere",
    "GRADIO_ALLOWED_PATHS": "/",
    "GRADIO_BLOCKED_PATHS": "",
    "GRADIO_SSR_MODE": "True",
    "GRADIO_NODE_SERVER_NAME": "0.0.0.0",
    "GRADIO_MCP_SERVER": "True",
    "GRADIO_NUM_WORKERS": "2",
    "GRADIO_ANALYTICS_ENABLED": "True",
    "GRADIO_TEMP_DIR": "/elsewhere",
    "GRADIO_DEBUG": "1",
}


class Witness:
    """What the process did, as Python's audit events tell it."""

    def __init__(self) -> None:
        self.outside: Path | None = None
        self.opened: list[str] = []
        self.started: list[str] = []
        self.connected: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, details: tuple[Any, ...]) -> None:
        if self.outside is None:
            return
        if event == "open" and isinstance(details[0], str) and details[0].startswith(str(self.outside)):
            self.opened.append(details[0])
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile"):
            self.started.append(str(details))
        elif event == "socket.getaddrinfo" and str(details[0]) not in ("127.0.0.1", "localhost", "::1", "None"):
            self.connected.append(str(details[0]))


class Page:
    """A served page and a client."""

    def __init__(self, project: Project, upload_limit_mb: int = LIMIT_MB, **options: Any) -> None:
        self.project = project
        self.blocks = build(project, upload_limit_mb=upload_limit_mb)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = serve(
            self.blocks, project.folder, port=port, upload_limit_mb=upload_limit_mb, wait=False, **options
        ).rstrip("/")
        self.client = httpx.Client(base_url=self.address, timeout=60)
        self.config = self.blocks.config
        self.components = {one["id"]: one for one in self.config["components"]}
        self.events = {one["id"]: one for one in self.config["dependencies"]}

    def label(self, component: int) -> str:
        return str(self.components[component]["props"].get("label"))

    def event(self, button: str) -> int:
        """Return the number of a button's event, or of a dropdown's."""
        for number, event in self.events.items():
            for target, _ in event["targets"]:
                props = self.components.get(target, {"props": {}})["props"]
                if button in (props.get("value"), props.get("label")):
                    return number
        raise LookupError(button)

    def fire(self, number: int, data: list[Any], session: str = "session", **headers: str) -> str | list[Any]:
        """Return what an event shows, or its error."""
        content = json.dumps({"fn_index": number, "data": data, "session_hash": session}).encode()
        headers = {"content-type": "application/json", **headers}
        response = self.client.post("/gradio_api/queue/join", content=content, headers=headers)
        if response.status_code != 200:
            assert response.status_code in (400, 413, 422), response.text
            return response.text
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    assert message["msg"] != "unexpected_error", message
                    if message["msg"] == "process_completed":
                        output = message["output"]
                        return output["data"] if message["success"] else str(output["error"])
        raise AssertionError("The event has not ended.")

    def open_screens(self, session: str = "session") -> None:
        """Open all screens, so that the dropdowns have choices."""
        for number, event in self.events.items():
            if event["targets"][0][1] in ("select", "load"):
                self.fire(number, [], session)

    def upload(self, *files: tuple[str, bytes], **headers: str) -> httpx.Response:
        return self.client.post("/gradio_api/upload", files=[("files", file) for file in files], headers=headers)


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def write_recording(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(b"\1\0" * 24_000)


def snapshot(folder: Path, *leave_out: Path) -> dict[str, bytes]:
    """Return name → content for all files below a folder."""
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(path.is_relative_to(one) for one in leave_out)
    }


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ፕሮጀክቶች of mine")


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


@pytest.fixture(scope="module")
def project(parent) -> Project:
    """A small project beside a base model and a folder with secrets."""
    write(parent / "outside" / "secret.txt", "secret")
    for name in ("config.json", "model.pth", "vocab.json"):
        write(parent / "base" / name, "{}")
    project = Project.open(parent / "project")
    project.save(Settings("am", str(parent / "base")))
    folder = project.folder
    for name in ("data/wavs/a.wav", "voices/v.wav", "runs/run/samples/000010-0-am.wav", "compared/one/a.wav"):
        write_recording(folder / name)
    rows = f"audio_file|text|speaker_name\nwavs/a.wav|{SCRIPT}|s\n../../outside/secret.txt|text|s\n"
    write(folder / "data" / "train.csv", rows)
    write(folder / "data" / f"{SCRIPT}.csv", "audio_file|text|speaker_name\n")
    write(folder / "runs" / "run" / "config.json", '{"language": "am", "test_sentences": [{"text": "ሰላም"}]}')
    write(folder / "runs" / "run" / "checkpoint_10.pth", "damaged")
    write(folder / "vocabularies" / "v.json", "{}")
    write(folder / "models" / "am.safetensors", "pack")
    compared = {"sources": [{"path": "m", "languages": {"am": {"file": "a.wav", "seconds": 1.0}}}]}
    write(folder / "compared" / "one" / "compared.json", json.dumps(compared))
    write(folder / "jobs" / "old" / "command.json", "{}")
    (folder / "data" / "link.wav").symlink_to(parent / "outside" / "secret.txt")
    (folder / "data" / "jobs.csv").symlink_to(folder / "jobs" / "old" / "command.json")
    return project


@pytest.fixture(scope="module")
def started() -> Iterator[list[list[str]]]:
    """Arguments of the jobs that would have been started."""
    found: list[list[str]] = []

    def start(folder: Path) -> None:
        found.append(list(jobs.read_job(folder).arguments))
        raise OSError("no processes in tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_start_process", start)
        yield found


@pytest.fixture(scope="module")
def page(project, parent, started, witness) -> Iterator[Page]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        for name in ("COLAB_RELEASE_TAG", "LIGHTNING_CLOUD_PROJECT_ID"):
            patch.delenv(name, raising=False)
        page = Page(project)
        page.open_screens()
        yield page
        page.blocks.close(verbose=False)


@pytest.fixture
def nothing_outside(page, parent, started, witness) -> Iterator[None]:
    """Assert that nothing outside of the project is read or changed, and that nothing starts or connects."""
    folder = page.project.folder
    before = snapshot(parent, folder)
    job_folders = list((folder / "jobs").iterdir())
    witness.opened, witness.started, witness.connected = [], [], []
    witness.outside = parent / "outside"
    yield
    witness.outside = None
    assert snapshot(parent, folder) == before
    assert list((folder / "jobs").iterdir()) == job_folders
    assert (witness.opened, witness.started, witness.connected) == ([], [], [])


#: Label of a component → value with which its events get as far as they can.
VALID: dict[str, Any] = {
    "Language to learn": "am",
    "Manifest": "train.csv",
    "Row": 1,
    "First row": 1,
    "Text": "ሰላም",
    "Texts to learn from": ["train.csv"],
    "New entries": 100,
    "Name of the vocabulary": "new",
    "Vocabulary": "v.json",
    "1. Which recordings to learn from?": "train.csv",
    "2. Which recordings to test on?": "train.csv",
    "3. Which vocabulary?": "v.json",
    "4. How long?": 24,
    "Unit": "hours",
    "5. Which voice speaks a test sentence?": "v.wav",
    "Test sentence": "ሰላም",
    "Run": "run",
    "Run to resume": "run",
    "Run to export": "run",
    "Models to compare": ["base model"],
    "Languages": "am, en",
    "Voice": ["v.wav"],
    "Text to speak": "ሰላም",
    "Comparison to listen to": "one",
    "What to write": "Model folder (base and pack)",
    "Name of the export": "export",
    "Licence of the recordings": "",
    "Pack to download": "am.safetensors",
}


def hostile_values(parent: Path) -> list[Any]:
    secret = str(parent / "outside" / "secret.txt")
    return [
        "../../outside/secret.txt", secret, "..\\..\\outside\\secret.txt", "file://" + secret, "a\0b", "a\nb", "\ud800",
        f"$(touch {parent}/pwned)", f"; rm -rf {parent}/outside", f"| touch {parent}/pwned", f"--output={parent}/pwned",
        "-h", "x" * 100_000, "CON", "", None, [], {}, ["../../outside/secret.txt"], [None, [[]]], True, -1, 10**400,
        float("nan"), float("inf"), 1e308, {"path": secret}, {"path": secret, "meta": FILE_DATA},
        [{"path": secret, "meta": FILE_DATA, "orig_name": "a.csv"}],
        [{"path": "http://example.org/a.csv", "meta": FILE_DATA, "orig_name": "a.csv"}],
    ]  # fmt: skip


def attack(page: Page, started: list[list[str]], event: dict[str, Any], place: int, value: Any) -> None:
    """Send one hostile value among valid ones."""
    labels = [page.label(one) for one in event["inputs"]]
    data = [VALID.get(label) for label in labels]
    data[place] = value
    started.clear()
    answer = page.fire(event["id"], data)
    if isinstance(answer, str):
        assert answer.strip() not in ("", "None"), (labels[place], value)
        assert not any(word in answer for word in ("Traceback", "object at 0x", 'File "', "Internal Server")), answer
    free = ("--text=", "--test-sentence=", "--licence=")
    for argument in (one for arguments in started for one in arguments):
        hostile = value if isinstance(value, str) and len(value) > 3 else "outside"
        assert hostile not in argument or argument.startswith(free), (labels[place], argument)


def attacks(page: Page, values: list[Any]) -> Iterator[tuple[dict[str, Any], int, Any]]:
    """Yield every value for every field of every event."""
    for event in page.events.values():
        for place, component in enumerate(event["inputs"]):
            if page.components[component]["type"] != "state":
                yield from ((event, place, value) for value in values)


def test_hostile_values_in_any_field_stay_in_the_project(page, parent, started, nothing_outside):
    tried = list(attacks(page, hostile_values(parent)))
    # Every field gets some of the values, and every value some of the fields; the slow test tries all.
    for event, place, value in tried[:: max(1, len(tried) // 150) | 1]:
        attack(page, started, event, place, value)


@pytest.mark.slow
def test_all_hostile_values_in_all_fields_stay_in_the_project(page, parent, started, nothing_outside):
    for event, place, value in attacks(page, hostile_values(parent)):
        attack(page, started, event, place, value)


def test_valid_values_do_start_jobs(page, started):
    started.clear()
    labels = [page.label(one) for one in page.events[page.event("Compare")]["inputs"]]
    answer = page.fire(page.event("Compare"), [VALID[label] for label in labels])
    assert answer == "Comparison could not be started (no processes in tests). Free memory or disk space."
    assert started[0][:2] == ["compare", "--json"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "damaged"), (b"[]", "damaged"), (b"{", "damaged"), (b"\xff", "damaged"), (b"[" * 100_000, "damaged"),
        (b'{"fn_index": 0, "data": [NaN], "session_hash": "a"}', "NaN is not a number"),
        (b'{"fn_index": 0, "data": [1e999], "session_hash": "a"}', "1e999 is not a number"),
        (b'{"fn_index": 0, "data": ["\\ud800"], "session_hash": "a"}', "unpaired surrogate"),
        (b'{"fn_index": 99999, "data": [], "session_hash": "a"}', "page has changed"),
        (b'{"fn_index": "0", "data": [], "session_hash": "a"}', "page has changed"),
        (b'{"fn_index": [], "data": [], "session_hash": "a"}', "damaged"),
        (b'{"fn_index": 0, "data": {}, "session_hash": "a"}', "page has changed"),
        (b'{"fn_index": 0, "data": [], "session_hash": "../a"}', "page has changed"),
        (b'{"fn_index": 0, "data": [], "session_hash": null}', "damaged"),
        (b'{"data": [], "session_hash": "a"}', "damaged"),
    ],
    ids=lambda value: str(value[:50]),
)  # fmt: skip
def test_damaged_events_are_refused(page, body, sentence):
    response = page.client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, sentence in response.text) == (400, True), response.text


def test_long_requests_are_refused(page):
    response = page.client.post("/gradio_api/queue/join", content=b"x" * 5_000_000)
    assert (response.status_code, "at most 4,000,000 bytes" in response.text) == (413, True)


def test_messages_show_markup_as_text(page):
    number = page.event("Check the data")
    assert "&lt;img src=x onerror=alert(1)&gt;.csv has a header" in page.fire(
        page.event("Manifest"), [f"{SCRIPT}.csv", 1]
    )
    assert "<img" not in str(page.fire(number, [f"{SCRIPT}.csv"]))


def test_files_of_the_project_are_served_and_nothing_else(page, parent, nothing_outside):
    folder = page.project.folder
    response = page.client.get(f"/gradio_api/file={folder}/voices/v.wav")
    assert response.content == (folder / "voices" / "v.wav").read_bytes()
    # A page among the files could otherwise act for the user.
    assert "sandbox" in response.headers["content-security-policy"]
    secret = parent / "outside" / "secret.txt"
    refused = [
        secret, f"{folder}/../outside/secret.txt", f"{folder}/data/../../outside/secret.txt", "/etc/passwd",
        f"{folder}/%2e%2e/outside/secret.txt", f"{folder}/%252e%252e/outside/secret.txt",
        f"{folder}%2f..%2foutside%2fsecret.txt",
        f"{folder}/..\\outside\\secret.txt", "../outside/secret.txt", "outside/secret.txt", f"//{secret}", f"file://{secret}",
        "http://example.org/a.wav", "https://127.0.0.1/", f"{folder}/data/link.wav", f"{folder}/project.json",
        f"{folder}/PROJECT.JSON", f"{folder}/data/../project.json", f"{folder}/jobs/old/command.json",
        f"{folder}/data/jobs.csv", f"{folder}/jobs", f"{folder}", f"{folder}/missing.wav", f"{folder}/a%00b", "%00", "",
        "x" * 5000, f"{parent}/base/config.json",
    ]  # fmt: skip
    for name in refused:
        for method in ("GET", "HEAD"):
            response = page.client.request(method, f"/gradio_api/file={name}")
            assert response.status_code in (403, 404), name
            assert b"secret" not in response.content or b"no such" in response.content, name


@pytest.mark.parametrize(
    "route",
    ["proxy=http://a.hf.space/", "stream/a", "component_server", "component_server/", "deep_link?session_hash=session",
     "process_recording", "run/predict", "api/predict", "call/predict", "call/v2/predict", "run-history/buckets",
     "runs", "vibe-edit", "vibe-code", "dev/reload", "openapi.json", "token", "user", "mcp", "mcp/sse", "reset",
     "cancel", "file/etc/passwd", "custom_component/a/client/b/c.js", "profiling/traces", "monitoring", "../monitoring",
     "../monitoring/summary", "../monitoring/key", "../pwa_icon", "../docs", "../openapi.json", "heartbeat", "."],
)  # fmt: skip
def test_other_routes_are_closed(page, route, nothing_outside):
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
        response = page.client.request(method, f"/gradio_api/{route}")
        assert (response.status_code, response.text) == (404, "There is nothing at this address."), method


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


def test_uploads_have_names_of_their_own_and_a_limit(page, nothing_outside):
    uploads = page.project.folder / ".page"
    for name in (
        "../../outside/a.csv",
        "/etc/a.csv",
        "..\\..\\a.csv",
        "a\0.csv",
        "..",
        "",
        "a" * 5000 + ".csv",
        "$(id).csv",
    ):
        response = page.upload((name, b"x"))
        assert response.status_code in (200, 400, 413), response.text
        paths = response.json() if response.status_code == 200 else []
        assert all(Path(path).resolve().is_relative_to(uploads) for path in paths)
    before = snapshot(uploads)
    too_large = page.upload(("a.csv", b"x" * (LIMIT_MB * 1_000_000 + 1)))
    assert (too_large.status_code, "exceeded maximum allowed size" in too_large.text) == (413, True)
    together = page.upload(*((f"{number}.csv", bytes([number]) * 4_000_000) for number in range(3)))
    assert (together.status_code, "The files exceed the maximum allowed size of 5 MB per upload" in together.text) == (
        413,
        True,
    )
    assert snapshot(uploads) == before


def test_damaged_uploads_are_refused_with_a_sentence(page):
    kind = {"content-type": "multipart/form-data; boundary=zz"}
    for content in (
        b"",
        b"zz",
        b"--zz\r\n\r\n",
        b'--zz\r\nContent-Disposition: form-data; name="files"\r\n\r\na\r\n--zz--\r\n',
    ):
        response = page.client.post("/gradio_api/upload", content=content, headers=kind)
        assert response.status_code in (200, 400), response.text
        assert "Traceback" not in response.text
    assert page.client.post("/gradio_api/upload", content=b"x").status_code == 400


def test_an_upload_that_is_cut_off_leaves_nothing(page):
    uploads = page.project.folder / ".page"
    before = snapshot(uploads)
    host, port = page.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 3000000\r\n"
        part = '--zz\r\nContent-Disposition: form-data; name="files"; filename="cut.csv"\r\n\r\n'
        kind = "Content-Type: multipart/form-data; boundary=zz\r\n\r\n"
        connection.sendall((head + kind + part).encode() + b"x" * 1_000_000)
        time.sleep(0.3)
        assert len(snapshot(uploads)) == len(before) + 1
    end = time.monotonic() + 10
    while snapshot(uploads) != before and time.monotonic() < end:
        time.sleep(0.05)
    assert snapshot(uploads) == before


def test_an_upload_stops_before_the_disk_is_full(page, monkeypatch):
    monkeypatch.setattr("xtts_extend.page.gate.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    response = page.upload(("a.csv", b"x"))
    assert (response.status_code, response.text) == (
        400, "The disk is full. Free some space, then upload the files again."
    )  # fmt: skip


def test_uploaded_files_are_stored_under_their_checked_names(page, nothing_outside):
    number = page.event("Add files")
    path = page.upload(("ok.csv", b"audio_file|text|speaker_name\n")).json()[0]
    for name in (
        "../../outside/a.csv",
        "/etc/a.csv",
        "a/b.csv",
        "..\\a.csv",
        "$(id).csv",
        "-h.csv",
        "a\0.csv",
        "a.exe",
    ):
        answer = page.fire(number, [[{"path": path, "orig_name": name, "meta": FILE_DATA}]])
        assert (isinstance(answer, str) and answer.endswith((".", "+,"))) or "Use up to" in str(answer), answer
    taken = page.project.folder / "data" / "train.csv"
    answer = page.fire(number, [[{"path": str(taken), "orig_name": "b.csv", "meta": FILE_DATA}]])
    assert answer == "This file was not uploaded here, or has since been removed. Upload it again."
    assert not {"a.csv", "b.csv", "a.exe"} & {file.name for file in (page.project.folder / "data").rglob("*")}


def test_recordings_behind_links_are_not_copied_to_the_page(page, nothing_outside):
    """The second row of the manifest names a file outside of the project."""
    number = page.event("Row")
    player, text = page.fire(number, ["train.csv", 2])
    assert (player, text) == (None, "text")


def test_shown_recordings_are_copied_into_the_project_only(page, nothing_outside):
    labels = [page.label(one) for one in page.events[page.event("Comparison to listen to")]["inputs"]]
    assert labels == ["Comparison to listen to"]
    shown = page.fire(page.event("Comparison to listen to"), ["one"])[1]["value"]
    assert Path(shown["path"]).is_relative_to(page.project.folder / ".page")
    assert page.client.get(shown["url"]).content == (page.project.folder / "compared" / "one" / "a.wav").read_bytes()


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


def test_old_uploads_are_removed_when_the_page_starts(tmp_path, monkeypatch):
    from xtts_extend.page.server import _remove_old_uploads

    for name in ("old", "new"):
        write(tmp_path / name / "a.csv", name)
    os.utime(tmp_path / "old" / "a.csv", (0, 0))
    _remove_old_uploads(tmp_path)
    assert snapshot(tmp_path) == {str(tmp_path / "new" / "a.csv"): b"new"}


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
def test_ports_that_cannot_be_used_are_said(page, project, port):
    port = port or int(page.address.rpartition(":")[2])
    other = build(project, upload_limit_mb=LIMIT_MB)
    with pytest.raises(MachineError, match=f"cannot use port {port} on 127.0.0.1: it is in use"):
        serve(other, project.folder, port=port, wait=False)


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
def locked(project, page) -> Iterator[Page]:
    """The page with a password, on a notebook service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLAB_RELEASE_TAG", "release")
        patch.setenv("GRADIO_TEMP_DIR", "")
        locked = Page(project, password="ይለፍ ቃል")
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


def memory() -> int:
    """Return the process's memory in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_upload_is_streamed_to_disk(project, page):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        large = Page(project, upload_limit_mb=400)
    boundary, size = b"zz", 300_000_000
    head = b'--zz\r\nContent-Disposition: form-data; name="files"; filename="large.csv"\r\n\r\n'

    def content() -> Iterator[bytes]:
        yield head
        for _ in range(size // 1_000_000):
            yield b"x" * 1_000_000
        yield b"\r\n--zz--\r\n"

    before, most = memory(), 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.01):
            most = max(most, memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    kind = {"content-type": f"multipart/form-data; boundary={boundary.decode()}"}
    response = large.client.post("/gradio_api/upload", content=content(), headers=kind, timeout=300)
    ended.set()
    watcher.join()
    stored = Path(response.json()[0]).stat().st_size
    # This removes the upload.
    large.blocks.close(verbose=False)
    assert stored == size
    assert most - before < 50_000_000, f"{(most - before) / 1e6:.0f} MB"


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
