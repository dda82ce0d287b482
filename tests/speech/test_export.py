"""A run becomes one set of weights, a folder that stock coqui-tts loads and that speaks; old rows are proven."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import HEAD, edited, nudged, put, weights_in
from runs import checkpoint, only_run
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

from xtts_extend.demo.mini_base import make_mini_base
from xtts_extend.errors import CheckFailed, CheckpointError, ConfigError, DataError, LanguageError
from xtts_extend.rescue.repair import repair
from xtts_extend.run.config import SAMPLING
from xtts_extend.speech.export import export
from xtts_extend.speech.speaking import speak_to_file
from xtts_extend.text.extend import extend_vocabulary


@pytest.fixture(scope="module")
def run(two_steps):
    return two_steps


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ሞዴል out") / "am model"
    export(run, folder, merged=True)
    return folder


def test_the_folder_is_complete(run, exported, corpus):
    assert {file.name for file in exported.iterdir()} == {
        "model.pth", "config.json", "vocab.json", "speakers_xtts.pth", "README.md", "xtts_extend.json",
    }  # fmt: skip
    config, base = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (exported, corpus.base)
    )
    assert config["languages"] == ["en", "es", "am"]
    assert {key: config[key] for key in SAMPLING} == {key: base[key] for key in SAMPLING}
    content = torch.load(exported / "model.pth", weights_only=True)
    assert list(content) == ["model"]
    trained = checkpoint(run, 2)["model"]
    assert set(content["model"]) == {key.removeprefix("xtts.") for key in trained}
    assert all(torch.equal(content["model"][key.removeprefix("xtts.")], tensor) for key, tensor in trained.items())
    assert (exported / "model.pth").stat().st_size < (run / "checkpoint_2.pth").stat().st_size


@pytest.mark.slow
def test_stock_loads_it_strictly_and_speaks_the_old_languages_as_it_is(exported, corpus, tmp_path):
    """In a process that never imports xtts_extend."""
    code = """
import sys, torch
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts
config = XttsConfig()
config.load_json(sys.argv[1] + "/config.json")
model = Xtts(config)
model.load_checkpoint(config, checkpoint_dir=sys.argv[1], strict=True, eval=True)
ids = model.tokenizer.encode("hello there", "en")
out = model.inference("hello there", "en", torch.zeros(1, 32, 64), torch.zeros(1, 512, 1), temperature=0.75)
assert out["wav"].size > 1000 and "xtts_extend" not in sys.modules
print(ids, "am" in config.languages)
"""
    done = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True, check=True)
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    assert done.stdout.strip() == f"{VoiceBpeTokenizer(corpus.base / 'vocab.json').encode('hello there', 'en')} True"


def test_the_readme_loads_it(exported, monkeypatch):
    text = (exported / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(exported)
    names: dict = {}
    exec(code, names)
    assert "[am]" in names["model"].tokenizer.tokenizer.get_vocab()
    ids = names["model"].tokenizer.encode("ሰላም ለዓለም", "am")
    assert 1 not in ids


def test_old_rows_are_proven(run, corpus, tmp_path):
    assert export(run, tmp_path / "again", corpus.base, merged=True)["base_rows_checked"] is True


def test_old_rows_that_are_not_the_bases(run, tmp_path):
    broken = edited(run / "checkpoint_2.pth", tmp_path / "run", nudged(HEAD, 3, 0))
    with pytest.raises(CheckFailed, match=r"rows of text_head\.weight are not the base's"):
        export(broken, tmp_path / "broken", merged=True)
    assert not (tmp_path / "broken").exists()


def test_old_rows_of_another_base(run, corpus, tmp_path):
    other = edited(
        corpus.base / "model.pth", tmp_path / "other base", put(0, "model", "gpt.text_embedding.weight", ...)
    )
    with pytest.raises(CheckFailed, match="are not the first of the 400 that the run froze"):
        export(run, tmp_path / "broken", other.parent, merged=True)


@pytest.mark.parametrize(
    ("half", "is_base_given"), [(torch.float16, True), (torch.bfloat16, False)], ids=["base given", "base recorded"]
)
def test_rows_in_half_precision_are_not_the_base_s(run, corpus, tmp_path, half, is_base_given):
    """The cause is named, and what its way out leads to is exported."""
    file = edited(run / "checkpoint_2.pth", tmp_path / "run", weights_in(half))
    base = corpus.base if is_base_given else None
    with pytest.raises(CheckFailed, match=rf"in half precision \({half}\): they are the base's, rounded.* repair"):
        export(file, tmp_path / "out", base, merged=True)
    repair(file, corpus.base, tmp_path / "repaired")
    assert export(tmp_path / "repaired", tmp_path / "out", base, merged=True)["base_rows_checked"] is True


def test_a_base_is_not_exported(corpus, tmp_path):
    with pytest.raises(CheckpointError, match="only a run's checkpoint"):
        export(corpus.base, tmp_path / "a", merged=True)


def test_nothing_is_exported_over_what_is_there(run, exported):
    with pytest.raises(ConfigError, match="exists already"):
        export(run, exported, merged=True)


def test_a_base_without_a_model(run, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no model\.pth"):
        export(run, tmp_path / "a", tmp_path, merged=True)


def test_no_run_to_export(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist|neither a run"):
        export(tmp_path / "none", tmp_path / "a", merged=True)


def test_long_text_is_written_sentence_by_sentence(exported, corpus, tmp_path, monkeypatch):
    """The network's part is replaced: a second of audio for each sentence."""
    asked = []

    def inference(self, text, language, latents, embedding, **settings):
        asked.append((text, language, tuple(latents.shape), tuple(embedding.shape), settings["temperature"]))
        return {"wav": np.full(24000, 0.25, dtype=np.float32)}

    monkeypatch.setattr(Xtts, "inference", inference)
    output = tmp_path / "ድምፅ" / "out.wav"
    said = []
    result = speak_to_file(
        exported, "am", [corpus.voice], "ሰላም ለዓለም። ደህና ናችሁ።" * 20, output, on_sentence=lambda *part: said.append(part)
    )
    assert len(asked) == len(said) == result["sentences"] == 40
    assert asked[0] == (said[0][0], "am", (1, 32, 64), (1, 512, 1), 0.75)
    audio, rate = soundfile.read(output)
    assert (rate, len(audio), result["audio_s"]) == (24000, 40 * 24000, 40.0)
    assert abs(audio - 0.25).max() < 1e-4
    assert [file.name for file in output.parent.iterdir()] == ["out.wav"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        pytest.param({"language": "ka", "text": "გამარჯობა"}, LanguageError, r"no tag \[ka\]", id="language"),
        pytest.param({"text": "  "}, DataError, "text is empty", id="text"),
        pytest.param({"references": [Path("none.wav")]}, DataError, r"none\.wav", id="voice"),
        pytest.param({"folder": Path(__file__).parent}, ConfigError, "not a model folder", id="model"),
    ],
)
def test_what_cannot_be_spoken(exported, corpus, tmp_path, given, error, message):
    sound = {"folder": exported, "language": "am", "references": [corpus.voice], "text": "ሰላም"}
    with pytest.raises(error, match=message):
        speak_to_file(**{**sound, **given}, output=tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


def test_synthesize_accepts_the_new_language_after_enable(exported, corpus, monkeypatch):
    """`Xtts.synthesize` of stock, with a voice that is loaded without FFmpeg."""
    import TTS.tts.models.xtts as stock

    import xtts_extend
    from xtts_extend.data.audio import load_audio

    xtts_extend.enable()
    monkeypatch.setattr(stock, "load_audio", load_audio)
    config = XttsConfig()
    config.load_json(exported / "config.json")
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=exported, strict=True)
    voice = str(corpus.voice)
    assert model.synthesize("ሰላም", speaker_wav=voice, language="am")["wav"].size > 1000


