"""`speak` with an untrained base: which recordings and texts it accepts."""

import json

import numpy as np
import pytest
import soundfile
from TTS.tts.models.xtts import Xtts

from xtts_extend import enable
from xtts_extend.cli import main
from xtts_extend.data.audio import load_audio
from xtts_extend.errors import DataError
from xtts_extend.model.voice import require_speech
from xtts_extend.speech.speaking import load_voice, speak_to_file


@pytest.fixture(scope="module", autouse=True)
def enabled():
    """Patches coqui first. The end of a test that replaces a method would otherwise remove the patch of it, too."""
    enable()


@pytest.fixture
def voice(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 22050)
    soundfile.write(tmp_path / "voice.wav", noise, 22050)
    return tmp_path / "voice.wav"


@pytest.fixture
def spoken_texts(monkeypatch):
    """The texts that are passed to the network, which is replaced by a function that returns 0.1 s of silence."""
    texts = []

    def inference(self, text, language, latents, embedding, **settings):
        texts.append(text)
        return {"wav": np.zeros(2400, dtype=np.float32)}

    monkeypatch.setattr(Xtts, "inference", inference)
    return texts


def command(mini_base, voice, *more):
    return [
        "speak",
        "--model",
        str(mini_base),
        "--reference",
        str(voice),
        "--output",
        str(voice.parent / "o.wav"),
        *more,
    ]


def test_the_error_names_a_package_that_a_cleaner_is_missing(mini_base, voice, monkeypatch, capsys):
    def fails(*_):
        raise ModuleNotFoundError("No module named 'cutlet'")

    monkeypatch.setattr("TTS.tts.layers.xtts.tokenizer.VoiceBpeTokenizer.preprocess_text", fails)
    with pytest.raises(SystemExit) as caught:
        main(command(mini_base, voice, "--language", "en", "--text", "hello"))
    assert caught.value.code == 2
    expected = "Text in 'en' cannot be cleaned: No module named 'cutlet'. Install the missing package."
    assert expected in capsys.readouterr().err


def test_each_unusable_reference_is_named(mini_base, voice, tmp_path):
    samples = soundfile.read(voice)[0]
    for name, content in (("tiny", samples[:200]), ("silent", samples * 0), ("constant", samples * 0 + 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", content, 22050)
    (tmp_path / "text.wav").write_text("no sound")
    names = ["tiny.wav", "silent.wav", "constant.wav", "text.wav", "missing.wav"]
    with pytest.raises(DataError) as caught:
        speak_to_file(mini_base, "en", [voice, *(tmp_path / name for name in names)], "hello", tmp_path / "o.wav")
    lines = str(caught.value).splitlines()
    assert [str(tmp_path / name) in line for name, line in zip(names, lines, strict=True)] == [True] * 5
    assert "is 0.01 s long. A reference voice requires at least 0.33 s" in lines[0]
    assert "silent" in lines[1]
    assert "silent" in lines[2]
    assert not (tmp_path / "o.wav").exists()


def test_a_reference_without_speech(mini_base, voice, tmp_path, caplog):
    samples = soundfile.read(voice)[0]
    room = np.random.default_rng(0).normal(0, 0.001, 10 * 22050)
    click, word, little = room.copy(), room.copy(), room.copy()
    click[50000] = 0.7
    word[50000:54410] += samples[5000:9410]
    little[50000 : 50000 + 22050] += samples[:22050]
    for name, content in (("click", click), ("word", word), ("little", little)):
        soundfile.write(tmp_path / f"{name}.wav", content, 22050)
    with pytest.raises(DataError) as caught:
        load_voice(None, [tmp_path / "click.wav", voice, tmp_path / "word.wav"])
    lines = str(caught.value).splitlines()
    assert ["click.wav" in lines[0], "word.wav" in lines[1], len(lines)] == [True, True, 2]
    assert "contains hardly any speech: 0% of the recording is within 26 dB of its loudest moment" in lines[0]
    caplog.clear()
    require_speech(load_audio(tmp_path / "little.wav", 22050), "little.wav")
    require_speech(load_audio(voice, 22050), "voice.wav")
    assert ["little.wav is mostly silence" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("text", ['"', "😀", "\u200b", "日本語テキスト"])
def test_texts_without_anything_to_speak(text, mini_base, voice, spoken_texts, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command(mini_base, voice, "--language", "en", "--text", text))
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "There is nothing to say" in message
    assert all(repr(character)[1:-1] in message for character in text)
    assert spoken_texts == []
    assert not (voice.parent / "o.wav").exists()


def test_characters_missing_from_the_vocabulary_are_a_warning(mini_base, voice, spoken_texts, capsys, caplog):
    assert main(command(mini_base, voice, "--language", "en", "--text", "Hello, 😀. ... Good day.", "--json")) == 0
    assert "that are not in the vocabulary were omitted or replaced: '😀' (U+1F600)" in caplog.text
    result = json.loads(capsys.readouterr().out)
    assert (result["sentences"], result["unknown_characters"]) == (2, ["😀"])
    assert [text.split() for text in spoken_texts] == [["Hello,", "...."], ["Good", "day."]]


def test_long_numbers_and_many_numbers(mini_base, voice, spoken_texts, caplog):
    years = " ".join(map(str, range(1950, 2000)))
    assert main(command(mini_base, voice, "--language", "en", "--text", years)) == 0
    assert " ".join(spoken_texts) == years
    assert len(spoken_texts) > 1
    assert main(command(mini_base, voice, "--language", "es", "--text", f"{'1' * 111} {'2' * 90}")) == 0
    assert caplog.text.count("cleaner for 'es' fails on some numbers") == 1


def test_a_voice_from_several_recordings(mini_base, voice):
    from xtts_extend.speech.speaking import load_model

    model = load_model(mini_base)
    from_one, from_two = load_voice(model, [voice]), load_voice(model, [voice, voice])
    assert from_one.latents.shape == from_two.latents.shape == (1, 32, 64)
