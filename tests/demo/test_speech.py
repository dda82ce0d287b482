"""espeak-ng speech: its properties, that it is reproducible, and its errors."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_extend.demo import speech
from xtts_extend.demo.speech import SAMPLE_RATE, SPEAKERS, espeak_languages, make_corpus, speak_to_array
from xtts_extend.demo.texts import sentences
from xtts_extend.errors import ConfigError, DataError, LanguageError, MachineError

try:
    import espeakng_loader
except ImportError:
    espeakng_loader = None
needs_espeak = pytest.mark.skipif(
    espeakng_loader is None, reason="espeakng-loader is missing: pip install 'xtts_extend[demo]'"
)

ENGLISH = "The old farmer found a silver key near the river."
AMHARIC = "ዛሬ ጠዋት ገበሬው በገበያ ሁለት በጎች ሸጠ።"


def silent_share(audio: np.ndarray) -> float:
    """Return the share of 10 ms frames whose loudest sample is below -50 dB."""
    frame = SAMPLE_RATE // 100
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    return float((np.abs(frames).max(axis=1) < 10 ** (-50 / 20)).mean())


@needs_espeak
def test_speech_has_rate_length_and_level():
    audio = speak_to_array(ENGLISH, "en")
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    # The text has ten words, spoken at 165 words per minute.
    assert 2.0 < len(audio) / SAMPLE_RATE < 4.5
    assert 0.2 < np.abs(audio).max() <= 1.0
    assert silent_share(audio) < 0.25


@needs_espeak
@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("am", AMHARIC),
        ("ti", "ሎሚ ንግሆ ናብ ዕዳጋ ከይደ"),
        ("sw", "Leo asubuhi nilikwenda sokoni."),
        ("ka", "დღეს დილით ბაზარში წავედი."),
        ("vi", "Sáng nay tôi đi chợ."),
        ("el", "Σήμερα το πρωί πήγα στην αγορά."),
    ],
)
def test_other_languages_and_scripts(language, text):
    audio = speak_to_array(text, language)
    assert 0.8 < len(audio) / SAMPLE_RATE < 6
    assert silent_share(audio) < 0.3
    # A voice that does not support the script would read the names of its letters, which takes much longer.
    assert len(audio) < 2.5 * len(speak_to_array("I went to the market this morning, said Anna.", "en"))


@needs_espeak
def test_output_does_not_depend_on_earlier_utterances():
    first = speak_to_array(ENGLISH, "en", voice_variant="f2")
    speak_to_array(AMHARIC, "am", voice_variant="f5", speed_wpm=200, pitch=70)
    assert np.array_equal(speak_to_array(ENGLISH, "en", voice_variant="f2"), first)


@needs_espeak
def test_variant_pitch_and_speed_change_the_speech():
    plain = speak_to_array(ENGLISH, "en", voice_variant="m3")
    for changed in (
        speak_to_array(ENGLISH, "en", voice_variant="f4"),
        speak_to_array(ENGLISH, "en", voice_variant="m3", pitch=90),
    ):
        assert not np.array_equal(changed, plain)
    fast = speak_to_array(ENGLISH, "en", voice_variant="m3", speed_wpm=330)
    assert 0.4 < len(fast) / len(plain) < 0.65


@needs_espeak
def test_error_for_an_unknown_language_lists_similar_ones():
    with pytest.raises(LanguageError, match=r"no voice for the language 'amh'.*am \(Amharic\)"):
        speak_to_array(ENGLISH, "amh")
    with pytest.raises(LanguageError, match=r"'yo'"):
        speak_to_array(ENGLISH, "yo")
    assert "yo" not in espeak_languages()
    assert espeak_languages()["am"] == "Amharic"


@needs_espeak
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"text": ""}, DataError),
        ({"text": " … ። "}, DataError),
        ({"voice_variant": "nobody"}, ConfigError),
        ({"voice_variant": ""}, ConfigError),
        ({"speed_wpm": 0}, ConfigError),
        ({"speed_wpm": 100_000}, ConfigError),
        ({"pitch": -1}, ConfigError),
    ],
)
def test_invalid_arguments(arguments, error):
    with pytest.raises(error):
        speak_to_array(**{"text": ENGLISH, "language": "en"} | arguments)


def test_error_for_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MachineError, match=r"pip install 'xtts_extend\[demo\]'"):
        speak_to_array(ENGLISH, "en")


@needs_espeak
def test_data_in_a_long_path_with_non_latin_letters(monkeypatch, tmp_path):
    """The library truncates the path to 160 bytes."""
    folder = tmp_path / ("የንግግር መረጃ " * 6) / "espeak-ng-data"
    shutil.copytree(espeakng_loader.get_data_path(), folder)
    expected = speak_to_array(AMHARIC, "am")
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(folder))
    assert np.array_equal(speak_to_array(AMHARIC, "am"), expected)


@needs_espeak
def test_broken_data_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "voices" / "!v").mkdir(parents=True)
    (tmp_path / "voices" / "!v" / "m3").touch()
    monkeypatch.setattr(speech, "_data_folder", lambda: Path(tmp_path))
    with pytest.raises(MachineError, match="Expected espeak-ng to start with a sample rate of 22050 Hz"):
        speak_to_array(ENGLISH, "en")


@needs_espeak
def test_corpus_has_recordings_and_a_manifest(tmp_path):
    texts = [*sentences("am", 4), "ሰላም | ለዓለም\nሁሉ"]
    manifest = make_corpus(texts, "am", tmp_path / "ድምፅ ፋይሎች", progress=False)
    header, *lines = manifest.read_text(encoding="utf-8").splitlines()
    assert header == "audio_file|text|speaker_name"
    rows = [line.split("|") for line in lines]
    assert [text for _, text, _ in rows] == [*texts[:4], "ሰላም ለዓለም ሁሉ"]
    assert [speaker for _, _, speaker in rows] == [speaker.name for speaker in (*SPEAKERS, SPEAKERS[0])]
    for name, _, _ in rows:
        info = soundfile.info(manifest.parent / name)
        assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        assert 0.5 < info.duration < 8


@needs_espeak
def test_failed_corpora_have_no_manifest(tmp_path):
    with pytest.raises(DataError):
        make_corpus([], "am", tmp_path / "empty", progress=False)
    with pytest.raises(LanguageError):
        make_corpus(["kuku"], "zzz", tmp_path / "unknown", progress=False)
    assert list(tmp_path.rglob("metadata.csv")) == []


def test_sentences_are_different_and_depend_on_the_seed():
    for language in ("en", "es", "am"):
        drawn = sentences(language, 600, seed=1)
        assert len(set(drawn)) == 600
        assert drawn == sentences(language, 600, seed=1)
        assert drawn != sentences(language, 600, seed=2)
        assert all(2 <= len(sentence.split()) <= 22 for sentence in drawn)
    with pytest.raises(LanguageError, match="en, es, am"):
        sentences("fr", 1)
    with pytest.raises(DataError, match="Request at most"):
        sentences("en", 10**6)
