"""Letters of a text and letters that were heard: what is matched, what is not, and how long it takes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from letters import hear, random_text

from xtts_extend.corpus.matching import Ints, match_letters, off_order


def shares(matched: Ints, indices: Ints) -> tuple[float, float]:
    """Return the share of letters that are matched, and the share of the matches that are right."""
    found = np.flatnonzero(matched >= 0)
    return len(found) / len(matched), float((indices[matched[found]] == found).mean())


def test_most_letters_are_matched_and_nearly_all_rightly() -> None:
    text = random_text(20_000)
    heard, indices = hear(text)
    share, right = shares(match_letters(text, heard), indices)
    assert share > 0.8
    assert right > 0.97


def test_matches_are_in_order() -> None:
    text = random_text(5_000)
    matched = match_letters(text, hear(text)[0])
    assert (np.diff(matched[matched >= 0]) > 0).all()


def test_unrelated_texts_match_by_accident_only() -> None:
    matched = match_letters(random_text(1_000), random_text(1_000, seed=5))
    assert (matched >= 0).mean() < 0.42


def test_text_that_is_not_spoken_is_not_matched() -> None:
    text = random_text(3_000)
    heard, indices = hear(np.concatenate([text[:1_000], text[1_200:]]))
    indices = np.where(indices >= 1_000, indices + 200, indices)
    matched = match_letters(text, heard)
    assert (matched[1_000:1_200] >= 0).mean() < 0.1
    assert shares(matched, indices)[1] > 0.97


def test_speech_that_is_not_in_the_text_is_not_matched() -> None:
    text = random_text(3_000)
    heard, _ = hear(np.concatenate([text[:1_000], random_text(300, seed=9), text[1_000:]]))
    matched = match_letters(text, heard)
    assert (matched[:1_000] >= 0).mean() > 0.75
    assert (matched[1_000:] >= 0).mean() > 0.75


def test_text_in_a_different_order_is_told_from_text_that_is_not_spoken() -> None:
    text = random_text(3_000)
    swapped = np.concatenate([text[:1_000], text[1_100:1_200], text[1_000:1_100], text[1_200:2_000], text[2_100:]])
    heard, _ = hear(swapped, error_rate=0.1)
    matched = match_letters(text, heard)
    elsewhere = off_order(text, heard, matched)
    unmatched = slice(1_000, 1_100) if (matched[1_000:1_100] < 0).mean() > 0.5 else slice(1_100, 1_200)
    assert elsewhere[unmatched].mean() > 0.5
    assert elsewhere[2_000:2_100].mean() < 0.1


def test_a_chapter_is_found_in_a_book() -> None:
    book = random_text(60_000)
    heard, _indices = hear(book[20_000:23_000])
    matched = match_letters(book, heard)
    assert (matched[20_000:23_000] >= 0).mean() > 0.75
    assert (matched[20_000:20_100] >= 0).mean() > 0.6
    assert (matched[22_900:23_000] >= 0).mean() > 0.6
    assert (matched[:20_000] >= 0).mean() < 0.005


@pytest.mark.parametrize(("text", "heard"), [([], []), ([1, 2], []), ([], [1, 2]), ([1], [2])])
def test_nothing_matches_nothing(text: list[int], heard: list[int]) -> None:
    matched = match_letters(np.array(text, dtype=np.int64), np.array(heard, dtype=np.int64))
    assert matched.tolist() == [-1] * len(text)


def test_repeated_text_is_matched_in_order() -> None:
    verse = random_text(200)
    text = np.concatenate([verse, random_text(300, seed=3), verse, random_text(300, seed=4), verse])
    heard, indices = hear(text, error_rate=0.15)
    assert shares(match_letters(text, heard), indices)[1] > 0.97


@pytest.mark.slow
def test_ten_hours_are_matched_in_a_minute() -> None:
    text = random_text(500_000)
    heard, indices = hear(text)
    started = time.monotonic()
    share, right = shares(match_letters(text, heard), indices)
    assert time.monotonic() - started < 60
    assert share > 0.8
    assert right > 0.97
