"""Samples for tests that set only the fields they need."""

from __future__ import annotations

from typing import Any

from xtts_extend.data.sample import Sample


def make_sample(text: str = "Hello", **fields: Any) -> Sample:
    """Return a sample with these fields and defaults for the others; its recording does not exist."""
    defaults = {"audio_file": "/nowhere/a.wav", "language": "en", "manifest_audio_file": "a.wav"}
    return Sample(text=text, **defaults | fields)
