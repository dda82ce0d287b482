"""A local hub, and a huggingface_hub that neither waits nor knows the user's token."""

from __future__ import annotations

import types

import pytest
from fake_hub import fake_hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub whose address is set in HF_ENDPOINT. The user is not logged in."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    # The fake hub stores large files itself.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # Interrupted downloads keep whole chunks.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(file_download, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with fake_hub() as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        yield started
