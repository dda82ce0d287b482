"""The benchmark's recordings and its judge: a judge that is wrong would hide a wrong alignment."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import soundfile

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import truth_recordings
from truth_judge import is_cut, judge, judge_clip, letters
from truth_recordings import (
    Fate,
    TextPart,
    TextTruth,
    Utterance,
    as_spoken,
    damaged,
    is_usable,
    make_recording,
    measure_pauses,
    read_text_truth,
    read_utterances,
    write_subtitles,
    write_text_truth,
    write_transcript,
    write_utterances,
)
from whisper_words import match_words

RATE = 16000
#: "Good day, world." has a pause after the comma.
UTTERANCES = [
    Utterance(1.0, 2.0, "Hello there."),
    Utterance(3.0, 5.0, "Good day, my world.", ((4.0, 4.2),)),
    Utterance(6.0, 7.0, "Bye."),
]


def tone(*parts_s: float) -> np.ndarray:
    """Return tone and silence in turn, each as long as its number says, beginning with tone."""
    parts = [
        0.3 * np.sin(2 * np.pi * 440 * np.arange(round(part * RATE)) / RATE) * (number % 2 == 0)
        for number, part in enumerate(parts_s)
    ]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize(
    ("start_s", "end_s", "text", "is_exact", "cut_edges"),
    [
        pytest.param(0.8, 2.3, "hello, THERE", True, 0, id="exact"),
        pytest.param(0.8, 5.3, "Hello there. Good day, my world.", True, 0, id="two"),
        pytest.param(0.8, 5.3, "Hello there. Good day, world.", False, 0, id="word-missing"),
        pytest.param(0.8, 5.3, "Hello there.", False, 0, id="utterance-missing"),
        pytest.param(0.8, 2.3, "Hello there. Bye.", False, 0, id="utterance-added"),
        pytest.param(2.5, 4.1, "Good day,", True, 0, id="cut-in-pause"),
        pytest.param(4.1, 7.2, "my world. Bye.", True, 0, id="suffix"),
        pytest.param(2.5, 4.1, "Good day, my world.", False, 0, id="more-than-the-part"),
        pytest.param(2.5, 4.1, "Good", False, 0, id="less-than-the-part"),
        pytest.param(4.1, 7.2, "Good day, Bye.", False, 0, id="wrong-half"),
        pytest.param(2.5, 4.5, "Good day, my", True, 1, id="cut-in-speech"),
        pytest.param(2.2, 2.8, "Hello", False, 0, id="silence"),
    ],
)
def test_judge_clip(start_s: float, end_s: float, text: str, is_exact: bool, cut_edges: int) -> None:
    judged = judge_clip(start_s, end_s, text, UTTERANCES)
    assert (judged.is_exact, judged.cut_edges) == (is_exact, cut_edges)


@pytest.mark.parametrize(
    ("edge_s", "expected"), [(0.5, False), (1.02, False), (1.04, True), (3.98, False), (3.96, True), (4.24, True)]
)
def test_is_cut(edge_s: float, expected: bool) -> None:
    assert is_cut(edge_s, UTTERANCES) is expected


def test_letters_ignore_case_punctuation_and_composition() -> None:
    assert letters("Čau, světe! 3x") == letters("c\u030cau svE\u030cte x") == "čausvětex"


def test_judge_counts_what_is_kept_and_set_aside() -> None:
    parts = (
        TextPart("Hello there.", 0, Fate.AS_SPOKEN),
        TextPart("Never spoken words.", None, Fate.REPLACED),
        TextPart("Good day, my world.", 1, Fate.AS_SPOKEN),
    )
    text = TextTruth(parts, (Fate.AS_SPOKEN, Fate.AS_SPOKEN, Fate.MISSING))
    clips = [
        {"start": 0.8, "end": 2.3, "text": "Hello there.", "rejected": None},
        {"start": 2.8, "end": 4.5, "text": "Good day, my world.", "rejected": None},
        {"start": 0.9, "end": 2.1, "text": "Hello there.", "rejected": "noisy"},
    ]
    set_aside = [
        {"start": None, "end": None, "text": "spoken words. Good", "reason": "text_without_speech"},
        {"start": 4.8, "end": 7.0, "text": "", "reason": "speech_without_text"},
    ]
    verdict = judge(clips, set_aside, UTTERANCES, text)
    assert (verdict.accepted, verdict.exact, verdict.words, verdict.split_words) == (2, 1, 6, 1)
    assert (verdict.good_s, verdict.kept_s) == pytest.approx((3.0, 1.0))
    assert verdict.wrongly == pytest.approx({"noisy": 1.2, "text_without_speech": 1, "speech_without_text": 0.2})
    assert verdict.rightly == pytest.approx({"text_without_speech": 2, "speech_without_text": 2.0})
    assert verdict.lost == {"noisy": 1}
    assert [clip.expected for clip in verdict.wrong] == ["Good day, my world.|"]


def test_measure_pauses_ignores_silence_around_and_closures() -> None:
    samples = np.concatenate([np.zeros(RATE // 5, np.float32), tone(0.5, 0.05, 0.4, 0.2, 0.3, 0.4)])
    measured = measure_pauses(samples, RATE)
    assert measured is not None
    assert measured[0] == pytest.approx((0.2, 1.65), abs=0.021)
    assert measured[1] == (pytest.approx((1.15, 1.35), abs=0.021),)
    assert measure_pauses(np.zeros(RATE, np.float32), RATE) is None


def test_measure_pauses_finds_pauses_in_noise() -> None:
    samples = np.concatenate([np.zeros(RATE // 5, np.float32), tone(0.5, 0.2, 0.4, 0.3)])
    samples += 0.03 * np.random.default_rng(0).standard_normal(len(samples), dtype=np.float32)
    measured = measure_pauses(samples, RATE)
    assert measured is not None
    assert measured[0] == pytest.approx((0.2, 1.3), abs=0.021)
    assert measured[1] == (pytest.approx((0.7, 0.9), abs=0.021),)
    # There is no pause in speech that is equally loud throughout.
    assert measure_pauses(tone(0.5), RATE) == (pytest.approx((0.0, 0.5), abs=0.021), ())


def test_recording_has_the_utterances_where_the_truth_says(tmp_path: Path) -> None:
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", tone(0.3 + 0.1 * number, 0.1), RATE)
    soundfile.write(tmp_path / "music.wav", tone(3.0), RATE)
    clips = [(tmp_path / f"{number}.wav", f"Text {number}.") for number in range(3)]
    generator = np.random.default_rng(0)
    made = make_recording(clips, [tmp_path / "music.wav"], tmp_path / "long.flac", 22050, math.inf, generator)
    samples, rate = soundfile.read(tmp_path / "long.flac", dtype="float32")
    assert {one.text for one in made} == {"Text 0.", "Text 1.", "Text 2."}
    for one in made:
        assert one.end_s - one.start_s == pytest.approx(0.3 + 0.1 * int(one.text[5]), abs=0.031)
        assert np.abs(samples[round((one.start_s + 0.02) * rate) : round((one.end_s - 0.02) * rate)]).max() > 0.25
    for one, following in itertools.pairwise(made):
        assert following.start_s - one.end_s > 0.35
        assert np.abs(samples[round((one.end_s + 0.05) * rate) : round((one.end_s + 0.3) * rate)]).max() < 0.1
    write_utterances(made, tmp_path / "truth.jsonl")
    assert read_utterances(tmp_path / "truth.jsonl") == made


@pytest.mark.parametrize("loudness", [1.0, 0.1])
def test_noise_is_below_the_speech_by_as_much_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loudness: float
) -> None:
    monkeypatch.setattr(truth_recordings, "_NOISE_DB", (20.0,))
    soundfile.write(tmp_path / "clip.wav", loudness * tone(2.0, 0.1), RATE)
    clips = [(tmp_path / "clip.wav", "Text.")]
    (one,) = make_recording(clips, [], tmp_path / "long.flac", RATE, math.inf, np.random.default_rng(0))
    samples, _ = soundfile.read(tmp_path / "long.flac", dtype="float32")
    speech = samples[round(one.start_s * RATE) : round(one.end_s * RATE)]
    pause = samples[round((one.end_s + 0.05) * RATE) :]
    assert 10 * np.log10(np.square(speech).mean() / np.square(pause).mean()) == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize("music", [(), ("music.wav",)])
def test_minutes_without_speech_make_up_for_too_few_clips(tmp_path: Path, music: Sequence[str]) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(0.5, 0.1), RATE)
    soundfile.write(tmp_path / "music.wav", tone(70.0), RATE)
    clips = [(tmp_path / "clip.wav", "Text.")] * 40
    files = [tmp_path / name for name in music]
    made = make_recording(clips, files, tmp_path / "long.flac", RATE, 5, np.random.default_rng(0))
    assert len(made) == 40
    assert soundfile.info(tmp_path / "long.flac").duration == pytest.approx(300, abs=35)
    gaps = [following.start_s - one.end_s for one, following in itertools.pairwise(made)]
    # Pauses stay as short as they were: the time is in a few long stretches, from beginning to end.
    assert sum(gap > 6 for gap in gaps) < 10
    assert max(gaps) < 68
    assert made[20].start_s == pytest.approx(150, abs=35)


def test_damaged_text_has_the_shares_and_names_what_is_not_spoken(tmp_path: Path) -> None:
    utterances = [Utterance(number, number + 0.5, f"Word{number}.") for number in range(200)]
    spare = [f"Spare{number}." for number in range(40)]
    truth = damaged(utterances, spare, np.random.default_rng(3))
    counts = {fate: truth.fates.count(fate) for fate in Fate}
    assert counts == {Fate.AS_SPOKEN: 160, Fate.MISSING: 20, Fate.REPLACED: 10, Fate.SWAPPED: 10}
    assert sum(part.utterance is None for part in truth.parts) == 20
    kept = [part.utterance for part in truth.parts if part.fate is Fate.AS_SPOKEN]
    assert kept == [index for index, fate in enumerate(truth.fates) if fate is Fate.AS_SPOKEN]
    assert all(part.text.startswith("Spare") == (part.fate is Fate.REPLACED) for part in truth.parts)
    swapped = [part.utterance for part in truth.parts if part.fate is Fate.SWAPPED]
    assert all(second == first - 1 for first, second in zip(swapped[::2], swapped[1::2], strict=True))
    write_text_truth(truth, tmp_path / "truth.json")
    assert read_text_truth(tmp_path / "truth.json") == truth
    write_transcript(truth, tmp_path / "text.txt", np.random.default_rng(0))
    words = (tmp_path / "text.txt").read_text(encoding="utf-8").split()
    assert words == [part.text for part in truth.parts]


def test_subtitles_are_late_and_have_every_word_in_order(tmp_path: Path) -> None:
    long = "These are many words in one utterance, so that its cue is split in two."
    utterances = [
        Utterance(4 * number, 4 * number + 3.4, long if number % 5 == 0 else "Short.") for number in range(40)
    ]
    write_subtitles(utterances, tmp_path / "cues.srt", np.random.default_rng(0))
    cues = pysubs2.load(str(tmp_path / "cues.srt"))
    assert " ".join(cue.plaintext for cue in cues).split() == [word for one in utterances for word in one.text.split()]
    assert len(cues) > 40
    assert all(first.end <= second.start for first, second in itertools.pairwise(cues))
    assert 0.5 <= cues[0].start / 1000 - utterances[0].start_s <= 3.5


def test_texts_with_numbers_are_not_used() -> None:
    assert [is_usable(text) for text in ("Ahoj!", "Za 5 minut.", "...", "[smích] Ne.")] == [True, False, False, False]


def test_as_spoken_has_every_utterance() -> None:
    assert [part.text for part in as_spoken(UTTERANCES).parts] == [one.text for one in UTTERANCES]


def test_words_of_a_recognizer_give_times_to_the_words_of_the_text() -> None:
    heard = [("ahoj", 1.0, 1.8, 0.9), ("svete", 2.0, 3.0, 0.5)]
    times = match_words(["Ahoj,", "ty", "můj", "světe!"], heard, 5.0)
    assert times[0] == pytest.approx((1.0, 1.8, 0.9))
    assert times[3] == pytest.approx((2.0, 3.0, 0.4))
    assert [score for *_, score in times[1:3]] == [0, 0]
    assert 1.8 <= times[1][0] <= times[1][1] <= times[2][0] <= times[2][1] <= 2.0
    assert match_words(["nic"], [], 2.0) == [(0.0, 1.0, 0.0)]
