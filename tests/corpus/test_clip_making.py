"""Scores of clips."""

from __future__ import annotations

import pytest

from xtts_extend.corpus.alignment import AlignedWord
from xtts_extend.corpus.clip_making import clip_score
from xtts_extend.corpus.words import Word


def score_of(*words: tuple[str, float]) -> float:
    """Return the score of a clip of words, each a text and its score; a full stop ends a sentence."""
    aligned = [AlignedWord(number, number, number + 0.5, score) for number, (_, score) in enumerate(words)]
    return clip_score(aligned, [Word(text, text.strip("."), " ", text.endswith(".")) for text, _ in words])


def test_words_count_by_their_letters() -> None:
    assert score_of(("ab", 0.5), ("abcdef.", 1.0)) == pytest.approx(0.5 ** (2 / 8))
    assert score_of(("ab", 0.0), ("abcdef.", 1.0)) == pytest.approx(1e-6 ** (2 / 8))
    assert score_of((".", 0.0), ("ab", 0.5)) == pytest.approx(0.5)
    assert score_of((".", 0.0)) == 0


def test_a_sentence_that_was_hardly_heard_decides() -> None:
    long = ("abcdefghijklmnopqrst.", 1.0)
    assert score_of(long, ("abc", 0.04), ("ab.", 0.04), long) == pytest.approx(0.04)
    assert score_of(long, ("abcde", 0.04)) == pytest.approx(0.04)
    # It may be a part of one, and its words' mean counts.
    assert score_of(long, ("abc", 0.001), ("abc.", 0.1), long) == pytest.approx((0.001 * 0.1) ** 0.5)
    # A sentence that was heard better, or that is short, is only a part of the whole.
    assert score_of(long, ("abcde.", 0.06)) == pytest.approx(0.06 ** (5 / 25))
    assert score_of(long, ("abc.", 0.04)) == pytest.approx(0.04 ** (3 / 23))
