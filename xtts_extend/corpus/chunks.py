"""Decide which words of a text are spoken where in a recording, roughly, and which are not spoken in it.

The letters that a model heard are matched with those of the text (`matching`). A phrase whose letters were not heard is
set aside. The rest is divided into chunks between matched letters, and each chunk is aligned on its own, because the
table of a forced alignment over ten hours would have a trillion cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtts_extend.corpus.alignment import Chunk, Heard, Match, Missing, MissingText, Plan
from xtts_extend.corpus.matching import Ints, match_letters, off_order
from xtts_extend.corpus.words import Word
from xtts_extend.speech.recognition import LONGEST_S

# Chunks of this length are closed at the next opportunity; longer ones take more time and are not better.
_CHUNK_S = 20.0
# A phrase is a sentence, or a part of one that ends at a comma or the like and has at least this many letters, or that
# has more letters than the second number.
_PHRASE_LETTERS, _LONGEST_PHRASE_LETTERS = 12, 50
# Share of a phrase's letters that have to be heard: a part of what most phrases of the recording have, because that
# depends on how well the model hears, and at least the second number. Between unrelated texts of one language, about a
# third match by accident. What is kept wrongly gets low scores when it is aligned.
_LEAST_OF_USUAL, _LEAST_SHARE = 0.45, 0.42
# A phrase's letters were heard elsewhere, by accident, if they take longer than this per letter, in seconds.
_SLOWEST_LETTER_S, _SLOWEST_PHRASE_S = 0.35, 2.0
# A letter at either end of a phrase is an accident if it was heard this many seconds away, and more for the letters
# between that were not heard. As long a pause between two larger parts of a phrase divides it.
_LONGEST_GAP_S = 3.0
# This many heard letters between two words of the text are speech that the text lacks.
_EXTRA_LETTERS = 8
# Fewer matched letters at the beginning or the end of a phrase are no part of their own, because a short word may match
# anything.
_LEAST_PART_LETTERS = 6
# A longer silence ends a chunk, in seconds. No clip contains one.
_LONGEST_PAUSE_S = 10.0
# Seconds of unknown speech beside a chunk that are aligned with it, as the place where its text may begin or end.
_MARGIN_S = 4.0
# How far the time of a letter within a part may be wrong, in seconds: letters are spread evenly over a part.
_PART_MARGIN_S = 2.0
# How much earlier or later than its subtitle a text may be spoken, unless other subtitles are there.
_CUE_MARGIN_S = 1.0


@dataclass(frozen=True, slots=True)
class _Phrase:
    """Words `first` to `last` that were heard, with the numbers of their first and last heard letter."""

    first: int
    last: int
    first_heard: int
    last_heard: int


def plan_chunks(
    words: Sequence[Word],
    letters: Sequence[Sequence[int]],
    heard: Heard,
    duration_s: float,
    bounds: Sequence[tuple[float, float]] | None = None,
) -> Plan:
    """Decide which words are spoken where, roughly.

    Args:
        words: The text.
        letters: Letters of each word, as numbers of the same kind as in `heard`.
        heard: What a model heard in the recording.
        duration_s: Length of the recording in seconds.
        bounds: Start and end in seconds of the parts that were heard one by one, in order. Each becomes a chunk,
            because the times within a part are not exact. None if they are.
    """
    text = np.array([letter for word in letters for letter in word], dtype=np.int64)
    starts = np.cumsum([0, *map(len, letters)])
    matched = match_letters(text, heard.letters)
    elsewhere = off_order(text, heard.letters, matched)
    ranges = list(_phrases(words, starts))
    least_share = _least_share(ranges, starts, matched)
    missing, kept, found = [], [], 0
    for first, last in (part for phrase in ranges for part in _split_phrase(*phrase, starts, matched, heard)):
        span = slice(starts[first], starts[last])
        heard_range = _heard_range(matched[span], heard, least_share)
        if heard_range is not None:
            kept.append(_Phrase(first, last, *heard_range))
            found += int((matched[span] >= 0).sum())
        elif span.start < span.stop:
            reason = Missing.OUT_OF_ORDER if elsewhere[span].mean() > 0.5 else Missing.NOT_SPOKEN
            missing.append(MissingText(first, last, reason))
    chunks = _chunks(kept, heard, duration_s) if bounds is None else _chunks_in(bounds, kept, starts, matched, heard)
    match = Match(found / max(1, len(heard.letters)), found / max(1, len(text)), _likeness(text, heard.letters))
    return Plan(list(chunks), _merge(missing), match)


def plan_cues(words: Sequence[Word], duration_s: float) -> Plan:
    """Return chunks of words as their subtitles' times say, for an aligner that does not tell what it hears.

    Args:
        words: The text. All words have a cue.
        duration_s: Length of the recording in seconds.
    """
    groups: list[tuple[int, int, float, float]] = []
    for index, word in enumerate(words):
        start_s, end_s = word.cue or (0.0, duration_s)
        if groups and (start_s == groups[-1][2] or end_s - groups[-1][2] <= _CHUNK_S):
            first, _, group_start_s, group_end_s = groups.pop()
            groups.append((first, index + 1, group_start_s, max(group_end_s, end_s)))
        else:
            groups.append((index, index + 1, start_s, end_s))
    chunks = []
    for number, (first, last, start_s, end_s) in enumerate(groups):
        before_s = groups[number - 1][3] if number else 0.0
        after_s = groups[number + 1][2] if number + 1 < len(groups) else duration_s
        start_s = max(start_s - _CUE_MARGIN_S, min(start_s, before_s))
        end_s = min(end_s + _CUE_MARGIN_S, max(end_s, after_s), start_s + LONGEST_S, duration_s)
        chunks.append(Chunk(first, last, start_s, end_s, True, True))
    return Plan([chunk for chunk in chunks if chunk.end_s > chunk.start_s], [], None)


def _phrases(words: Sequence[Word], starts: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    first = 0
    for last, word in enumerate(words, start=1):
        letters = starts[last] - starts[first]
        is_long = (letters >= _PHRASE_LETTERS and word.ends_phrase) or letters >= _LONGEST_PHRASE_LETTERS
        if letters and (word.ends_sentence or is_long):
            yield first, last
            first = last
    if first < len(words):
        yield first, len(words)


def _least_share(ranges: Sequence[tuple[int, int]], starts: npt.NDArray[np.int64], matched: Ints) -> float:
    """Return the share of a phrase's letters that have to be heard."""
    spans = [slice(starts[first], starts[last]) for first, last in ranges]
    shares = [(matched[span] >= 0).mean() for span in spans if span.stop - span.start >= _PHRASE_LETTERS]
    usual = float(np.percentile(shares, 75)) if shares else 1.0
    return max(_LEAST_SHARE, _LEAST_OF_USUAL * usual)


