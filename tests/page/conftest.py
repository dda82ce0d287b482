"""Run folders for the tests of the page, and a page that is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xtts_extend.page import jobs, run_view

if TYPE_CHECKING:
    from served import Page, Witness


@pytest.fixture
def live(monkeypatch) -> set[Path]:
    """Run folders in it are live."""
    folders: set[Path] = set()
    monkeypatch.setattr(run_view, "is_live", folders.__contains__)
    return folders


@pytest.fixture
def statuses(monkeypatch) -> dict[Path, object]:
    """Run folder → what its status.json says."""
    found: dict[Path, object] = {}
    monkeypatch.setattr(run_view, "read_status", found.get)
    return found


@pytest.fixture
def run(tmp_path, live, statuses) -> Path:
    """A run folder with its configuration."""
    folder = tmp_path / "ፕሮጀክት one" / "runs" / "xtts-2026-11-28_10-00-00"
    folder.mkdir(parents=True)
    config = {"language": "am", "test_sentences": [{"text": "ሰላም", "language": "am"}, {"text": "Hi"}]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def parent(tmp_path_factory) -> Path:
    """The folder of the served project, a base model and secrets."""
    return tmp_path_factory.mktemp("ፕሮጀክቶች of mine")


@pytest.fixture(scope="session")
def witness() -> Witness:
    """The only witness, because an audit hook cannot be removed."""
    from served import Witness

    return Witness()


@pytest.fixture(scope="session")
def served_page(parent) -> Iterator[Page]:
    """A served page, started with environment variables that must not have an effect."""
    from served import VARIABLES, Page, make_project

    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        for name in ("COLAB_RELEASE_TAG", "LIGHTNING_CLOUD_PROJECT_ID"):
            patch.delenv(name, raising=False)
        page = Page(make_project(parent))
        page.open_screens()
        yield page
        page.blocks.close(verbose=False)


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
def page(served_page, started, witness) -> Page:
    """The served page, on which no job starts."""
    return served_page


@pytest.fixture
def nothing_outside(page, parent, started, witness) -> Iterator[None]:
    """Assert that nothing outside of the project is read or changed, and that nothing starts or connects."""
    from served import snapshot

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
