"""Data sets as make-dataset writes them, for the tests of the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from xtts_extend.corpus.clip import CLIPS_FILE, Clip, Reason, Scores

RECORDING = "talk-3fa2c1d0"
#: The clip that starts after three seconds.
CLIP = f"{RECORDING}-00003000"
RATE = 8_000


def clip(start_s: float, score: float, rejected: Reason | None = None, **values) -> Clip:
    """Return a clip of two seconds, which is in the training set unless it is set aside."""
    name = f"{RECORDING}-{round(start_s * 1000):08}"
    given = {
        "id": name,
        "recording_id": RECORDING,
        "recording": "/r/talk.mp3",
        "text": f"ቃል {start_s:g}.",
        "start_s": start_s,
        "end_s": start_s + 2,
        "speaker_name": "speaker",
        "language": "am",
        "scores": Scores(score, None, 12.0, 30.0, 0.1, 0.1, 0),
        "audio_file": f"wavs/{RECORDING}/{name}.wav",
        "split": None if rejected else "train",
        "rejected": rejected,
        "detail": "Why." if rejected else "",
    }
    return Clip(**{**given, **values})


def write_data_set(folder: Path, *clips: Clip) -> None:
    """Write clips, their recordings, the table of what was set aside, and the working copy, which rises each second."""
    for one in clips:
        file = folder / one.audio_file
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, np.full(2 * RATE, 0.1), RATE)
    lines = [json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in clips]
    (folder / CLIPS_FILE).write_text("".join(lines), encoding="utf-8")
    rejected = [
        f"{one.recording}|{one.start_s}|{one.end_s}|{one.text}|{one.rejected.value}|{one.detail}\n"
        for one in clips
        if one.rejected
    ]
    table = "".join(["recording|start|end|text|reason|detail\n", *rejected, '/r/talk.mp3|||"No ""one""\nspoke."|'])
    (folder / "rejected.csv").write_text(f"{table}text_without_speech|Why.\n", encoding="utf-8")
    work = folder / ".work" / RECORDING
    work.mkdir(parents=True, exist_ok=True)
    soundfile.write(work / "audio.flac", np.repeat(np.arange(20) / 100, RATE), RATE)
