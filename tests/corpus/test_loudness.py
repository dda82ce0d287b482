"""Levels of speech and pauses, and the gain of a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_extend.corpus.loudness import SpeechLevel, gain_for, speech_level
from xtts_extend.corpus.voice_activity import Span

RATE = 16_000


def test_speech_and_pauses_are_measured_apart(tmp_path: Path) -> None:
    time = np.arange(40 * RATE) / RATE
    speech = [Span(2, 9), Span(9.5, 21), Span(30, 40)]
    is_speech = np.any([(time >= span.start_s) & (time < span.end_s) for span in speech], axis=0)
    noise = np.random.default_rng(0).normal(0, 0.003, len(time))
    samples = np.where(is_speech, 0.4 * np.sin(2 * np.pi * 200 * time), noise)
    # Music in a minority of the pauses does not count as noise.
    samples[22 * RATE : 24 * RATE] = 0.5
    soundfile.write(tmp_path / "a.flac", samples, RATE)
    level = speech_level(tmp_path / "a.flac", RATE, speech)
    assert level.rms == pytest.approx(0.4 / np.sqrt(2), rel=1e-3)
    assert level.peak == pytest.approx(0.4, rel=1e-3)
    assert level.noise_rms == pytest.approx(0.003, rel=0.05)
    assert speech_level(tmp_path / "a.flac", RATE, [Span(0, 40)]).noise_rms is None


def test_one_cough_does_not_decide_the_peak(tmp_path: Path) -> None:
    samples = np.tile(np.array([0.1, -0.1]), 120 * RATE // 2)
    samples[60 * RATE] = 0.9
    soundfile.write(tmp_path / "a.flac", samples, RATE)
    assert speech_level(tmp_path / "a.flac", RATE, [Span(0, 120)]).peak == pytest.approx(0.1, rel=1e-3)
    # 50 s are 5,000 windows, so none of them may exceed the peak.
    assert speech_level(tmp_path / "a.flac", RATE, [Span(30, 80)]).peak == pytest.approx(0.9, rel=1e-3)


@pytest.mark.parametrize(
    ("rms", "peak", "expected_db"),
    [(0.01, 0.05, 17.0), (0.1, 0.2, -3.0), (0.02, 0.5, 5.02)],
    ids=["quiet", "loud", "limited by its peaks"],
)
def test_gain_brings_speech_to_its_level_below_the_highest_peak(rms: float, peak: float, expected_db: float) -> None:
    gain = gain_for(SpeechLevel(rms, peak, None))
    assert 20 * np.log10(gain) == pytest.approx(expected_db, abs=0.01)
    assert peak * gain <= 10 ** (-1 / 20) + 1e-9