def _split_phrase(
    first: int, last: int, starts: npt.NDArray[np.int64], matched: Ints, heard: Heard
) -> Iterator[tuple[int, int]]:
    """Yield a phrase's words as one part, or as several if other speech or a long pause was heard between them."""
    ends = []
    total, counted = int((matched[starts[first] : starts[last]] >= 0).sum()), 0
    # The last letter that was heard, in the text and in what was heard.
    letter, number = 0, 0
    for index in range(first, last):
        found = np.flatnonzero(matched[starts[index] : starts[index + 1]] >= 0) + starts[index]
        if not len(found):
            continue
        if min(counted, total - counted) >= _LEAST_PART_LETTERS:
            between = found[0] - letter - 1
            extra = matched[found[0]] - number - 1
            pause_s = heard.times_s[matched[found[0]]] - heard.times_s[number]
            if extra >= _EXTRA_LETTERS + 2 * between or _is_apart(pause_s, between + 1):
                ends.append(index)
        counted += len(found)
        letter, number = int(found[-1]), int(matched[found[-1]])
    yield from zip([first, *ends], [*ends, last], strict=True)


def _heard_range(numbers: Ints, heard: Heard, least_share: float) -> tuple[int, int] | None:
    """Return the first and last heard letter of a phrase, or None if too few of its letters were heard together."""
    places = _without_strays(np.flatnonzero(numbers >= 0), numbers, heard)
    if len(places) < least_share * len(numbers) or not len(places):
        return None
    first, last = numbers[places[0]], numbers[places[-1]]
    if heard.times_s[last] - heard.times_s[first] > _SLOWEST_PHRASE_S + _SLOWEST_LETTER_S * len(numbers):
        return None
    return int(first), int(last)


def _is_apart(time_s: npt.NDArray[np.float64], letters: Ints) -> npt.NDArray[np.bool_]:
    """Return whether the time between two letters is too long for what is between them in the text."""
    return time_s > _LONGEST_GAP_S + _SLOWEST_LETTER_S * letters


def _without_strays(places: Ints, numbers: Ints, heard: Heard) -> Ints:
    """Return the places of matched letters in a phrase without those at its ends that were heard far from the rest."""
    times_s = heard.times_s[numbers[places]]
    # Before each place but the first, whether the time since the one before is too long for the letters between them.
    breaks = np.flatnonzero(_is_apart(np.diff(times_s), np.diff(places))) + 1
    parts = np.split(places, breaks)
    return max(parts, key=len)


