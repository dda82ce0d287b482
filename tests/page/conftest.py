"""Run folders for the tests of the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xtts_extend.page import run_view


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
