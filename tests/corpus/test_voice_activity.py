"""Speech in working copies: spans, determinism, recordings without speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from silero_vad import get_speech_timestamps_from_probs

from xtts_extend.corpus import voice_activity
from xtts_extend.corpus.recording import convert_recording
from xtts_extend.corpus.voice_activity import Span, find_speech, require_speech
from xtts_extend.errors import DataError

RATE = 22_050


@pytest.fixture(scope="module")
def spoken(shared_data: Path) -> list[np.ndarray]:
    """Human utterances at 22,050 Hz that begin and end with speech."""
    names = ("LJ001-0002", "LJ001-0004", "LJ001-0008")
    return [soundfile.read(shared_data / "ljspeech" / "wavs" / f"{name}.flac", dtype="float32")[0] for name in names]


def test_utterances_are_found_where_they_are(tmp_path: Path, spoken: list[np.ndarray]) -> None:
    pause = np.random.default_rng(0).normal(0, 1e-4, 3 * RATE).astype(np.float32)
    # The recording extends over two segments of 16 s; the second utterance lies across their border.
    recording = np.concatenate([pause, pause, spoken[0], pause, pause[: RATE // 2], spoken[1], pause, spoken[2], pause])
    starts = np.cumsum([6, len(spoken[0]) / RATE + 3.5, len(spoken[1]) / RATE + 3])
    assert starts[1] < 16 < starts[1] + len(spoken[1]) / RATE
    soundfile.write(tmp_path / "a.wav", recording, RATE)
    info = convert_recording(tmp_path / "a.wav", tmp_path / "a.flac", progress=False)
    spans = find_speech(tmp_path / "a.flac", info.duration_s, progress=False)
    for start, utterance in zip(starts, spoken, strict=True):
        end = start + len(utterance) / RATE
        inside = [span for span in spans if span.end_s > start - 0.2 and span.start_s < end + 0.2]
        assert abs(inside[0].start_s - start) < 0.2
        assert abs(inside[-1].end_s - end) < 0.2
        spans = [span for span in spans if span not in inside]
    assert spans == []


def test_the_same_copy_gives_the_same_spans_on_as_many_threads(tmp_path: Path, spoken: list[np.ndarray]) -> None:
    soundfile.write(tmp_path / "a.flac", spoken[1], RATE)
    threads = torch.get_num_threads()
    voice_activity._detector.cache_clear()
    torch.set_num_threads(2)
    try:
        first = find_speech(tmp_path / "a.flac", len(spoken[1]) / RATE, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert find_speech(tmp_path / "a.flac", len(spoken[1]) / RATE, progress=False) == first


def test_probabilities_become_spans_as_in_silero() -> None:
    generator = np.random.default_rng(3)
    # Probabilities that stay on one side for a while, as those of speech do.
    levels = np.repeat(generator.random(150), generator.integers(1, 20, 150))
    probabilities = (levels + generator.normal(0, 0.1, len(levels))).clip(0, 1).astype(np.float32)
    duration_s = len(probabilities) * 0.032
    expected = get_speech_timestamps_from_probs(
        probabilities.tolist(), min_speech_duration_ms=200, speech_pad_ms=50, neg_threshold=0.35
    )
    spans = list(voice_activity._spans(np.array_split(probabilities, 7), duration_s))
    assert len(spans) == len(expected) > 20
    assert [[span.start_s, span.end_s] for span in spans] == [
        pytest.approx([span["start"] / 16_000, span["end"] / 16_000], abs=1e-3) for span in expected
    ]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.1] * 50, []),
        ([0.1] * 10 + [0.9] * 5 + [0.1] * 35, []),
        ([0.1] * 10 + [0.9] * 10 + [0.1] * 30, [Span(0.27, 0.69)]),
        ([0.9] * 50, [Span(0.0, 1.6)]),
        ([0.9] * 10 + [0.4] * 10 + [0.9] * 10 + [0.1] * 20, [Span(0.0, 1.01)]),
        ([0.9] * 20 + [0.1] * 3 + [0.9] * 27, [Span(0.0, 1.6)]),
    ],
    ids=["none", "too short", "one", "all", "neither high nor low", "pause too short"],
)
def test_spans_of_probabilities(probabilities: list[float], expected: list[Span]) -> None:
    spans = list(voice_activity._spans([np.array(probabilities)], 1.6))
    assert [(pytest.approx(span.start_s), pytest.approx(span.end_s)) for span in expected] == [
        (span.start_s, span.end_s) for span in spans
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("silence", "is silent: nearly all of its 20.0 s are below -60 dB"),
        ("chord", "contains no speech: .* only music"),
    ],
)
def test_recordings_without_speech_are_named(tmp_path: Path, kind: str, message: str) -> None:
    time = np.arange(20 * RATE) / RATE
    chord = sum(0.1 * np.sin(2 * np.pi * tone * time) for tone in (220, 277.2, 329.6, 440)) * np.abs(np.sin(2 * time))
    samples = chord if kind == "chord" else np.random.default_rng(0).normal(0, 1e-4, len(time))
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    info = convert_recording(tmp_path / "a.wav", tmp_path / "a.flac", progress=False)
    speech = find_speech(tmp_path / "a.flac", info.duration_s, progress=False)
    with pytest.raises(DataError, match=message):
        require_speech(tmp_path / "a.wav", info, speech)
    require_speech(tmp_path / "a.wav", info, [Span(0, 1)])