def _chunks(phrases: Sequence[_Phrase], heard: Heard, duration_s: float) -> Iterator[Chunk]:
    """Yield chunks of consecutive phrases, of up to about `_CHUNK_S`, closed wherever something else was heard."""
    group: list[_Phrase] = []
    start_s, starts_open = 0.0, True
    for number, phrase in enumerate(phrases):
        if not group and starts_open:
            before_s = float(heard.times_s[phrases[number - 1].last_heard]) if number else 0.0
            start_s = max(before_s, float(heard.times_s[phrase.first_heard]) - _MARGIN_S)
        group.append(phrase)
        end_s = float(heard.times_s[phrase.last_heard])
        following = phrases[number + 1] if number + 1 < len(phrases) else None
        next_s = float(heard.times_s[following.first_heard]) if following else duration_s
        if following is None or not _adjoin(phrase, following, heard):
            yield Chunk(group[0].first, phrase.last, start_s, min(next_s, end_s + _MARGIN_S), starts_open, True)
            group, starts_open = [], True
        elif end_s - start_s >= _CHUNK_S:
            border_s = (end_s + next_s) / 2
            yield Chunk(group[0].first, phrase.last, start_s, border_s, starts_open, False)
            group, start_s, starts_open = [], border_s, False


def _chunks_in(
    bounds: Sequence[tuple[float, float]],
    phrases: Sequence[_Phrase],
    starts: npt.NDArray[np.int64],
    matched: Ints,
    heard: Heard,
) -> Iterator[Chunk]:
    """Yield the words that were heard in each part of the recording as chunks, one for each stretch without a break."""
    ends_s = np.array([end_s for _, end_s in bounds])
    # Part, first and last word, and time of the first and last letter that was heard.
    groups: list[tuple[int, int, int, float, float]] = []
    joined: list[bool] = []
    previous: _Phrase | None = None
    for phrase in phrases:
        is_joined = previous is not None and _adjoin(previous, phrase, heard)
        first_s = float(heard.times_s[phrase.first_heard])
        part = int(np.searchsorted(ends_s, first_s))
        for index in range(phrase.first, phrase.last):
            # A word that was not heard is in the part of the word before it.
            number = int(matched[starts[index] : starts[index + 1]].max(initial=-1))
            time_s = float(heard.times_s[number]) if number >= 0 else first_s
            part = int(np.searchsorted(ends_s, time_s))
            if is_joined and groups[-1][0] == part:
                group = groups.pop()
                groups.append((part, group[1], index + 1, group[3], time_s))
            else:
                joined.append(is_joined)
                groups.append((part, index, index + 1, time_s, time_s))
            is_joined, first_s = True, time_s
        previous = phrase
    for (part, first, last, first_s, last_s), joins_before, joins_after in zip(
        groups, joined, [*joined[1:], False], strict=True
    ):
        start_s, end_s = bounds[part]
        if not joins_before:
            start_s = max(start_s, first_s - _PART_MARGIN_S)
        if not joins_after:
            end_s = min(end_s, last_s + _PART_MARGIN_S)
        yield Chunk(first, last, start_s, end_s, not joins_before, not joins_after)


def _adjoin(phrase: _Phrase, following: _Phrase, heard: Heard) -> bool:
    """Return whether two phrases follow each other in the text, soon and with nothing else heard between them."""
    extra = following.first_heard - phrase.last_heard - 1
    pause_s = heard.times_s[following.first_heard] - heard.times_s[phrase.last_heard]
    return phrase.last == following.first and extra < _EXTRA_LETTERS and bool(pause_s <= _LONGEST_PAUSE_S)


def _merge(missing: Sequence[MissingText]) -> list[MissingText]:
    merged: list[MissingText] = []
    for part in missing:
        if merged and merged[-1].last == part.first and merged[-1].reason is part.reason:
            merged[-1] = MissingText(merged[-1].first, part.last, part.reason)
        else:
            merged.append(part)
    return merged


def _likeness(text: Ints, heard: Ints) -> float:
    """Return the cosine similarity of the numbers of pairs of letters."""
    size = int(max(text.max(initial=0), heard.max(initial=0))) + 1
    counts = []
    for letters in (text, heard):
        pairs, numbers = np.unique(letters[:-1] * size + letters[1:], return_counts=True)
        counts.append(dict(zip(pairs.tolist(), numbers.tolist(), strict=True)))
    product = sum(number * counts[1].get(pair, 0) for pair, number in counts[0].items())
    lengths = [sum(number**2 for number in count.values()) ** 0.5 for count in counts]
    return float(product / (lengths[0] * lengths[1])) if all(lengths) else 0.0
