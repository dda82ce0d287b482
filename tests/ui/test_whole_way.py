"""The whole way in a real browser, from recordings to a sentence in the new language. The page is killed in between."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api", reason="the page's tests need the extra 'test-ui'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="the page's tests need Chromium")]
#: Without these, Chromium asks Google's servers for updates at every start.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
JOB_MS = 240_000
SENTENCE = "ሰላም ለዓለም"


class Page:
    """The page's process and a browser tab on it.

    Args:
        project: Project folder.
        base: Base model's folder.
        browser: Playwright's browser.
        shots: Folder for screenshots.
    """

    def __init__(self, project: Path, base: Path, browser, shots: Path) -> None:
        self.project, self.base, self.browser, self.shots = project, base, browser, shots
        self.start()

    def start(self) -> None:
        """Start the page's process on a free port, and open it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "xtts_extend", "ui", str(self.project), f"--base-dir={self.base}"]
        self.process = subprocess.Popen([*command, f"--port={port}"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("The page is at "), line
        self.tab = self.browser.new_page(viewport={"width": 1200, "height": 1300})
        self.tab.goto(line.removeprefix("The page is at ").strip())
        self.tab.get_by_text("Next:").wait_for(timeout=60_000)

    def kill(self) -> None:
        """Kill the page's process as a crash would."""
        self.tab.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def open(self, name: str) -> None:
        """Open a screen."""
        self.tab.get_by_role("tab", name=name, exact=True).click()
        self.tab.wait_for_timeout(1_500)

    @property
    def panel(self):
        """The screen that is open."""
        return self.tab.locator("div[role=tabpanel]:visible").first

    def field(self, label: str):
        """The field with a label; its hint belongs to the name that browsers give it."""
        escaped = re.sub(r"([.?()])", r"\\\1", label)
        return self.panel.get_by_label(re.compile(rf"^\s*{escaped}(\s|$)")).first

    def fill(self, label: str, value: str) -> None:
        """Type into a field."""
        field = self.field(label)
        field.fill(value)
        field.press("Tab")

    def choose(self, label: str, *names: str) -> None:
        """Choose from a dropdown."""
        for name in names:
            self.field(label).click()
            self.tab.get_by_role("option", name=name, exact=True).click()
        self.field(label).press("Escape")

    def press(self, name: str) -> None:
        """Press a button."""
        self.panel.get_by_role("button", name=name, exact=True).click()

    def finish(self, title: str, state: str = "finished") -> None:
        """Wait until a job has a state."""
        text = self.panel.locator(".prose.job-state", has_text=title)
        sync_api.expect(text).to_contain_text(f"· {state}", timeout=JOB_MS)

    def shoot(self, name: str) -> None:
        """Take a screenshot."""
        self.tab.wait_for_timeout(1_000)
        self.tab.screenshot(path=self.shots / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip archive as a user would make it: two manifests of Amharic, one of English, and their recordings."""
    from xtts_extend.demo.speech import make_corpus
    from xtts_extend.demo.texts import sentences

    folder = tmp_path_factory.mktemp("recordings")
    lines = make_corpus(sentences("am", 60), "am", folder, progress=False).read_text(encoding="utf-8").splitlines(True)
    (folder / "train.csv").write_text("".join(lines[:49]), encoding="utf-8")
    (folder / "val.csv").write_text("".join(lines[:1] + lines[49:]), encoding="utf-8")
    english = make_corpus(sentences("en", 6), "en", folder / "english", progress=False)
    file = tmp_path_factory.mktemp("upload") / "ንግግር (1).zip"
    with zipfile.ZipFile(file, "w") as written:
        for name in ("train.csv", "val.csv"):
            written.write(folder / name, name)
        for wav in sorted((folder / "wavs").iterdir()):
            written.write(wav, f"wavs/{wav.name}")
        rows = english.read_text(encoding="utf-8").replace("wavs/", "wavs/en-")
        written.writestr("en.csv", rows)
        for wav in sorted((folder / "english" / "wavs").iterdir()):
            written.write(wav, f"wavs/en-{wav.name}")
    return file


@pytest.fixture
def page(browser, tmp_path: Path) -> Iterator[Page]:
    from xtts_extend.demo.mini_base import cached_mini_base

    shots = Path(os.environ.get("XTTS_EXTEND_SCREENSHOTS", tmp_path / "screenshots"))
    shots.mkdir(parents=True, exist_ok=True)
    opened = Page(tmp_path / "ማስተማር project", cached_mini_base(), browser, shots)
    yield opened
    opened.kill()


def status_of(project: Path) -> dict[str, object]:
    """Return the status of the only run."""
    (run,) = (folder for folder in (project / "runs").iterdir() if not folder.name.startswith("."))
    return {**json.loads((run / "status.json").read_text(encoding="utf-8")), "run": run}


def wait_for(condition, seconds: float = 240) -> None:
    """Wait until a condition holds; files that are not there yet do not count."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (OSError, ValueError):
            pass
        assert time.monotonic() < end, "the condition does not hold in time"
        time.sleep(0.5)


def test_from_recordings_to_a_sentence(page: Page, archive: Path) -> None:
    page.fill("Language to learn", "am")
    page.press("Save project")
    sync_api.expect(page.panel).to_contain_text("Add recordings", timeout=20_000)
    page.shoot("project")

    page.open("Data")
    page.panel.locator("input[type=file]").first.set_input_files(archive)
    sync_api.expect(page.panel).to_contain_text(archive.name, timeout=60_000)
    page.press("Add files")
    sync_api.expect(page.field("Manifest")).to_have_value("train.csv", timeout=60_000)
    sync_api.expect(page.panel).to_contain_text("Rows: 48", timeout=20_000)
    page.fill("Row", "2")
    page.tab.wait_for_timeout(3_000)
    page.fill("Text", SENTENCE)
    page.press("Save text")
    sync_api.expect(page.panel).to_contain_text("edited", timeout=20_000)
    page.fill("Row", "3")
    page.tab.wait_for_timeout(3_000)
    page.press("Leave recording out")
    sync_api.expect(page.panel).to_contain_text("left out", timeout=20_000)

    page.open("Vocabulary")
    page.fill("New entries", "300")
    page.press("Extend the vocabulary")
    page.finish("Extension")
    page.press("Prove that old text is tokenized as before")
    page.finish("Proof")
    page.fill("Sentence in the new language", SENTENCE)
    page.press("Show the tokens")
    sync_api.expect(page.panel).to_contain_text("[UNK]", timeout=30_000)
    page.shoot("vocabulary")

    page.open("Data")
    page.choose("Manifest", "train.csv")
    page.press("Check the data")
    page.finish("Data check")
    page.press("Show problems from the last check")
    page.shoot("data")

    page.open("Compare")
    page.panel.get_by_text("Add voices", exact=True).first.click()
    voice = page.project / "data" / "wavs" / "0000.wav"
    voice = voice if voice.exists() else sorted((page.project / "data" / "wavs").iterdir())[0]
    page.panel.locator("input[type=file]").first.set_input_files(
        {"name": "ድምፅ voice.wav", "mimeType": "audio/wav", "buffer": voice.read_bytes()}
    )
    page.panel.get_by_role("button", name="Add voices", exact=True).last.click()
    wait_for((page.project / "voices" / "ድምፅ voice.wav").exists, 30)

    page.open("Train")
    page.choose("2. Which recordings should it be tested on?", "val.csv")
    page.field("steps").check()
    page.fill("4. How long?", "400")
    page.choose("5. Which voice should speak a test sentence?", "ድምፅ voice.wav")
    page.fill("Test sentence", SENTENCE)
    page.panel.get_by_text("More settings", exact=True).click()
    page.fill("Steps between evaluations", "40")
    page.fill("Steps between checkpoints", "20")
    page.fill("Learning rate", "0.001")
    page.choose("Recordings in old languages", "en.csv")
    page.press("Show the command")
    command = re.compile("^xtts-extend recipe run new_language ")
    sync_api.expect(page.field("The exact command")).to_have_value(command, timeout=20_000)
    page.press("Start training")
    wait_for(lambda: status_of(page.project)["step"] >= 45)
    page.tab.wait_for_timeout(6_000)
    page.shoot("train")

    # The page dies in the middle of training. The run does not notice.
    before = status_of(page.project)["step"]
    page.kill()
    wait_for(lambda: status_of(page.project)["step"] > before + 10)
    page.start()
    page.open("Train")
    sync_api.expect(page.panel.locator(".prose.run-state")).to_contain_text("🟢", timeout=30_000)
    page.press("Stop")
    wait_for(lambda: status_of(page.project)["phase"] == "stopped")
    stopped = status_of(page.project)["step"]
    run = status_of(page.project)["run"]
    assert stopped < 400
    assert (run / f"checkpoint_{stopped}.pth").exists()

    page.open("Resume")
    sync_api.expect(page.panel).to_contain_text(f"checkpoint_{stopped}.pth", timeout=60_000)
    page.press("Examine the checkpoint")
    page.finish("Examination")
    page.fill("Stop at step", f"{stopped + 30}")
    page.press("Show the resume command")
    page.shoot("resume")
    page.press("Resume training")
    wait_for(lambda: status_of(page.project)["phase"] == "finished")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    numbers = [line["step"] for line in steps if not line.get("eval")]
    # The run ends with the accumulation that the limit lies in.
    last = status_of(page.project)["step"]
    assert stopped + 30 <= last < stopped + 64
    assert numbers == list(range(1, last + 1))
    events = [json.loads(line)["event"] for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert events == ["start", "stop", "resume", "end"]

    # From the command line in the same folder, and seen on the page.
    model = page.project / "models" / "from the command line"
    command = [sys.executable, "-m", "xtts_extend", "export", f"--checkpoint={run}", f"--output={model}"]
    assert subprocess.run(command, check=False).returncode == 0
    page.open("Export")
    sync_api.expect(page.panel).to_contain_text("from the command line", timeout=20_000)
    page.panel.get_by_label("Language pack (a file to share)", exact=True).check()
    page.fill("Name of the export", "am")
    page.press("Export")
    page.finish("Export job")
    page.shoot("export")
    assert (page.project / "models" / "am.safetensors").exists()

    page.open("Compare")
    page.choose("Models to compare", "models/from the command line", "models/am.safetensors")
    page.fill("Languages", "en, am")
    page.choose("Voice", "ድምፅ voice.wav")
    page.fill("Text to speak", "Hello world.")
    page.press("Compare")
    wait_for(lambda: list((page.project / "compared").glob("*/compared.json")) != [])
    sync_api.expect(page.panel).to_contain_text("identical, sample by sample", timeout=60_000)
    page.shoot("compare")
    (record,) = (page.project / "compared").glob("*/compared.json")
    compared = json.loads(record.read_text(encoding="utf-8"))
    by_kind = {source["kind"]: source["languages"] for source in compared["sources"]}
    assert {kind: one["en"]["equals_base"] for kind, one in by_kind.items()} == {
        "base": True,
        "model folder": True,
        "pack": True,
    }
    assert by_kind["pack"]["am"]["seconds"] > 0.1
    assert by_kind["pack"]["am"]["sha256"] == by_kind["model folder"]["am"]["sha256"]
