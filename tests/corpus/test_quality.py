"""Measurements of clips with known levels, and the thresholds on both sides."""

from dataclasses import replace

import numpy as np
import pytest
from clips import SCORES, make_clip

from xtts_extend.corpus.clip import Reason
from xtts_extend.corpus.quality import measure, reject_reason, speech_within
from xtts_extend.corpus.voice_activity import Span

RATE = 16_000
SPEECH = [Span(0.5, 1.5), Span(2.0, 3.6)]


def tone(level: float, seconds: float) -> np.ndarray:
    """Return a tone with a root mean square of `level`."""
    return (level * np.sqrt(2) * np.sin(np.arange(round(seconds * RATE)) * 0.3)).astype(np.float32)


def recording(speech: float, pause: float) -> np.ndarray:
    """Return 4 s of audio with these levels in and outside `SPEECH`."""
    parts = [(pause, 0.5), (speech, 1.0), (pause, 0.5), (speech, 1.6), (pause, 0.4)]
    return np.concatenate([tone(level, seconds) for level, seconds in parts])


def test_measurements():
    scores = measure(recording(0.1, 0.001), RATE, "ሰላም, 12 ለዓለም።", SPEECH, alignment=0.75, error_rate=0.5)
    assert (scores.alignment, scores.error_rate, scores.clipped_samples) == (0.75, 0.5, 0)
    # Seven letters and two digits, which are a word of four letters each.
    assert scores.characters_per_second == pytest.approx(15 / 2.6)
    assert scores.signal_to_noise_db == pytest.approx(40, abs=0.2)
    assert scores.silence_before_s == 0.5
    assert scores.silence_after_s == pytest.approx(0.4)


def test_breaths_do_not_count_as_noise():
    audio = recording(0.1, 0.001)
    audio[round(1.6 * RATE) : round(1.9 * RATE)] = tone(0.05, 0.3)
    assert measure(audio, RATE, "a", SPEECH, alignment=1).signal_to_noise_db == pytest.approx(40, abs=0.2)


@pytest.mark.parametrize(
    ("speech", "pause_level", "expected"),
    [
        ([Span(0.0, 4.0)], None, None),
        ([Span(0.0, 4.0)], 0.01, 20.0),
        # 0.08 s of pause.
        ([Span(0.0, 3.92)], 0.01, 20.0),
        ([Span(0.0, 3.8)], 0.01, 0.0),
        ([], 0.01, None),
    ],
    ids=["no pause", "pauses around", "short pause", "own pause", "no speech"],
)
def test_noise_without_pauses(speech, pause_level, expected):
    measured = measure(tone(0.1, 4), RATE, "a", speech, alignment=1, pause_level=pause_level).signal_to_noise_db
    assert measured == (None if expected is None else pytest.approx(expected, abs=0.2))


def test_digital_silence_has_a_level():
    assert measure(recording(0.1, 0), RATE, "a", SPEECH, alignment=1).signal_to_noise_db == pytest.approx(81.1, abs=0.2)
    assert measure(np.zeros(4 * RATE, np.float32), RATE, "a", SPEECH, alignment=1).signal_to_noise_db == 0


def test_clipped_samples():
    loud = np.clip(recording(1.0, 0), -1, 1)
    # Only the middle of each flat peak is counted.
    flat = sum(
        abs(one) == 1 and before == one == after
        for before, one, after in zip(loud[:-2], loud[1:-1], loud[2:], strict=True)
    )
    assert measure(loud, RATE, "a", SPEECH, alignment=1).clipped_samples == flat > 1000


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (0.0, 4.0, SPEECH),
        (1.0, 2.5, [Span(0.0, 0.5), Span(1.0, 1.5)]),
        (1.5, 2.0, []),
        (3.6, 9.0, []),
        (0.6, 0.7, [Span(0.0, 0.1)]),
    ],
)
def test_speech_within_a_clip(start_s, end_s, expected):
    found = speech_within(SPEECH, start_s, end_s)
    assert [(span.start_s, span.end_s) for span in found] == [
        (pytest.approx(span.start_s), pytest.approx(span.end_s)) for span in expected
    ]


def clip(text="a word of text", duration_s=5.0, **scores):
    return make_clip(0.0, duration_s, text=text, scores=replace(SCORES, **scores))


@pytest.mark.parametrize(
    ("rejected", "reason", "detail"),
    [
        (
            clip(silence_before_s=5.0, silence_after_s=5.0),
            Reason.TEXT_WITHOUT_SPEECH,
            "There is no speech in the clip.",
        ),
        (clip(duration_s=0.99), Reason.TOO_SHORT, "The clip is 0.99 s long; at least 1 s is needed."),
        (clip(duration_s=11.61), Reason.TOO_LONG, "The clip is 11.61 s long, but XTTS accepts at most 11.6 s."),
        (clip("Psalm ፻"), Reason.DIGITS, "The digits in 'Psalm ፻' could not be written as words."),
        (clip("a|b"), Reason.MARKUP, "The text contains |, which separates columns in manifests."),
        (clip(alignment=0.59), Reason.LOW_SCORE, "The alignment score is 0.59; at least 0.6 is needed."),
        (clip(error_rate=0.41), Reason.ERROR_RATE, "The recognizer's text differs in 41% of the characters; up to 40%"),
        (
            clip(characters_per_second=30.1),
            Reason.TOO_FAST,
            "The clip has 30.1 letters per second of speech; speech has",
        ),
        (
            clip(characters_per_second=3.9),
            Reason.TOO_SLOW,
            "The clip has 3.9 letters per second of speech; speech has at",
        ),
        (clip("ሰላም ለዓለም።", characters_per_second=12.1), Reason.TOO_FAST, "speech has at most 12."),
        (clip(signal_to_noise_db=9.9), Reason.NOISY, "The speech is 9.9 dB above the noise; at least 10 dB is needed."),
        (clip(clipped_samples=201), Reason.CLIPPING, "201 samples are clipped; up to 40 per second are accepted."),
    ],
)
def test_unfit_clips(rejected, reason, detail):
    found = reject_reason(rejected, min_score=0.6)
    assert found is not None
    assert found[0] == reason
    assert detail in found[1]


def test_a_low_lowest_score_does_not_accept_the_text_of_another_sentence():
    found = reject_reason(clip(error_rate=0.66), min_score=0.1)
    assert found == (
        Reason.ERROR_RATE,
        "The recognizer's text differs in 66% of the characters; up to 65% is accepted.",
    )
    assert reject_reason(clip(error_rate=0.65), min_score=0.1) is None


@pytest.mark.parametrize(
    "accepted",
    [
        clip(),
        clip(duration_s=1.0, silence_after_s=0.1),
        clip(duration_s=11.6),
        clip("一二三", characters_per_second=5.0),
        clip(alignment=0.6),
        clip(error_rate=0.4),
        clip(alignment=None),
        clip(characters_per_second=29.9),
        clip(characters_per_second=4.1),
        clip("ሰላም ለዓለም።", characters_per_second=1.6),
        clip(signal_to_noise_db=10.0),
        clip(signal_to_noise_db=None),
        clip(clipped_samples=200),
    ],
)
def test_clips_within_the_thresholds(accepted):
    assert reject_reason(accepted, min_score=0.6) is None
