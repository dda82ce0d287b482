"""Merged exports: stock coqui-tts loads them, they speak, and old rows are verified."""

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
from xtts_extend.model.blank import BlankWeights
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
def test_stock_loads_a_merged_export_strictly_and_speaks_old_languages(exported, corpus, tmp_path):
    """This runs in a process that never imports xtts_extend."""
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
    process = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True, check=True)
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    assert process.stdout.strip() == f"{VoiceBpeTokenizer(corpus.base / 'vocab.json').encode('hello there', 'en')} True"


def test_the_readmes_code_loads_the_model(exported, monkeypatch):
    text = (exported / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(exported)
    names: dict = {}
    exec(code, names)
    assert "[am]" in names["model"].tokenizer.tokenizer.get_vocab()
    ids = names["model"].tokenizer.encode("ሰላም ለዓለም", "am")
    assert 1 not in ids


def test_old_rows_are_verified(run, corpus, tmp_path):
    assert export(run, tmp_path / "again", corpus.base, merged=True)["base_rows_checked"] is True


def test_old_rows_that_are_not_the_bases(run, tmp_path):
    broken = edited(run / "checkpoint_2.pth", tmp_path / "run", nudged(HEAD, 3, 0))
    with pytest.raises(CheckFailed, match=r"rows of text_head\.weight no longer match the base's"):
        export(broken, tmp_path / "broken", merged=True)
    assert not (tmp_path / "broken").exists()


def test_old_rows_of_another_base(run, corpus, tmp_path):
    other = edited(
        corpus.base / "model.pth", tmp_path / "other base", put(0, "model", "gpt.text_embedding.weight", ...)
    )
    with pytest.raises(CheckFailed, match="do not match the corresponding rows among the 400 that the run froze"):
        export(run, tmp_path / "broken", other.parent, merged=True)


@pytest.mark.parametrize(
    ("half", "is_base_given"), [(torch.float16, True), (torch.bfloat16, False)], ids=["base given", "base recorded"]
)
def test_rows_in_half_precision_are_not_the_base_s(run, corpus, tmp_path, half, is_base_given):
    """The message names the cause, and following its advice gives a checkpoint that can be exported."""
    file = edited(run / "checkpoint_2.pth", tmp_path / "run", weights_in(half))
    base = corpus.base if is_base_given else None
    with pytest.raises(CheckFailed, match=rf"are the base's rows, rounded to half precision \({half}\).* repair"):
        export(file, tmp_path / "out", base, merged=True)
    repair(file, corpus.base, tmp_path / "repaired")
    assert export(tmp_path / "repaired", tmp_path / "out", base, merged=True)["base_rows_checked"] is True


def test_a_base_is_not_exported(corpus, tmp_path):
    with pytest.raises(CheckpointError, match="is a base model; expected a training checkpoint"):
        export(corpus.base, tmp_path / "a", merged=True)


def test_existing_folders_are_not_overwritten(run, exported):
    with pytest.raises(ConfigError, match="already exists"):
        export(run, exported, merged=True)


def test_a_base_without_a_model(run, tmp_path):
    with pytest.raises(ConfigError, match=r"has no model\.pth"):
        export(run, tmp_path / "a", tmp_path, merged=True)


def test_a_run_that_does_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist|neither a run"):
        export(tmp_path / "none", tmp_path / "a", merged=True)


def test_long_text_is_written_sentence_by_sentence(exported, corpus, tmp_path, monkeypatch):
    """The network is replaced by a function that returns a second of audio for each sentence."""
    calls = []

    def inference(self, text, language, latents, embedding, **settings):
        calls.append((text, language, tuple(latents.shape), tuple(embedding.shape), settings["temperature"]))
        return {"wav": np.full(24000, 0.25, dtype=np.float32)}

    monkeypatch.setattr(Xtts, "inference", inference)
    output = tmp_path / "ድምፅ" / "out.wav"
    text = "ሰላም ለዓለም። ደህና ናችሁ።" * 20
    spoken = []
    result = speak_to_file(
        exported, "am", [corpus.voice], text, output, on_sentence=lambda *sentence: spoken.append(sentence)
    )
    assert len(calls) == len(spoken) == result["sentences"] == 40
    assert calls[0] == (spoken[0][0], "am", (1, 32, 64), (1, 512, 1), 0.75)
    audio, rate = soundfile.read(output)
    assert (rate, len(audio), result["audio_s"]) == (24000, 40 * 24000, 40.0)
    assert abs(audio - 0.25).max() < 1e-4
    assert [file.name for file in output.parent.iterdir()] == ["out.wav"]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        pytest.param({"language": "ka", "text": "გამარჯობა"}, LanguageError, r"no tag \[ka\]", id="language"),
        pytest.param({"text": "  "}, DataError, "text is empty", id="text"),
        pytest.param({"references": [Path("none.wav")]}, DataError, r"none\.wav", id="voice"),
        pytest.param({"folder": Path(__file__).parent}, ConfigError, "not a model folder", id="model"),
    ],
)
def test_arguments_that_cannot_be_spoken(exported, corpus, tmp_path, changed, error, message):
    valid = {"folder": exported, "language": "am", "references": [corpus.voice], "text": "ሰላም"}
    with pytest.raises(error, match=message):
        speak_to_file(**{**valid, **changed}, output=tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


def test_synthesize_accepts_the_new_language_after_enable(exported, corpus, monkeypatch):
    """This calls the stock `Xtts.synthesize`, with a voice that is loaded without FFmpeg."""
    import TTS.tts.models.xtts as stock

    import xtts_extend
    from xtts_extend.data.audio import load_audio

    xtts_extend.enable()
    monkeypatch.setattr(stock, "load_audio", load_audio)
    config = XttsConfig()
    config.load_json(exported / "config.json")
    with BlankWeights():
        model = Xtts(config)
        model.load_checkpoint(config, checkpoint_dir=exported, strict=True)
    voice = str(corpus.voice)
    assert model.synthesize("ሰላም", speaker_wav=voice, language="am")["wav"].size > 1000


@pytest.mark.parametrize(
    ("output", "message"),
    [("voice.wav", "is a reference recording and will not be overwritten"), ("manifest.csv", "ends in .wav")],
)
def test_speak_does_not_overwrite_its_inputs(exported, corpus, tmp_path, output, message):
    voice = tmp_path / "voice.wav"
    shutil.copyfile(corpus.voice, voice)
    with pytest.raises(ConfigError, match=message):
        speak_to_file(exported, "am", [voice], "ሰላም", tmp_path / output)
    assert voice.read_bytes() == corpus.voice.read_bytes()


def test_a_silent_reference_is_refused(exported, tmp_path):
    voice = tmp_path / "voice.wav"
    soundfile.write(voice, np.zeros(22050), 22050)
    with pytest.raises(DataError, match="silent"):
        speak_to_file(exported, "am", [voice], "ሰላም", tmp_path / "out.wav")


@pytest.mark.slow
def test_a_second_language_is_exported_with_the_first_base(run, corpus, recipe, tmp_path):
    """The second run froze the base's rows and the first run's new rows. The base has only the former."""
    vocab = tmp_path / "vocab.json"
    text = tmp_path / "ka.txt"
    text.write_text("გამარჯობა მსოფლიო", encoding="utf-8")
    extend_vocabulary(run / "vocab.json", "ka", vocab, texts=[text], size=30)
    flags = {"checkpoint": run, "start_fresh": True, "vocab": vocab, "max_steps": 2, "output_dir": tmp_path / "runs"}
    recipe(corpus.flags(**flags))
    report = export(only_run(tmp_path / "runs"), tmp_path / "model", corpus.base, merged=True)
    assert (report["base_rows"], report["base_rows_checked"]) == (550, True)
    other = make_mini_base(tmp_path / "other", layers=2, channels=64, heads=2, seed=1)
    with pytest.raises(CheckFailed, match="400 token rows of .* do not match the corresponding rows among the 550"):
        export(only_run(tmp_path / "runs"), tmp_path / "model2", other, merged=True)
