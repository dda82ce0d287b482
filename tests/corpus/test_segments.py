"""Cuts: inside pauses, 1 to 11 seconds, whole sentences if they fit, and no word lost in silence."""

from __future__ import annotations

import numpy as np
import pytest

from xtts_extend.corpus.alignment import AlignedWord
from xtts_extend.corpus.clip import SHORTEST_CLIP_S
from xtts_extend.corpus.pauses import STEP_S, Loudness
from xtts_extend.corpus.segments import LONGEST_S, Segment, Uncut, cut_run
from xtts_extend.corpus.words import Word

_SPEECH_DB, _SILENCE_DB = -20.0, -70.0


def make_word(text: str) -> Word:
    """Return a word, which ends a sentence or a phrase if its last character is a full stop or a comma."""
    return Word(text, text.strip("?.,"), " ", text.endswith("."), text.endswith((".", ",")))


def make_run(timeline: str, word_s: float = 0.5) -> tuple[list[AlignedWord], list[Word], Loudness]:
    """Return words in time, from a line such as "a b, c. | d": words, and | for a pause of half a second.

    There is a second of silence before and after. Words without | between them follow each other without a pause.
    Each ~ is 0.1 s of sound that belongs to no word, and each - is 0.1 s of silence. A word that begins with ? was not
    heard: it has a score of 0, and a time of 0.02 s.
    """
    run, words = [], []
    levels = [_SILENCE_DB] * 100
    for item in timeline.split():
        if item == "|":
            levels += [_SILENCE_DB] * 50
            continue
        if item in "~-":
            levels += [_SPEECH_DB if item == "~" else _SILENCE_DB] * 10
            continue
        start_s = len(levels) * STEP_S
        if item.startswith("?"):
            # The last word that was heard has a neighbor at once, on whichever side of the pause that is.
            run.append(AlignedWord(len(run), start_s - 0.03, start_s - 0.01, 0.0))
            words.append(make_word(item))
            continue
        levels += [_SPEECH_DB] * round(word_s / STEP_S)
        # A CTC model places the first and last letter a little inside the word.
        run.append(AlignedWord(len(run), start_s + 0.05, start_s + word_s - 0.05, 1.0))
        words.append(make_word(item))
    return run, words, Loudness(np.array(levels + [_SILENCE_DB] * 100, dtype=np.float32))


def cut(timeline: str, word_s: float = 0.5) -> list[Segment]:
    """Return the segments of a timeline; see `make_run`."""
    return cut_run(*make_run(timeline, word_s))


def spans(segments: list[Segment]) -> list[tuple[int, int, Uncut | None]]:
    """Return first and last word of each segment, and why it is no clip."""
    return [(segment.first, segment.last, segment.uncut) for segment in segments]


def test_sentences_are_cut_at_their_ends() -> None:
    sentence = "a b c d e f | g h i j k. | "
    assert spans(cut(sentence * 3)) == [(0, 11, None), (11, 22, None), (22, 33, None)]


def test_the_closure_of_a_consonant_is_no_pause() -> None:
    assert spans(cut("a b c d e f g h. | i j k l m n o p.")) == [(0, 8, None), (8, 16, None)]
    assert spans(cut("a b c d e f g h. - i j k l m n o p.")) == [(0, 16, None)]


@pytest.mark.parametrize("place", ["?x | i", "| ?x i"])
def test_a_word_that_was_not_heard_stays_with_its_sentence(place: str) -> None:
    # Wherever it is found.
    assert spans(cut(f"a b c d e f g h. {place} j k l m n o p.")) == [(0, 8, None), (8, 17, None)]
    assert spans(cut(f"a b c d e f g h {place.replace('x', 'x.')} j k l m n o p.")) == [(0, 9, None), (9, 17, None)]
    # A comma tells as well, if there is no other, and no full stop.
    line = f"a b c d e f g h i j k l, {place} m n o p q r s t u."
    assert spans(cut(line)) == [(0, 12, None), (12, len(line.split()) - 1, None)]


def test_there_is_no_cut_beside_a_word_of_which_nothing_tells_where_it_is() -> None:
    words = "a b c d e f g h i j k l"
    assert [uncut for *_, uncut in spans(cut(f"{words} | {words}."))] == [None, None]
    assert [uncut for *_, uncut in spans(cut(f"{words} | ?x {words}."))] == [Uncut.TOO_LONG]
    # A sentence that was not heard may be on either side.
    assert [uncut for *_, uncut in spans(cut(f"{words}. | ?x. {words}."))] == [Uncut.TOO_LONG]


def test_edges_lie_in_the_pauses() -> None:
    first, second = cut("a b c d e f g h. | i j k l m n o p.")
    assert first.start_s == pytest.approx(0.8)
    assert first.end_s == pytest.approx(1 + 8 * 0.5 + 0.25)
    assert second.start_s == pytest.approx(1 + 8 * 0.5 + 0.5 - 0.2)
    assert first.end_s <= second.start_s


def test_an_unknown_sound_in_a_pause_is_in_no_clip() -> None:
    # Without the sound, both sentences would be one clip.
    assert spans(cut("a b. | c d.")) == [(0, 4, None)]
    first, second = cut("a b. | ~ ~ | c d.")
    assert (first.last, second.first) == (2, 2)
    assert (first.end_s, second.start_s) == pytest.approx((2.25, 2.5 + 0.2 + 0.5 - 0.2))


def test_words_that_are_too_short_are_not_joined_across_an_unknown_sound() -> None:
    assert spans(cut("a. | b.", word_s=0.3)) == [(0, 2, None)]
    assert spans(cut("a. | ~ ~ | b.", word_s=0.3)) == [(0, 1, Uncut.TOO_SHORT), (1, 2, Uncut.TOO_SHORT)]


