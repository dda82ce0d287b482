"""Measure clips, and say what became no clip: text without speech, speech without text, words without pauses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xtts_extend.corpus.alignment import Alignment, Missing
from xtts_extend.corpus.clip import Reason, Scores, SetAside
from xtts_extend.corpus.loudness import SpeechLevel
from xtts_extend.corpus.quality import measure, speech_within
from xtts_extend.corpus.recording import RecordingInfo, read_span
from xtts_extend.corpus.segments import Segment, Uncut
from xtts_extend.corpus.voice_activity import Span
from xtts_extend.corpus.words import Word, join_words

# Speech that is shorter than this and in no clip is not reported: half a word beside a cut.
_SHORTEST_UNTOLD_S = 1.0
_UNCUT = {
    Uncut.TOO_SHORT: "There is less than a second of speech between other text that cannot be used.",
    Uncut.TOO_LONG: "There is no pause within 11 seconds.",
    Uncut.NO_PAUSE: "There is no pause at the beginning or the end.",
}
_MISSING = {
    Missing.NOT_SPOKEN: "This text was not heard in the recording.",
    Missing.OUT_OF_ORDER: "This text was heard elsewhere in the recording, in a different order.",
}


def unusable_segments(
    segments: Sequence[Segment], words: Sequence[Word], recording_id: str, recording: str
) -> Iterator[SetAside]:
    """Yield aligned words that could not become a clip."""
    for segment in segments:
        if segment.uncut is not None:
            text, reason = join_words(words[segment.first : segment.last]), Reason(segment.uncut.value)
            detail = _UNCUT[segment.uncut]
            yield SetAside(recording_id, recording, segment.start_s, segment.end_s, text, reason, detail)


def missing_texts(
    alignment: Alignment, words: Sequence[Word], recording_id: str, recording: str, is_part: bool
) -> Iterator[SetAside]:
    """Yield the text that was not found in the recording.

    Args:
        alignment: The recording's alignment.
        words: The text.
        recording_id, recording: See `SetAside`.
        is_part: Whether the recording has only a part of the text. Then the text before and after it is not missing.
    """
    heard = [word.index for run in alignment.runs for word in run]
    for part in alignment.missing:
        if not is_part or min(heard) < part.first < max(heard):
            text, reason = join_words(words[part.first : part.last]), Reason(part.reason.value)
            yield SetAside(recording_id, recording, None, None, text, reason, _MISSING[part.reason])


def untold_speech(
    speech: Sequence[Span], segments: Sequence[Segment], recording_id: str, recording: str
) -> Iterator[SetAside]:
    """Yield speech that no text was found for."""
    for span in without(speech, [Span(segment.start_s, segment.end_s) for segment in segments]):
        if span.duration_s >= _SHORTEST_UNTOLD_S:
            start_s, end_s = round(span.start_s, 3), round(span.end_s, 3)
            detail = "No text was found for this speech."
            yield SetAside(recording_id, recording, start_s, end_s, "", Reason.SPEECH_WITHOUT_TEXT, detail)


def measure_clip(
    flac: Path,
    info: RecordingInfo,
    level: SpeechLevel,
    speech: Sequence[Span],
    span_s: tuple[float, float],
    text: str,
    alignment: float | None,
    error_rate: float | None,
) -> Scores:
    """Return the scores of a part of a recording.

    Args:
        flac: Working copy of the recording.
        info, level, speech: Its format, loudness, and where there is speech.
        span_s: Start and end of the part in seconds.
        text: Its text.
        alignment, error_rate: See `Scores`.
    """
    return measure(
        read_span(flac, *span_s, info.sample_rate),
        info.sample_rate,
        text,
        speech_within(speech, *span_s),
        alignment=alignment,
        error_rate=error_rate,
        pause_level=level.noise_rms,
    )


def without(spans: Sequence[Span], removed: Sequence[Span]) -> Iterator[Span]:
    """Yield what is left of spans without the parts in other spans.

    >>> list(without([Span(0.0, 5.0)], [Span(1.0, 2.0), Span(4.0, 6.0)]))
    [Span(start_s=0.0, end_s=1.0), Span(start_s=2.0, end_s=4.0)]
    """
    remaining = sorted(removed, key=lambda span: span.start_s)
    for span in spans:
        start_s = span.start_s
        while remaining and remaining[0].end_s <= start_s:
            remaining.pop(0)
        for other in remaining:
            if other.start_s >= span.end_s:
                break
            if other.start_s > start_s:
                yield Span(start_s, other.start_s)
            start_s = max(start_s, other.end_s)
        if start_s < span.end_s:
            yield Span(start_s, span.end_s)
