"""Measure clips, and find those that are not fit for training."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xtts_extend.corpus.clip import LONGEST_CLIP_S, SHORTEST_CLIP_S, Clip, Reason, Scores
from xtts_extend.corpus.voice_activity import Span
from xtts_extend.corpus.words import has_digits
from xtts_extend.data.audio import count_clipped
from xtts_extend.data.text_checks import count_letters, plausible_rates

#: Highest character error rate of a recognizer's text. Two unrelated sentences of a language differ in about 0.8.
HIGHEST_ERROR_RATE = 0.65
#: Lowest level of the speech relative to the pauses, in dB.
LOWEST_SIGNAL_TO_NOISE_DB = 10.0
#: Most clipped samples per second: about one in a thousand at the sample rates of speech.
HIGHEST_CLIPPED_PER_SECOND = 40.0

_FRAMES_PER_SECOND = 50
# Fewer frames are often the tail of a word rather than a pause.
_MIN_PAUSE_FRAMES = 5
# Power of the rounding errors of 16-bit samples, so that digital silence has a level.
_ROUNDING_POWER = (1 / 32768) ** 2 / 12


def speech_within(speech: Sequence[Span], start_s: float, end_s: float) -> list[Span]:
    """Return the parts of speech that are inside a clip, in seconds from the clip's start.

    Args:
        speech: All speech of the recording, in order and without overlap.
        start_s: The clip's start in the recording, in seconds.
        end_s: The clip's end in the recording, in seconds.

    >>> speech_within([Span(0.0, 2.0), Span(2.5, 4.0), Span(5.0, 6.0)], 1.0, 3.0)
    [Span(start_s=0.0, end_s=1.0), Span(start_s=1.5, end_s=2.0)]
    """
    first = bisect.bisect_right(speech, start_s, key=lambda span: span.end_s)
    last = bisect.bisect_left(speech, end_s, key=lambda span: span.start_s)
    return [Span(max(span.start_s, start_s) - start_s, min(span.end_s, end_s) - start_s) for span in speech[first:last]]


def measure(
    audio: npt.NDArray[np.float32],
    sample_rate: int,
    text: str,
    speech: Sequence[Span],
    *,
    alignment: float | None,
    error_rate: float | None = None,
    pause_level: float | None = None,
) -> Scores:
    """Return the scores of a clip.

    The signal-to-noise ratio compares the mean power of the 20 ms frames in speech with the median power of those in
    pauses. The median ignores breaths and the tails of words.

    Args:
        audio: The clip's samples as recorded, without gain, because clipping is at full scale. Shape [samples].
        sample_rate: Sample rate in Hz.
        text: The clip's text.
        speech: Speech in the clip, in seconds from its start, as `speech_within` returns it.
        alignment: The aligner's score, 0 to 1; None if the text, the start or the end changed since.
        error_rate: Character error rate of a recognizer's text, if there is one.
        pause_level: Root mean square of the pauses around the clip, used if the clip has less than 0.1 s of pause.
    """
    duration_s = len(audio) / sample_rate
    # Without any speech, the rate is not meaningful, but has to be finite.
    speech_s = sum(span.duration_s for span in speech) or duration_s
    return Scores(
        alignment=alignment,
        error_rate=error_rate,
        characters_per_second=count_letters(text) / speech_s,
        signal_to_noise_db=_signal_to_noise_db(audio, sample_rate, speech, pause_level),
        silence_before_s=speech[0].start_s if speech else duration_s,
        silence_after_s=max(0.0, duration_s - speech[-1].end_s) if speech else duration_s,
        clipped_samples=count_clipped(audio),
    )


def _signal_to_noise_db(
    audio: npt.NDArray[np.float32], sample_rate: int, speech: Sequence[Span], pause_level: float | None
) -> float | None:
    frame = sample_rate // _FRAMES_PER_SECOND
    count = len(audio) // frame
    power = np.square(audio[: count * frame].reshape(count, frame), dtype=np.float64).mean(axis=1)
    starts = np.arange(count) * frame / sample_rate
    is_speech, is_pause = np.zeros(count, bool), np.ones(count, bool)
    for span in speech:
        is_speech |= (starts >= span.start_s) & (starts + 1 / _FRAMES_PER_SECOND <= span.end_s)
        is_pause &= (starts >= span.end_s) | (starts + 1 / _FRAMES_PER_SECOND <= span.start_s)
    if not is_speech.any():
        return None
    if is_pause.sum() >= _MIN_PAUSE_FRAMES:
        noise = float(np.median(power[is_pause]))
    elif pause_level is not None:
        noise = pause_level**2
    else:
        return None
    return 10 * math.log10(max(float(power[is_speech].mean()), _ROUNDING_POWER) / max(noise, _ROUNDING_POWER))


def reject_reason(clip: Clip, min_score: float) -> tuple[Reason, str] | None:
    """Return why a clip is not fit for training, with a sentence that has the numbers, or None if it is fit.

    Args:
        clip: The clip with its scores.
        min_score: Lowest score (see `Scores.score`) that is accepted. A recognizer's text must be better than a certain
            error rate in any case.
    """
    scores, duration_s = clip.scores, clip.duration_s
    lowest, highest = plausible_rates(clip.text)
    rate = f"The clip has {scores.characters_per_second:.1f} letters per second of speech"
    if scores.silence_before_s + scores.silence_after_s >= duration_s:
        return Reason.TEXT_WITHOUT_SPEECH, "There is no speech in the clip."
    if duration_s < SHORTEST_CLIP_S:
        return Reason.TOO_SHORT, f"The clip is {duration_s:.2f} s long; at least {SHORTEST_CLIP_S:g} s is needed."
    if duration_s > LONGEST_CLIP_S:
        return Reason.TOO_LONG, f"The clip is {duration_s:.2f} s long, but XTTS accepts at most {LONGEST_CLIP_S} s."
    if has_digits(clip.text):
        return Reason.DIGITS, f"The digits in {clip.text[:80]!r} could not be written as words."
    if "|" in clip.text:
        return Reason.MARKUP, "The text contains |, which separates columns in manifests."
    if scores.alignment is not None and scores.alignment < min_score:
        return Reason.LOW_SCORE, f"The alignment score is {scores.alignment:.2f}; at least {min_score:g} is needed."
    highest_error_rate = min(HIGHEST_ERROR_RATE, 1 - min_score)
    if scores.error_rate is not None and scores.error_rate > highest_error_rate:
        return Reason.ERROR_RATE, (
            f"The recognizer's text differs in {scores.error_rate:.0%} of the characters; up to "
            f"{highest_error_rate:.0%} is accepted."
        )
    if scores.characters_per_second > highest:
        return Reason.TOO_FAST, f"{rate}; speech has at most {highest:g}. The text may be of a different part."
    if scores.characters_per_second < lowest:
        return Reason.TOO_SLOW, f"{rate}; speech has at least {lowest:g}. Some words may be missing in the text."
    if scores.signal_to_noise_db is not None and scores.signal_to_noise_db < LOWEST_SIGNAL_TO_NOISE_DB:
        return Reason.NOISY, (
            f"The speech is {scores.signal_to_noise_db:.1f} dB above the noise; at least {LOWEST_SIGNAL_TO_NOISE_DB:g} "
            "dB is needed."
        )
    if scores.clipped_samples > HIGHEST_CLIPPED_PER_SECOND * duration_s:
        return Reason.CLIPPING, (
            f"{scores.clipped_samples:,} samples are clipped; up to {HIGHEST_CLIPPED_PER_SECOND:g} per second are "
            "accepted."
        )
    return None
