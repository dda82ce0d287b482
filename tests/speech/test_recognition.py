"""Character errors, splitting of long audio, and recognizers that are created here, without a download."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from xtts_extend.errors import ConfigError
from xtts_extend.speech.hub_models import load_language_adapter
from xtts_extend.speech.recognition import character_errors, load_recogniser, split_at_quiet, transcribe


@pytest.mark.parametrize(
    ("spoken", "heard", "expected"),
    [
        ("ሰላም ለዓለም።", "ሰላም ለዓለም", (0, 8)),
        ("ሰላም ለዓለም።", "ሰላ ለዓለም", (1, 8)),
        ("Hello, World!", "hello   world", (0, 11)),
        ("Hello", "", (5, 5)),
        ("a", "abcd", (3, 1)),
        # Composed and decomposed, full-width and half-width.
        ("café Ａ", "cafe\u0301 a", (0, 6)),
    ],
)
def test_inaudible_differences_are_ignored(spoken, heard, expected):
    assert character_errors(spoken, heard) == expected


@pytest.fixture(scope="module")
def recogniser_folder(tmp_path_factory):
    """A wav2vec2 model with two layers that always recognizes the letter "b"."""
    folder = tmp_path_factory.mktemp("asr ሰማ")
    letters = {"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4}
    (folder / "vocab.json").write_text(json.dumps(letters), encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=5, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, pad_token_id=0,
        )
    )  # fmt: skip
    with torch.no_grad():
        model.lm_head.bias[4] = 100
    model.save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_is_a_recognizer(recogniser_folder):
    recognise = load_recogniser(str(recogniser_folder), "am")
    # The sample rate differs from the model's.
    audio = np.sin(np.arange(24000, dtype=np.float32) / 20)
    assert recognise(audio, 24000) == "b"


@pytest.fixture
def nowhere(tmp_path):
    return tmp_path / "none"


@pytest.mark.parametrize("folder", ["tmp_path", "mini_base", "nowhere"])
def test_folders_that_are_no_recognizer(request, folder):
    with pytest.raises(ConfigError, match="transformers cannot load --asr .* as a speech recognition model"):
        load_recogniser(str(request.getfixturevalue(folder)), "am")


def test_a_function_is_a_recognizer(tmp_path, monkeypatch):
    (tmp_path / "my_asr.py").write_text(
        "def transcribe(audio, rate):\n    return f'{audio.dtype} {audio.shape[0]} {rate}'\n"
        "def wrong(audio, rate):\n    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    audio = np.zeros(1600, dtype=np.float32)
    assert load_recogniser("my_asr:transcribe", "am")(audio, 16000) == "float32 1600 16000"
    with pytest.raises(ConfigError, match="--asr my_asr:wrong returned NoneType; expected a string"):
        load_recogniser("my_asr:wrong", "am")(audio, 16000)


def test_long_audio_is_split_where_it_is_quiet():
    rate = 1000
    audio = np.ones(130 * rate, dtype=np.float32)
    # 40.0 to 40.1 s is the quietest window of the first part; the quieter one at 20 s would make a short part.
    audio[20 * rate : 21 * rate] = 0
    audio[40 * rate : 40 * rate + 100] = 0.1
    parts = split_at_quiet(audio, rate)
    assert [len(part) for part in parts] == [40050, 30050, 59900]
    assert np.array_equal(np.concatenate(parts), audio)
    assert transcribe(lambda part, rate: str(len(part)), audio, rate) == "40050 30050 59900"
    assert [len(part) for part in split_at_quiet(audio[: 60 * rate], rate)] == [60000]


@pytest.mark.parametrize(
    ("language", "expected"),
    [("am", "amh"), ("amh", "amh"), ("sw", "swh"), ("ug", "uig-script_arabic")],
)
def test_adapters_are_found_by_any_code_of_the_language(language, expected):
    network, tokenizer = adapter_model(
        ["eng", "amh", "swh", "uig-script_arabic", "kmr-script_latin", "kmr-script_arabic"]
    )
    load_language_adapter(network, tokenizer, language, "--asr", "mms")
    assert (tokenizer.target_lang, network.loaded) == (expected, expected)


@pytest.mark.parametrize(
    ("language", "message"),
    [("xx", "three letters .*--asr-language"), ("ku", "several scripts.* kmr-script_latin, kmr-script_arabic")],
)
def test_languages_without_an_adapter(language, message):
    network, tokenizer = adapter_model(["eng", "kmr-script_latin", "kmr-script_arabic"])
    with pytest.raises(ConfigError, match=f"--asr mms does not support the language '{language}'.*{message}"):
        load_language_adapter(network, tokenizer, language, "--asr", "mms")
    assert tokenizer.target_lang == "eng"


def adapter_model(languages):
    """Stand-ins with the attributes of an MMS model and its tokenizer."""

    class Network:
        config = SimpleNamespace(adapter_attn_dim=16)

        def load_adapter(self, code):
            self.loaded = code

    class Tokenizer:
        vocab = dict.fromkeys(languages)
        target_lang = "eng"

        def set_target_lang(self, code):
            self.target_lang = code

    return Network(), Tokenizer()
