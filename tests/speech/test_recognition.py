"""Character errors, and a recognizer of transformers that is created here, without a download."""

import json

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from xtts_extend.errors import ConfigError
from xtts_extend.speech.recognition import character_errors, load_recogniser


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
