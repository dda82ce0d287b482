"""Match the letters of a text with the letters that a model heard, although each may have letters that the other lacks.

Sequences of letters that occur exactly once in both are anchors, as in `git diff --patience`. Between anchors, shorter
sequences are unique as well, and what is short enough after that is aligned by dynamic programming (Needleman and
Wunsch, 1970). The time is nearly linear in the length, so a whole book can be matched with ten hours of speech.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

# Lengths of the sequences that are tried as anchors, the longest first. The shorter they are, the more are found if a
# model hears many letters wrongly, and the more of them are the same by accident.
_ANCHOR_LENGTHS = (16, 12, 9, 7, 5)
# Longest stretch, in letters of either side, that short sequences are tried in: an hour, five minutes, a minute.
_LONGEST_FOR_SHORT = {9: 100_000, 7: 6_000, 5: 1_500}
# Longest product of both lengths that is aligned letter by letter: two minutes of speech with as much text.
_LARGEST_TABLE = 2_000 * 2_000
# A sequence of fewer than this many letters needs a second one nearby, at about the same distance on both sides: two
# accidents hardly ever agree.
_ALONE, _NEARBY = 18, 300
# Accidental sequences between two that agree, at most.
_NEIGHBORS = 5
# Letters near either end of a longer piece that are tried again.
_END_LETTERS = 2_000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def match_letters(text: Ints, heard: Ints) -> Ints:
    """Return the index of the heard letter for each letter of the text, or -1 if it was not heard.

    Matches are in order: the indices that are not -1 increase.

    Args:
        text: Letters of the text as numbers, [letters].
        heard: Letters that were heard as numbers, [heard letters].

    >>> match_letters(np.array([1, 2, 3, 4, 5]), np.array([1, 2, 9, 4, 5, 6])).tolist()
    [0, 1, -1, 3, 4]
    """
    matched = np.full(len(text), -1, dtype=np.int64)
    pieces = [(0, len(text), 0, len(heard), 0)]
    while pieces:
        first, last, heard_first, heard_last, level = pieces.pop()
        if first == last or heard_first == heard_last:
            continue
        size, heard_size = last - first, heard_last - heard_first
        if level < len(_ANCHOR_LENGTHS) and size * heard_size > 400:
            length = _ANCHOR_LENGTHS[level]
            if max(size, heard_size) > _LONGEST_FOR_SHORT.get(length, 1 << 62):
                # Without an anchor in about a minute, only what is near the ends can be told.
                ends = _ends(first, last, heard_first, heard_last, len(text), len(heard))
                pieces.extend((*piece, level) for piece in ends)
                continue
            anchors = _anchors(text[first:last], heard[heard_first:heard_last], length)
            pairs = [(first + i, heard_first + j) for i, j in anchors]
            between = _fill(matched, pairs, length, first, last, heard_first, heard_last)
            pieces.extend((*piece, level + 1) for piece in between)
        elif size * heard_size <= _LARGEST_TABLE:
            for i, j in _align(text[first:last], heard[heard_first:heard_last]):
                matched[first + i] = heard_first + j
    return matched


def off_order(text: Ints, heard: Ints, matched: Ints) -> npt.NDArray[np.bool_]:
    """Return which unmatched letters of the text were heard elsewhere, out of order, as a mask [letters].

    Args:
        text, heard: See `match_letters`.
        matched: Its result.
    """
    found = np.zeros(len(text), dtype=bool)
    unmatched_heard = np.ones(len(heard), dtype=bool)
    unmatched_heard[matched[matched >= 0]] = False
    length = _ANCHOR_LENGTHS[2]
    for i, j in _unique_pairs(text, heard, length):
        if (matched[i : i + length] < 0).all() and unmatched_heard[j : j + length].all():
            found[i : i + length] = True
    return found


def _ends(
    first: int, last: int, heard_first: int, heard_last: int, text_size: int, heard_size: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the parts of a piece next to the anchors on either side, each with as much as it can match on the other."""
    has_left, has_right = first > 0 and heard_first > 0, last < text_size and heard_last < heard_size
    sides = has_left + has_right
    shorter = min(last - first, heard_last - heard_first)
    reach = min(2 * shorter + 100, _END_LETTERS)
    text_reach = min(reach, (last - first) // 2)
    heard_reach = min(reach, (heard_last - heard_first) // sides if sides else 0)
    if has_left:
        yield first, first + text_reach, heard_first, heard_first + heard_reach
    if has_right:
        yield last - text_reach, last, heard_last - heard_reach, heard_last


def _fill(
    matched: Ints, pairs: list[tuple[int, int]], length: int, first: int, last: int, heard_first: int, heard_last: int
) -> Iterator[tuple[int, int, int, int]]:
    """Record the letters of anchors as matched, and yield what is left between them, from end to end."""
    for i, j in pairs:
        # Anchors overlap; one that began earlier has priority.
        skipped = max(0, first - i, heard_first - j)
        if skipped >= length:
            continue
        yield first, i + skipped, heard_first, j + skipped
        matched[i + skipped : i + length] = np.arange(j + skipped, j + length)
        first, heard_first = i + length, j + length
    yield first, last, heard_first, heard_last


def _anchors(text: Ints, heard: Ints, length: int) -> list[tuple[int, int]]:
    """Return the positions of sequences that are unique on both sides, in the same order on both."""
    pairs = _unique_pairs(text, heard, length)
    if length > _ANCHOR_LENGTHS[-2]:
        pairs = _confirmed(pairs, length)
    return _longest_increasing(pairs)


def _confirmed(pairs: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Return the pairs that are part of a long equal sequence, or that have another sequence nearby."""
    # Overlapping pairs with the same distance between both sides are one sequence. [first pair, last pair] of each.
    sequences: list[tuple[int, int]] = []
    for number, (i, j) in enumerate(pairs):
        if sequences:
            first, last = sequences[-1]
            last_i, last_j = pairs[last]
            if last_i - last_j == i - j and i - last_i <= length:
                sequences[-1] = (first, number)
                continue
        sequences.append((number, number))
    confirmed = []
    for place, (first, last) in enumerate(sequences):
        is_long = pairs[last][0] - pairs[first][0] + length >= _ALONE
        if is_long or any(_agree(pairs, sequences[place], other) for other in _around(sequences, place)):
            confirmed += pairs[first : last + 1]
    return confirmed


def _around(sequences: list[tuple[int, int]], place: int) -> list[tuple[int, int]]:
    return sequences[max(0, place - _NEIGHBORS) : place] + sequences[place + 1 : place + 1 + _NEIGHBORS]


def _agree(pairs: list[tuple[int, int]], sequence: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two sequences are at about the same distance in the text and in what was heard."""
    (first, last) = sorted((sequence, other))
    (i, j), (next_i, next_j) = pairs[first[1]], pairs[last[0]]
    distance, heard_distance = next_i - i, next_j - j
    return 0 < distance <= _NEARBY and abs(distance - heard_distance) <= 4 + distance // 4


def _unique_pairs(text: Ints, heard: Ints, length: int) -> list[tuple[int, int]]:
    """Return (position in the text, position in what was heard) of sequences that occur once in each, in text order."""
    if min(len(text), len(heard)) < length:
        return []
    hashes, positions = _unique(_hashes(text, length))
    heard_hashes, heard_positions = _unique(_hashes(heard, length))
    _, in_text, in_heard = np.intersect1d(hashes, heard_hashes, assume_unique=True, return_indices=True)
    pairs = zip(positions[in_text].tolist(), heard_positions[in_heard].tolist(), strict=True)
    return sorted((i, j) for i, j in pairs if np.array_equal(text[i : i + length], heard[j : j + length]))


def _hashes(letters: Ints, length: int) -> npt.NDArray[np.uint64]:
    """Return a hash of each sequence of `length` letters."""
    count = len(letters) - length + 1
    hashes = np.zeros(count, dtype=np.uint64)
    values = letters.astype(np.uint64) + np.uint64(1)
    for offset in range(length):
        hashes = hashes * _MULTIPLIER + values[offset : offset + count]
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _unique(hashes: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
    values, positions, counts = np.unique(hashes, return_index=True, return_counts=True)
    return values[counts == 1], positions[counts == 1]


def _longest_increasing(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest subsequence of pairs, sorted by their first value, in which the second value increases."""
    ends: list[int] = []
    last_of: list[int] = []
    previous = [-1] * len(pairs)
    for number, (_, j) in enumerate(pairs):
        place = bisect_left(ends, j)
        if place == len(ends):
            ends.append(j)
            last_of.append(number)
        else:
            ends[place], last_of[place] = j, number
        previous[number] = last_of[place - 1] if place else -1
    chain, number = [], last_of[-1] if last_of else -1
    while number >= 0:
        chain.append(pairs[number])
        number = previous[number]
    return chain[::-1]


def _align(text: Ints, heard: Ints) -> Iterator[tuple[int, int]]:
    """Yield the pairs of equal letters in the best alignment: +2 for a match, -1 for any error."""
    columns = np.arange(len(heard) + 1, dtype=np.int32)
    scores = np.empty((len(text) + 1, len(heard) + 1), dtype=np.int32)
    scores[0] = -columns
    for i, letter in enumerate(text, start=1):
        above, scores[i, 0] = scores[i - 1], -i
        scores[i, 1:] = np.maximum(above[1:] - 1, above[:-1] + np.where(heard == letter, 2, -1))
        # A heard letter that the text lacks costs 1 per column, so that this is a running maximum of score + column.
        scores[i] = np.maximum.accumulate(scores[i] + columns) - columns
    i, j = len(text), len(heard)
    found = []
    while i and j:
        equal = text[i - 1] == heard[j - 1]
        if scores[i, j] == scores[i - 1, j - 1] + (2 if equal else -1):
            i, j = i - 1, j - 1
            if equal:
                found.append((i, j))
        elif scores[i, j] == scores[i - 1, j] - 1:
            i -= 1
        else:
            j -= 1
    yield from reversed(found)
