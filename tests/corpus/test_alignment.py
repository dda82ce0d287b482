"""Chunks and forced alignment: where words are, what is not spoken, and what is not in the text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from letters import hear, make_emissions, random_text, spell
from torchaudio.functional import forced_align

from xtts_extend.corpus.aligners import LOWEST
from xtts_extend.corpus.alignment import (
    AlignedWord,
    Alignment,
    Chunk,
    Heard,
    Match,
    Missing,
    MissingText,
    Plan,
    align_chunk,
    join_chunks,
)
from xtts_extend.corpus.chunks import plan_chunks, plan_cues
from xtts_extend.corpus.emissions import Emissions
from xtts_extend.corpus.words import Word

_LETTER_S = 0.08
_WORD_LETTERS = 5


def make_words(count: int, seed: int = 0, sentence: int = 8) -> tuple[list[Word], list[list[int]]]:
    """Return words of five random letters each, in sentences, and their letters."""
    letters = random_text(count * _WORD_LETTERS, seed).reshape(count, _WORD_LETTERS).tolist()
    words = [
        Word(str(index), str(index), " ", ends_sentence=index % sentence == sentence - 1) for index in range(count)
    ]
    return words, letters


def listen(letters: Sequence[Sequence[int]], error_rate: float = 0.2) -> Heard:
    """Return what is heard if the words are spoken one after the other, 0.08 s per letter."""
    heard, _ = hear(np.array([letter for word in letters for letter in word]), error_rate)
    return Heard(heard, np.arange(len(heard)) * _LETTER_S)


def plan(words: list[Word], letters: list[list[int]], heard: Heard) -> Plan:
    """Return the chunks of a recording that is as long as what was heard in it."""
    return plan_chunks(words, letters, heard, float(heard.times_s[-1]) + 1)


def test_every_word_of_a_right_text_is_in_one_chunk() -> None:
    words, letters = make_words(400)
    result = plan(words, letters, listen(letters))
    assert result.missing == []
    assert [chunk.first for chunk in result.chunks] == [0, *(chunk.last for chunk in result.chunks[:-1])]
    assert result.chunks[-1].last == 400
    assert [chunk.starts_open for chunk in result.chunks] == [True] + [False] * (len(result.chunks) - 1)
    for chunk in result.chunks:
        assert chunk.end_s - chunk.start_s < 30
        assert chunk.start_s == pytest.approx(chunk.first * _WORD_LETTERS * _LETTER_S, abs=2.5)
    assert result.match is not None
    assert result.match.heard_share > 0.75
    assert result.match.likeness > 0.8


def test_a_sentence_that_is_not_spoken_is_missing() -> None:
    words, letters = make_words(200)
    result = plan(words, letters, listen(letters[:80] + letters[96:]))
    assert result.missing == [MissingText(80, 96, Missing.NOT_SPOKEN)]
    assert not any(chunk.first < 96 and chunk.last > 80 for chunk in result.chunks)
    before = next(chunk for chunk in result.chunks if chunk.last == 80)
    assert before.ends_open


def test_speech_that_the_text_lacks_ends_a_chunk() -> None:
    words, letters = make_words(200)
    spoken = letters[:80] + make_words(16, seed=7)[1] + letters[80:]
    result = plan(words, letters, listen(spoken))
    assert result.missing == []
    before = next(chunk for chunk in result.chunks if chunk.last == 80)
    after = next(chunk for chunk in result.chunks if chunk.first == 80)
    assert before.ends_open
    assert after.starts_open


def test_speech_inside_a_sentence_that_the_text_lacks_divides_it() -> None:
    words, letters = make_words(160)
    spoken = letters[:84] + make_words(6, seed=7)[1] + letters[84:]
    ends = {chunk.last for chunk in plan(words, letters, listen(spoken)).chunks}
    assert 84 in ends


def test_a_letter_that_was_heard_far_away_is_no_part_of_a_phrase() -> None:
    words, letters = make_words(160)
    heard = listen(letters, error_rate=0.0)
    times_s = heard.times_s.copy()
    # A minute of music before the sentence of words 80 to 87. Its first letter was heard in the music.
    times_s[80 * _WORD_LETTERS + 1 :] += 60
    result = plan(words, letters, Heard(heard.letters, times_s))
    chunk = next(chunk for chunk in result.chunks if chunk.first == 80)
    assert chunk.starts_open
    assert chunk.start_s == pytest.approx(times_s[80 * _WORD_LETTERS + 1] - 4)


def test_a_long_pause_inside_a_phrase_divides_it() -> None:
    words, letters = make_words(160)
    heard = listen(letters, error_rate=0.0)
    times_s = heard.times_s.copy()
    # The sentence of words 80 to 87 is two: "Take lane B. [a minute of music] Turn right." The B was not heard.
    is_heard = np.ones(len(times_s), dtype=bool)
    is_heard[82 * _WORD_LETTERS : 83 * _WORD_LETTERS] = False
    times_s[83 * _WORD_LETTERS :] += 60
    result = plan(words, letters, Heard(heard.letters[is_heard], times_s[is_heard]))
    assert result.missing == []
    before, after = (next(chunk for chunk in result.chunks if chunk.first <= word < chunk.last) for word in (82, 83))
    assert (before.last, before.ends_open) == (83, True)
    assert (after.first, after.starts_open) == (83, True)
    assert after.start_s == pytest.approx(times_s[83 * _WORD_LETTERS] - 4)


def test_a_short_word_that_was_heard_elsewhere_stays_with_its_sentence() -> None:
    words, letters = make_words(160)
    first, extra = letters[80], make_words(6, seed=7)[1]
    result = plan(words, letters, listen([*letters[:80], first, *extra, *letters[81:]], error_rate=0.0))
    assert result.missing == []
    assert any(chunk.first <= 80 and chunk.last >= 88 for chunk in result.chunks)
    # As many words as make a phrase of their own are divided from the rest.
    result = plan(words, letters, listen([*letters[:83], *extra, *letters[83:]], error_rate=0.0))
    assert 83 in {chunk.last for chunk in result.chunks}


def test_swapped_sentences_are_out_of_order() -> None:
    words, letters = make_words(200)
    spoken = letters[:80] + letters[96:112] + letters[80:96] + letters[112:]
    missing = plan(words, letters, listen(spoken, error_rate=0.1)).missing
    assert [part.reason for part in missing] == [Missing.OUT_OF_ORDER]
    assert (missing[0].first, missing[0].last) in [(80, 96), (96, 112)]


def test_another_text_has_no_chunks() -> None:
    words, letters = make_words(200)
    result = plan(words, letters, listen(make_words(200, seed=3)[1]))
    assert result.match is not None
    assert result.match.heard_share < 0.2
    assert result.match.likeness > 0.65


def test_another_language_is_told_by_its_pairs_of_letters() -> None:
    words, letters = make_words(200)
    other = np.random.default_rng(4).choice(27, 1000, p=np.random.default_rng(9).dirichlet(np.full(27, 0.3)))
    result = plan(words, letters, Heard(other, np.arange(1000) * _LETTER_S))
    assert result.match is not None
    assert result.match.likeness < 0.6


def test_words_without_letters_stay_with_their_sentence() -> None:
    words, letters = make_words(80)
    words.insert(8, Word("–", "", " ", ends_sentence=True))
    result = plan(words, [*letters[:8], [], *letters[8:]], listen(letters))
    assert result.missing == []
    assert result.chunks[0].first == 0
    assert result.chunks[-1].last == 81


def test_parts_become_chunks() -> None:
    words, letters = make_words(96)
    heard = listen(letters)
    bounds = [(0.0, 10.05), (10.05, 20.05), (20.05, 60.0)]
    result = plan_chunks(words, letters, heard, 60.0, bounds)
    assert [chunk.start_s for chunk in result.chunks] == [0.0, 10.05, 20.05]
    assert [chunk.end_s for chunk in result.chunks[:2]] == [10.05, 20.05]
    assert result.chunks[2].end_s == pytest.approx(heard.times_s[-1] + 2, abs=0.3)
    assert [chunk.first for chunk in result.chunks] == pytest.approx([0, 25, 50], abs=1)
    assert [chunk.starts_open for chunk in result.chunks] == [True, False, False]
    assert [chunk.ends_open for chunk in result.chunks] == [False, False, True]


def test_cues_are_joined_to_chunks_of_about_20_seconds() -> None:
    words = [
        Word(str(index), str(index), " ", cue=(3.0 * (index // 4), 3.0 * (index // 4) + 2.5)) for index in range(80)
    ]
    chunks = plan_cues(words, 70.0).chunks
    assert [chunk.first for chunk in chunks] == [0, *(chunk.last for chunk in chunks[:-1])]
    assert chunks[-1].last == 80
    assert all(chunk.end_s - chunk.start_s <= 22 for chunk in chunks)
    assert all(left.end_s <= right.start_s + 1 for left, right in itertools.pairwise(chunks))


def test_words_get_their_frames(tmp_path: Path) -> None:
    emissions = make_emissions(tmp_path, "---a-bb--c---d-e--")
    aligned = align_chunk(Chunk(0, 2, 0.0, 0.36, False, False), spell("abc de"), emissions)
    assert aligned is not None
    assert [(word.index, round(word.start_s / 0.02), round(word.end_s / 0.02)) for word in aligned] == [
        (0, 3, 10),
        (1, 13, 16),
    ]
    assert [word.score for word in aligned] == pytest.approx([1.0, 1.0])


def test_a_letter_that_was_not_heard_lowers_the_score_of_its_word_only(tmp_path: Path) -> None:
    emissions = make_emissions(tmp_path, "---a-bb--c---d-d--")
    aligned = align_chunk(Chunk(0, 2, 0.0, 0.36, False, False), spell("abc de"), emissions)
    assert aligned is not None
    assert aligned[0].score == pytest.approx(1.0)
    # One letter of two lost ln(0.9 / 0.02).
    assert aligned[1].score == pytest.approx(np.exp(-np.log(0.9 / 0.02) / 2), rel=0.05)


def test_a_wildcard_takes_speech_before_and_after(tmp_path: Path) -> None:
    emissions = make_emissions(tmp_path, "edced--a-b-c--cdecd-")
    aligned = align_chunk(Chunk(0, 1, 0.0, 0.4, True, True), spell("abc"), emissions)
    assert aligned is not None
    assert round(aligned[0].start_s / 0.02) == 7
    assert round(aligned[0].end_s / 0.02) == 12
    assert aligned[0].score == pytest.approx(1.0)


def test_long_speech_after_the_text_takes_none_of_its_letters(tmp_path: Path) -> None:
    emissions = make_emissions(tmp_path, "--a-b-c------" + "-----".join("cdedede") + "--")
    aligned = align_chunk(Chunk(0, 1, 0.0, 0.02 * emissions.frames, True, True), spell("abc"), emissions)
    assert aligned is not None
    assert round(aligned[0].end_s / 0.02) == 7
    assert aligned[0].score == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("gap", "frames"), [(20, (3, 30)), (30, (3, 7))], ids=["slow speech", "in speech that the text lacks"]
)
def test_a_letter_far_from_its_word_is_not_where_the_word_is(tmp_path: Path, gap: int, frames: tuple[int, int]) -> None:
    # The last letter of "abc" was found half a second after the others, where "ecd" is spoken.
    emissions = make_emissions(tmp_path, "---a-bb--" + "-" * (gap - 2) + "ccc-" + "--e-d--")
    aligned = align_chunk(Chunk(0, 2, 0.0, 0.02 * emissions.frames, False, False), spell("abc ed"), emissions)
    assert aligned is not None
    assert (round(aligned[0].start_s / 0.02), round(aligned[0].end_s / 0.02)) == frames


def test_torchaudio_takes_a_bad_way_where_two_are_equal() -> None:
    """The reason for `_TIE_BREAK`, which can go once this fails."""
    # The best path is 1, blank, 2, blank, or blank, 1, 2, blank. Both lose 1 before they meet in the third frame.
    log_probs = torch.tensor([[0.0, -1.0, -9.0], [0.0, -1.0, -9.0], [-9.0, -9.0, 0.0], [0.0, -9.0, -9.0]])
    _, scores = forced_align(log_probs[None], torch.tensor([[1, 2]]), blank=0)
    assert float(scores.sum()) == -10


def test_text_that_does_not_fit_into_its_time_is_not_aligned(tmp_path: Path) -> None:
    emissions = make_emissions(tmp_path, "ab")
    assert align_chunk(Chunk(0, 1, 0.0, 0.04, False, False), spell("abcde"), emissions) is None


def test_a_word_without_known_letters_has_no_time_and_no_score(tmp_path: Path) -> None:
    emissions = make_emissions(tmp_path, "---a-bb--c---d-e--")
    aligned = align_chunk(Chunk(0, 3, 0.0, 0.36, False, False), [*spell("abc"), [], *spell("de")], emissions)
    assert aligned is not None
    middle_s = (aligned[0].end_s + aligned[2].start_s) / 2
    assert aligned[1] == AlignedWord(1, middle_s, middle_s, 0.0)


def test_silence_is_certain(tmp_path: Path) -> None:
    values = np.full((3, 2), LOWEST, dtype=np.float16)
    values[:, 0] = 0
    np.save(tmp_path / "part-00000.npy", values)
    emissions = Emissions(tmp_path, "", 3, 2, 320, 16_000, 3)
    aligned = align_chunk(Chunk(0, 1, 0.0, 0.06, False, False), [[1]], emissions)
    assert aligned is not None
    assert aligned[0].score < 1e-20


def test_chunks_are_joined_unless_there_is_a_break() -> None:
    chunks = [
        Chunk(0, 1, 0, 1, True, False),
        Chunk(1, 2, 1, 2, False, True),
        Chunk(3, 4, 3, 4, True, False),
        Chunk(4, 5, 4, 5, False, False),
        Chunk(5, 6, 5, 6, False, True),
    ]
    words = [AlignedWord(chunk.first, chunk.start_s, chunk.end_s, 1.0) for chunk in chunks]
    plan = Plan(chunks, [MissingText(2, 3, Missing.NOT_SPOKEN)], Match(1, 1, 1))
    alignment = join_chunks(plan, [[words[0]], [words[1]], [words[2]], None, [words[4]]])
    assert alignment.runs == [[words[0], words[1]], [words[2]], [words[4]]]
    assert alignment.missing == [MissingText(2, 3, Missing.NOT_SPOKEN), MissingText(4, 5, Missing.NOT_SPOKEN)]
    assert Alignment.from_json(alignment.to_json()) == alignment
