"""Set aside sentences that were hardly heard, each on its own, so that their neighbors can still become clips."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence

import torch
from torch import nn

from xtts_extend.corpus.alignment import UNHEARD, AlignedWord, Alignment, Missing, MissingText
from xtts_extend.corpus.emissions import Emissions
from xtts_extend.corpus.words import Word

# A sentence of fewer letters may not be heard although it is spoken.
_SENTENCE_LETTERS = 4
# Longer sentences seldom differ in one word, and a text without full stops is one long sentence.
_MOST_TOLD_APART = 12
# Fewest and most other sentences to compare a sentence with. With fewer, it could fit best by chance.
_FEWEST_RIVALS, _MOST_RIVALS = 20, 200
# They are compared up to this many seconds before and after it, over a stretch of up to the second number of seconds.
_MARGIN_S, _LONGEST_COMPARED_S = 0.3, 30.0


class Rivals:
    """Other sentences of a text, which are compared with a sentence where it was placed.

    A model may be sure of wrong letters, so that a sentence has a low score although it is spoken. But one that is not
    spoken hardly ever fits better than all others.

    Args:
        words: The whole text.
        letters: Token ids of each word.
        emissions: The emissions of the whole recording.
    """

    def __init__(self, words: Sequence[Word], letters: Sequence[Sequence[int]], emissions: Emissions) -> None:
        self._letters, self._emissions = letters, emissions
        sentences = {self._letters_of(range(first, last)) for first, last in _sentences(words)}
        self._sentences = sorted(sentences - {()}, key=lambda sentence: (len(sentence), sentence))
        self._lengths = list(map(len, self._sentences))

    def are_worse(self, sentence: Sequence[AlignedWord], start_s: float, end_s: float) -> bool:
        """Return whether all sentences of about the same length fit worse. If there are too few, that says nothing.

        Args:
            sentence: The sentence where it was placed.
            start_s, end_s: Where its neighbors end and start, in seconds.
        """
        start_s, end_s = max(start_s, sentence[0].start_s - _MARGIN_S), min(end_s, sentence[-1].end_s + _MARGIN_S)
        stride_s = self._emissions.stride_s
        its_letters = self._letters_of([word.index for word in sentence])
        rivals = self._rivals(its_letters)
        is_comparable = its_letters and len(rivals) >= _FEWEST_RIVALS
        if not is_comparable or not stride_s <= end_s - start_s <= _LONGEST_COMPARED_S:
            return False
        log_probs = self._emissions[max(0, int(start_s / stride_s)) : int(end_s / stride_s) + 1]
        likelihoods = _log_likelihoods(torch.from_numpy(log_probs), [its_letters, *rivals], self._emissions.blank)
        return bool(likelihoods[0] > likelihoods[1:].max())

    def _letters_of(self, indices: Iterable[int]) -> tuple[int, ...]:
        return tuple(letter for index in indices for letter in self._letters[index])

    def _rivals(self, its_letters: tuple[int, ...]) -> list[tuple[int, ...]]:
        difference = max(2, len(its_letters) // 4)
        shortest = bisect_left(self._lengths, len(its_letters) - difference)
        longest = bisect_right(self._lengths, len(its_letters) + difference)
        rivals = [rival for rival in self._sentences[shortest:longest] if rival != its_letters]
        return rivals[:: max(1, math.ceil(len(rivals) / _MOST_RIVALS))]


def without_unheard(alignment: Alignment, words: Sequence[Word], rivals: Rivals | None = None) -> Alignment:
    """Return an alignment without the sentences that were hardly heard: something else is spoken there.

    A sentence was hardly heard if its mean score is low, or if one of its `telling_words` was not heard. It stays if
    all others fit worse.

    Args:
        alignment: The words of a recording in time.
        words: The whole text.
        rivals: The other sentences; None if they cannot be compared.
    """
    telling = telling_words(words)
    runs: list[list[AlignedWord]] = []
    missing = list(alignment.missing)
    for run in alignment.runs:
        is_open = True
        its_words = [words[word.index] for word in run]
        for first, last in _sentences(its_words):
            sentence = run[first:last]
            is_unheard = _is_unheard(sentence, its_words[first:last], telling)
            if is_unheard and rivals is not None:
                start_s = run[first - 1].end_s if first else -math.inf
                end_s = run[last].start_s if last < len(run) else math.inf
                is_unheard = not rivals.are_worse(sentence, start_s, end_s)
            if is_unheard:
                missing.append(MissingText(sentence[0].index, sentence[-1].index + 1, Missing.NOT_SPOKEN))
            elif is_open:
                runs.append(sentence)
            else:
                runs[-1].extend(sentence)
            is_open = is_unheard
    return Alignment(runs, sorted(missing, key=lambda part: part.first), alignment.match)


def _is_unheard(sentence: Sequence[AlignedWord], words: Sequence[Word], telling: Container[int]) -> bool:
    if any(word.index in telling and word.score < UNHEARD for word in sentence):
        return True
    letters = sum(len(word.spoken) for word in words)
    return letters >= _SENTENCE_LETTERS and mean_score(sentence, words) < UNHEARD


def _log_likelihoods(log_probs: torch.Tensor, sentences: Sequence[Sequence[int]], blank: int) -> torch.Tensor:
    """Return how probable each sentence is in frames, float32 [sentences]; `log_probs` is float32 [frames, columns]."""
    count = len(sentences)
    return -nn.functional.ctc_loss(
        log_probs[:, None].expand(-1, count, -1),
        torch.tensor([letter for sentence in sentences for letter in sentence]),
        torch.full((count,), len(log_probs)),
        torch.tensor(list(map(len, sentences))),
        blank=blank,
        reduction="none",
    )


def telling_words(words: Sequence[Word]) -> set[int]:
    """Return the numbers of the words in which two sentences differ that are otherwise the same.

    In a text with "Chapter three." and "Chapter four.", only "three" and "four" tell which of them is spoken.

    Args:
        words: The whole text.
    """
    # The words that stand in each place of a sentence, and their numbers. The place is the sentence without the word.
    places: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for first, last in _sentences(words):
        indices = [index for index in range(first, last) if words[index].spoken]
        spoken = [words[index].spoken for index in indices]
        if 1 < len(spoken) <= _MOST_TOLD_APART:
            for number, index in enumerate(indices):
                place = (*spoken[:number], "", *spoken[number + 1 :])
                places.setdefault(place, {}).setdefault(spoken[number], []).append(index)
    return {index for found in places.values() if len(found) > 1 for indices in found.values() for index in indices}


def mean_score(aligned: Sequence[AlignedWord], words: Sequence[Word]) -> float:
    """Return the geometric mean of the words' scores, weighted by their numbers of letters.

    Args:
        aligned: Consecutive words in time.
        words: The same words in the text.
    """
    letters = [len(word.spoken) for word in words]
    total = sum(letters)
    logarithms = (count * math.log(max(word.score, 1e-6)) for word, count in zip(aligned, letters, strict=True))
    return math.exp(sum(logarithms) / total) if total else 0.0


def _sentences(words: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last word (exclusive) of each sentence.

    "J." may be an initial, which is why `Word.ends_sentence` is False in "The letter J. A tree.", but here it ends one.
    """
    ends = [
        number
        for number, word in enumerate(words[:-1], start=1)
        if word.ends_sentence or (len(word.spoken) == 1 and word.text.endswith("."))
    ]
    yield from itertools.pairwise([0, *ends, len(words)])
