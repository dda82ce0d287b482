"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real test data that the project did not write; a test that wants it skips where it is missing."""
    folder = Path(os.environ.get("XTTS_EXTEND_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set XTTS_EXTEND_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def mini_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained base directory of 2 layers × 64 channels; not to be written to."""
    from xtts_extend.demo.mini_base import make_mini_base

    return make_mini_base(tmp_path_factory.mktemp("base") / "mini", layers=2, channels=64, heads=2)
