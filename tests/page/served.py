"""A small project whose page is served, a client for the page, and a witness of what the process does meanwhile."""

from __future__ import annotations

import json
import resource
import socket
import sys
import wave
from pathlib import Path
from typing import Any

import httpx
import pytest
from data_sets import clip, write_data_set

pytest.importorskip("gradio")

from xtts_extend.corpus.clip import Reason
from xtts_extend.page.app import build
from xtts_extend.page.project import Project, Settings
from xtts_extend.page.server import serve

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


def make_project(parent: Path) -> Project:
    """Return a small project in a folder, beside a base model and a folder with secrets."""
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
    for name in ("recordings/talk.mp3", "recordings/book.txt", "ctc/config.json"):
        write(folder / name, name)
    write_data_set(folder / "data" / "dataset", clip(1, 0.9, text=SCRIPT), clip(3, 0.4), clip(5, 0.2, Reason.NOISY))
    (folder / "data" / "link.wav").symlink_to(parent / "outside" / "secret.txt")
    (folder / "data" / "jobs.csv").symlink_to(folder / "jobs" / "old" / "command.json")
    return project


def memory() -> int:
    """Return the process's memory in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
