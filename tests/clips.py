"""Clips for tests."""

from __future__ import annotations

from typing import Any

from xtts_extend.corpus.clip import Clip, Scores

RECORDING_ID = "sermon-3fa2c1d0"
SCORES = Scores(0.9, None, 12.0, 30.0, 0.1, 0.2, 0)


def make_clip(start_s: float = 12.345, end_s: float | None = None, **values: Any) -> Clip:
    """Return an accepted clip of 5 s of the recording `RECORDING_ID`, with some values replaced."""
    recording_id = values.setdefault("recording_id", RECORDING_ID)
    fields = {
        "id": f"{recording_id}-{round(start_s * 1000):08d}",
        "recording": "in/My Sermon.mp3",
        "text": "ሰላም ለዓለም።",
        "speaker_name": "speaker",
        "language": "am",
        "scores": SCORES,
        **values,
    }
    return Clip(start_s=start_s, end_s=start_s + 5 if end_s is None else end_s, **fields)