@pytest.mark.parametrize(
    ("output", "message"), [("voice.wav", "is the recording of the voice"), ("manifest.csv", "ends in .wav")]
)
def test_speak_writes_over_nothing_that_it_was_given(exported, corpus, tmp_path, output, message):
    voice = tmp_path / "voice.wav"
    shutil.copyfile(corpus.voice, voice)
    with pytest.raises(ConfigError, match=message):
        speak_to_file(exported, "am", [voice], "ሰላም", tmp_path / output)
    assert voice.read_bytes() == corpus.voice.read_bytes()


def test_silence_is_no_voice(exported, tmp_path):
    voice = tmp_path / "voice.wav"
    soundfile.write(voice, np.zeros(22050), 22050)
    with pytest.raises(DataError, match="silent"):
        speak_to_file(exported, "am", [voice], "ሰላም", tmp_path / "out.wav")


@pytest.mark.slow
def test_one_language_after_the_other_is_exported_with_the_first_base(run, corpus, recipe, tmp_path):
    """The second run froze the base's rows and the first run's new ones; the base holds only the former."""
    vocab = tmp_path / "vocab.json"
    text = tmp_path / "ka.txt"
    text.write_text("გამარჯობა მსოფლიო", encoding="utf-8")
    extend_vocabulary(run / "vocab.json", "ka", vocab, texts=[text], size=30)
    flags = {"checkpoint": run, "start_fresh": True, "vocab": vocab, "max_steps": 2, "output_dir": tmp_path / "runs"}
    recipe(corpus.flags(**flags))
    report = export(only_run(tmp_path / "runs"), tmp_path / "model", corpus.base, merged=True)
    assert (report["base_rows"], report["base_rows_checked"]) == (550, True)
    other = make_mini_base(tmp_path / "other", layers=2, channels=64, heads=2, seed=1)
    with pytest.raises(CheckFailed, match="400 token rows of .* are not the first of the 550"):
        export(only_run(tmp_path / "runs"), tmp_path / "model2", other, merged=True)