def test_a_short_sound_in_a_pause_may_be_the_end_of_a_word() -> None:
    assert spans(cut("a b. | ~ | c d.")) == [(0, 4, None)]
    # The longer part of the pause counts, so that the sound stays with the first word.
    first, second = cut("a b c d e f g h. | ~ | | i j k l m n o p.")
    assert (first.end_s, second.start_s) == pytest.approx((5.6 + 0.4, 6.6 - 0.2))


def test_the_last_word_of_a_run_may_last() -> None:
    segments = cut("a b c. ~ ~ ~ ~ ~ ~ ~ ~")
    assert spans(segments) == [(0, 3, None)]
    assert segments[0].end_s == pytest.approx(1 + 1.5 + 0.8 + 0.3, abs=0.2)
    # Inside a phrase, this is another word.
    assert spans(cut("a b c ~ ~ ~ ~ ~ ~ ~ ~")) == [(0, 3, Uncut.NO_PAUSE)]


def test_letters_beyond_a_pause_are_not_of_the_first_and_last_word() -> None:
    run, words, loudness = make_run("~ ~ ~ | a b c. | ~ ~ ~")
    # The first letter of the first word was found in the sound before it, and the last one of the last word after it.
    run[0] = AlignedWord(0, 1.1, run[0].end_s, 0.5)
    run[-1] = AlignedWord(2, run[-1].start_s, 4.0, 0.5)
    (segment,) = cut_run(run, words, loudness)
    assert segment.uncut is None
    assert (segment.start_s, segment.end_s) == pytest.approx((1.8 - 0.2, 1.8 + 1.5 + 0.25))


def test_a_cut_in_a_short_pause_is_in_its_middle() -> None:
    run, words, _ = make_run("a b c d e f g h. i j k l m n o p.")
    levels = np.full(1100, _SPEECH_DB, dtype=np.float32)
    levels[:100] = levels[900:] = _SILENCE_DB
    # The last 70 ms of one word and the first 70 ms of the next are silent.
    levels[493:507] = _SILENCE_DB
    run = [word if word.index != 7 else AlignedWord(7, word.start_s, 4.93, 1.0) for word in run]
    run = [word if word.index != 8 else AlignedWord(8, 5.07, word.end_s, 1.0) for word in run]
    first, second = cut_run(run, words, Loudness(levels))
    assert first.end_s == pytest.approx(5.0)
    assert second.start_s == pytest.approx(5.0)


def test_a_long_sentence_is_cut_at_a_comma_rather_than_elsewhere() -> None:
    words = "a b c d e f | g h i j, | k l m n | o p q r."
    assert spans(cut(words, word_s=0.8)) == [(0, 10, None), (10, 18, None)]


def test_clips_have_the_right_length() -> None:
    for segment in cut("a b c | d e. | " * 40, word_s=0.3):
        assert segment.uncut is None
        assert SHORTEST_CLIP_S <= segment.end_s - segment.start_s <= LONGEST_S


def test_speech_without_a_pause_within_11_seconds_is_set_aside() -> None:
    segments = cut("a b c d. | " + "x " * 30 + "| e f g h.")
    assert spans(segments) == [(0, 4, None), (4, 34, Uncut.TOO_LONG), (34, 38, None)]


def test_a_single_short_word_between_long_pauses_gets_their_silence() -> None:
    segments = cut("| | yes. | |", word_s=0.7)
    assert spans(segments) == [(0, 1, None)]
    assert segments[0].end_s - segments[0].start_s >= SHORTEST_CLIP_S


def test_a_word_that_is_too_short_is_set_aside() -> None:
    assert spans(cut("| | yes. | |", word_s=0.3)) == [(0, 1, Uncut.TOO_SHORT)]


def test_words_next_to_other_speech_are_set_aside() -> None:
    run, words, _ = make_run("a b c d. | e f g h.")
    levels = np.full(700, _SPEECH_DB, dtype=np.float32)
    levels[300:350] = _SILENCE_DB
    levels[550:] = _SILENCE_DB
    assert spans(cut_run(run, words, Loudness(levels))) == [(0, 4, Uncut.NO_PAUSE), (4, 8, None)]


def test_no_word_is_lost_or_repeated() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        items = rng.choice(["a", "a", "a", "b,", "c.", "|"], size=60).tolist()
        segments = cut(" ".join(items), word_s=float(rng.uniform(0.2, 1.2)))
        count = sum(item != "|" for item in items)
        assert [segment.first for segment in segments] == [0, *(segment.last for segment in segments[:-1])]
        assert segments[-1].last == count


def test_a_long_pause_is_as_quiet_as_its_own_noise() -> None:
    generator = np.random.default_rng(0)

    def noise(seconds: float, level_db: float) -> np.ndarray:
        return level_db + generator.uniform(-1.5, 1.5, round(seconds / STEP_S))

    word, quieter = noise(0.8, -28), noise(4, -70)
    silent = Loudness(np.concatenate([quieter, word, noise(9, -57), word, quieter]))
    assert silent.quiet_stretches(4.8, 13.8, 0.12) == [pytest.approx((4.8, 13.8), abs=0.02)]
    # Speech that the text lacks is still found.
    spoken = Loudness(np.concatenate([quieter, word, noise(4, -57), word, noise(4.2, -57), word, quieter]))
    assert spoken.quiet_stretches(4.8, 13.8, 0.12) == [
        pytest.approx((4.8, 8.8), abs=0.02),
        pytest.approx((9.6, 13.8), abs=0.02),
    ]
