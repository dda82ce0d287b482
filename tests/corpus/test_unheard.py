"""Sentences that were hardly heard."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from letters import make_emissions, spell

from xtts_extend.corpus.alignment import AlignedWord, Alignment, Match, Missing, MissingText
from xtts_extend.corpus.unheard import Rivals, mean_score, telling_words, without_unheard
from xtts_extend.corpus.words import Word, split_words


def in_time(scores: list[float], first: int = 0) -> list[AlignedWord]:
    """Return words that follow each other in time, half a second each."""
    return [AlignedWord(first + number, number, number + 0.5, score) for number, score in enumerate(scores)]


def score_of(*words: tuple[str, float]) -> float:
    return mean_score(in_time([score for _, score in words]), [Word(text, text, " ") for text, _ in words])


def test_words_count_by_their_letters() -> None:
    assert score_of(("ab", 0.5), ("abcdef", 1.0)) == pytest.approx(0.5 ** (2 / 8))
    assert score_of(("ab", 0.0), ("abcdef", 1.0)) == pytest.approx(1e-6 ** (2 / 8))
    assert score_of(("", 0.0), ("ab", 0.5)) == pytest.approx(0.5)
    assert score_of(("", 0.0)) == 0


def heard(text: str, scores: list[float], language: str = "en") -> tuple[list[list[str]], list[str]]:
    """Return the words of each run, and the missing texts, of a text of which each word has a score."""
    words = split_words(text, language)
    assert len(words) == len(scores)
    result = without_unheard(Alignment([in_time(scores)], [], None), words)
    assert all(part.reason is Missing.NOT_SPOKEN for part in result.missing)
    return (
        [[words[word.index].text for word in run] for run in result.runs],
        [" ".join(word.text for word in words[part.first : part.last]) for part in result.missing],
    )


def test_a_sentence_that_was_hardly_heard_is_set_aside_alone() -> None:
    text = "It rains. He snored loudly! The end."
    assert heard(text, [1, 1, 0.04, 0.04, 0.04, 1, 1]) == ([["It", "rains."], ["The", "end."]], ["He snored loudly!"])
    assert heard(text, [0.01, 0.01, 1, 1, 1, 0.01, 0.01]) == ([["He", "snored", "loudly!"]], ["It rains.", "The end."])
    # Its words' mean counts, by their letters.
    scores = [1, 1, 0.001, 0.1, 0.1, 1, 1]
    assert mean_score(in_time(scores[2:5]), split_words("He snored loudly!", "en")) == pytest.approx(0.0518, abs=1e-4)
    assert heard(text, scores) == ([["It", "rains.", "He", "snored", "loudly!", "The", "end."]], [])
    # A sentence of three letters may not be heard although it is spoken.
    assert heard("It rains. Yes. The end.", [1, 1, 0.01, 1, 1])[1] == []
    assert heard("It rains. Sure. The end.", [1, 1, 0.01, 1, 1])[1] == ["Sure."]


def test_nothing_is_left_of_what_was_not_heard() -> None:
    assert heard("It rains. He snored.", [0.01] * 4) == ([], ["It rains.", "He snored."])


def test_runs_and_missing_texts_stay_in_order() -> None:
    words = split_words("One two. Three four. Five six. Seven eight. Nine ten. The end.", "en")
    match = Match(0.9, 0.8, 0.7)
    runs = [in_time([1, 1, 1]), in_time([0.01, 0.01, 1, 1], first=6)]
    before = Alignment(runs, [MissingText(3, 6, Missing.OUT_OF_ORDER), MissingText(10, 12, Missing.NOT_SPOKEN)], match)
    after = without_unheard(before, words)
    # The first run ends inside a sentence.
    assert [[word.index for word in run] for run in after.runs] == [[0, 1, 2], [8, 9]]
    assert after.missing == [before.missing[0], MissingText(6, 8, Missing.NOT_SPOKEN), before.missing[1]]
    assert after.match is match
    assert after.runs[1][0] is runs[1][2]


def test_a_word_that_tells_sentences_apart_decides() -> None:
    text = "Chapter three. But it rains. Chapter seven. But it rains."
    assert heard(text, [1, 0.01, *[1] * 8])[1] == ["Chapter three."]
    assert heard(text, [1, 0.06, *[1] * 8])[1] == []
    # Every other sentence that has "But it" has "rains", too.
    assert heard(text, [1, 1, 1, 1, 0.01, *[1] * 5])[1] == []
    # An initial may end a sentence.
    text = "The letter J. A tree is green. The letter K. A house."
    assert heard(text, [1, 1, 0.01, *[1] * 4, *[1] * 5])[1] == ["The letter J."]
    assert heard(text, [1, 1, 1, *[0.01] * 4, *[1] * 5])[1] == ["A tree is green."]


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("Chapter 3. It rains. Chapter four! Chapter three?", ["three.", "four!", "three?"]),
        ("A red house. A blue house. A red car.", ["red", "house.", "blue", "car."]),
        ("ምዕራፍ አንድ። ምዕራፍ ሁለት።", ["አንድ።", "ሁለት።"]),
        # The same sentence, single words, different lengths, and two differences.
        ("It rains. It rains. Yes. No. It rains now. He snows.", []),
        # A symbol that is not read is no word.
        ("The ☂ rains. The cat rains.", []),
        ("A b c d e f g h i j k one. A b c d e f g h i j k two.", ["one.", "two."]),
        ("A b c d e f g h i j k l one. A b c d e f g h i j k l two.", []),
        ("", []),
    ],
)
def test_the_words_that_tell_sentences_apart(text: str, telling: list[str]) -> None:
    words = split_words(text, "am" if "።" in text else "en")
    assert [words[index].text for index in sorted(telling_words(words))] == telling


def test_a_text_without_full_stops_is_one_sentence() -> None:
    assert not telling_words(split_words("word " * 50_000, "en"))


#: Sentences of five letters.
OTHERS = ["".join(letters) for letters in itertools.islice(itertools.product("abcde", repeat=5), 0, 3125, 125)]


def are_worse(
    tmp_path: Path, spoken: str, others: list[str], span: tuple[int, int], between: tuple[float, float]
) -> bool:
    """Return whether other sentences are worse than "abc de" in frames `span`, `between` those of its neighbors."""
    texts = ["abc de", *others]
    words = [
        Word(word, word, " ", ends_sentence=number == text.count(" "))
        for text in texts
        for number, word in enumerate(text.split())
    ]
    rivals = Rivals(words, spell(" ".join(texts)), make_emissions(tmp_path, spoken))
    first, last = (frame * 0.02 for frame in span)
    sentence = [AlignedWord(0, first, first, 0.0), AlignedWord(1, last, last, 0.0)]
    start_s, end_s = (frame * 0.02 for frame in between)
    return rivals.are_worse(sentence, start_s, end_s)


def test_a_sentence_is_spoken_where_all_others_fit_worse(tmp_path: Path) -> None:
    everywhere = -math.inf, math.inf
    assert len(OTHERS) == 25
    # The model is sure of "b" instead of "d".
    assert are_worse(tmp_path, "--a-b-c-b-e--", OTHERS, (2, 10), everywhere)
    assert not are_worse(tmp_path, "--a-b-c-b-e--", [*OTHERS, "abcbe"], (2, 10), everywhere)
    assert not are_worse(tmp_path, "--b-d-a-a-a--", OTHERS, (2, 10), everywhere)
    # Others that are much longer or shorter are no rivals, nor is the same sentence.
    assert are_worse(tmp_path, "--a-b-c-b-e--", [*OTHERS[:20], "ab", "abcbeabc", "ab cde"], (2, 10), everywhere)
    assert not are_worse(tmp_path, "--a-b-c-b-e--", [*OTHERS[:19], "ab", "abcbeabc", "ab cde"], (2, 10), everywhere)


def test_sentences_are_compared_between_their_neighbors(tmp_path: Path) -> None:
    spoken = "--a--abcde--a" + "-" * 20 + "b"
    others = [*OTHERS, "aabcdea", "abcdea", "aabcde"]
    assert are_worse(tmp_path, spoken, others, (5, 10), (3, 11))
    assert not are_worse(tmp_path, spoken, others, (5, 10), (-math.inf, 11))
    assert not are_worse(tmp_path, spoken, others, (5, 10), (3, math.inf))
    # Its own letters may be as far away.
    assert are_worse(tmp_path, "--abcde--", OTHERS, (4, 4), (-math.inf, math.inf))
    # What is more than 0.3 s away is something else.
    spoken = "--a--abcde" + "-" * 20 + "b"
    assert are_worse(tmp_path, spoken, [*OTHERS, "abcdeb"], (5, 10), (3, math.inf))


@pytest.mark.parametrize(("frames", "span"), [(1600, (2, 1550)), (13, (30, 30)), (13, (2, 2)), (13, (2, 3))])
def test_too_much_or_too_little_speech_says_nothing(tmp_path: Path, frames: int, span: tuple[int, int]) -> None:
    assert not are_worse(tmp_path, "abcde".rjust(frames, "-"), OTHERS, span, span)


def test_a_sentence_whose_letters_are_unknown_is_not_compared(tmp_path: Path) -> None:
    others = list(map("".join, itertools.product("abcde", repeat=2)))
    words = [Word(text, text, " ", True) for text in ("жж", *others)]
    rivals = Rivals(words, [[], *spell(" ".join(others))], make_emissions(tmp_path, "---"))
    assert not rivals.are_worse([AlignedWord(0, 0.02, 0.04, 0.0)], 0.0, 0.06)


def test_what_fits_better_than_others_is_not_set_aside(tmp_path: Path) -> None:
    words = [Word(text, text, " ", True) for text in ("abcde", *OTHERS)]
    letters = spell(" ".join(word.text for word in words))
    rivals = Rivals(words, letters, make_emissions(tmp_path, "--a-b-c-b-e--" + "-" * 20 + "b-d-a-a-a"))
    run = [AlignedWord(0, 0.04, 0.22, 0.01), AlignedWord(1, 0.66, 0.82, 0.01)]
    found = without_unheard(Alignment([run], [], None), words, rivals)
    assert found.runs == [run[:1]]
    assert found.missing == [MissingText(1, 2, Missing.NOT_SPOKEN)]
    assert without_unheard(Alignment([run], [], None), words).runs == []
