"""Samples by the values that a test is about."""

from __future__ import annotations

from typing import Any

from xtts_extend.data.sample import Sample


def make_sample(text: str = "Hello", **fields: Any) -> Sample:
    """A sample of a manifest with one bare recording, but for these fields; nothing of it exists."""
    start = {"audio_file": "/nowhere/a.wav", "language": "en", "manifest_audio_file": "a.wav"}
    return Sample(text=text, **start | fields)
