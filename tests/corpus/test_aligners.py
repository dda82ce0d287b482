"""CTC models of transformers, created here without a download, and functions of the user."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from ctc_models import save_wav2vec2, save_wav2vec2_bert
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2Model

from xtts_extend.corpus.aligners import LOWEST, PlugAligner, load_aligner
from xtts_extend.errors import ConfigError


@pytest.fixture(scope="module")
def roman(tmp_path_factory):
    """A model with the vocabulary of MMS_FA, whose blank is not its padding."""
    return load_aligner(str(save_wav2vec2(tmp_path_factory.mktemp("roman") / "ሞዴል")), "am", "cpu")


@pytest.fixture
def romanizer(monkeypatch):
    """A stand-in for the module that romanizes words."""
    module = ModuleType("xtts_extend.corpus.romanize")
    module.romanize = lambda words, language: [{"ሰላም": "selam"}.get(word, word) for word in words]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_vocabulary_of_the_default_model(roman):
    assert roman.letters == tuple("abcdefghijklmnopqrstuvwxyz'")
    assert (roman.blank, roman.columns, roman.romanized) == (0, 28, True)
    assert (roman.rate, roman.stride, roman.stride_s) == (16000, 320, 0.02)


def test_words_are_romanized_for_a_model_with_ascii_letters(roman, romanizer):
    assert roman.token_ids(["ሰላም", "", "b'é1"]) == [[19, 5, 12, 1, 13], [], [2, 27, 5]]
    assert roman.unknown_letters(["ሰላም", "1é1"]) == {"1": 2}


@pytest.mark.parametrize(
    ("letters", "words", "expected", "unknown"),
    [
        # 1 to 4 are the columns of the letters.
        (("ሰ", "ላ", "ም", "ለ"), ["ሰላም", "ሀለ"], [[1, 2, 3], [4]], {"ሀ": 1}),
        (("A", "Č", "e", "x"), ["čača"], [[2, 1, 2, 1]], {}),
        (("c", "\u030c", "a", "é"), ["če\u0301a"], [[1, 2, 4, 3]], {}),
        (("ch", "c", "h", "á"), ["chcách"], [[1, 2, 4, 1]], {}),
        # This letter's canonical form has two characters.
        (("\u0958", "क", "ख", "ग"), ["\u0958क", "क\u093c"], [[1, 2], [1]], {}),
    ],
    ids=["Ethiopic", "capitals", "decomposed", "digraph", "Devanagari with nukta"],
)
def test_words_are_spelled_with_the_letters_of_the_model(tmp_path, letters, words, expected, unknown):
    aligner = load_aligner(str(save_wav2vec2(tmp_path, ("<pad>", "<unk>", "|", *letters))), "am", "cpu")
    assert not aligner.romanized
    assert aligner.token_ids(words) == expected
    assert aligner.unknown_letters(words) == unknown


def test_the_blank_has_the_probability_of_everything_that_is_not_a_letter(tmp_path):
    vocabulary = ("<pad>", "<unk>", "|", "-", "a", "A", "é")
    aligner = load_aligner(str(save_wav2vec2(tmp_path, vocabulary)), "cs", "cpu")
    logits = torch.tensor([[[1.0, 0.5, 2.0, -1.0, 3.0, 0.0, -200.0]]])
    aligner._logits = lambda audio: logits
    [[frame]] = aligner.log_probs(np.zeros((1, 320), dtype=np.float32))
    weights = torch.exp(logits[0, 0]).tolist()
    expected = np.log(np.array([sum(weights[:4]), sum(weights[4:6])]) / sum(weights))
    assert aligner.letters == ("a", "é")
    assert frame == pytest.approx([*expected, LOWEST], abs=1e-5)


def test_special_tokens_that_look_like_letters(tmp_path):
    save_wav2vec2(tmp_path, ("<pad>", "<unk>", "w", "pad", "a"))
    Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), word_delimiter_token="w", pad_token="pad", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    assert load_aligner(str(tmp_path), "am", "cpu").letters == ("a",)


@pytest.mark.parametrize(
    ("save", "options", "stride", "claimed"),
    [
        (save_wav2vec2, {}, 320, 320),
        (save_wav2vec2_bert, {"mels": 80}, 320, 320),
        (save_wav2vec2_bert, {"mels": 40}, 320, 160),
        (save_wav2vec2_bert, {"add_adapter": True, "adapter_stride": 2, "num_adapter_layers": 1}, 640, 320),
    ],
    ids=["wav2vec2", "wav2vec2-bert", "40 mels", "adapter"],
)
def test_the_distance_of_frames_is_measured(tmp_path, save, options, stride, claimed):
    aligner = load_aligner(str(save(tmp_path, **options)), "am", "cpu")
    assert aligner.stride == stride
    # What the configuration says is wrong for some models.
    assert aligner._network.config.inputs_to_logits_ratio == claimed
    for frames in (1, 7, 50):
        audio = np.zeros((2, aligner.samples_for(frames)), dtype=np.float32)
        assert aligner.log_probs(audio).shape == (2, frames, 28)


def test_the_digest_is_that_of_the_weights(tmp_path):
    folder = save_wav2vec2(tmp_path)
    first, second = (load_aligner(str(folder), "am", "cpu") for _ in range(2))
    assert first.digest == second.digest
    with torch.no_grad():
        second._network.lm_head.bias[3] += 1e-3
    assert second._digest() != first.digest


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (("<pad>", "<unk>", "the", "tion"), "word pieces such as 'tion' as tokens; expected letters"),
        (("<pad>", "<unk>", "|"), "no letters as tokens"),
    ],
)
def test_models_without_letters(tmp_path, vocabulary, message):
    with pytest.raises(ConfigError, match=message):
        load_aligner(str(save_wav2vec2(tmp_path, vocabulary)), "am", "cpu")


def test_a_model_that_was_not_trained_with_ctc(tmp_path):
    folder = save_wav2vec2(tmp_path)
    Wav2Vec2Model.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ConfigError, match="no weights for lm_head.bias, lm_head.weight: it is not trained"):
        load_aligner(str(folder), "am", "cpu")


def test_damaged_weights(tmp_path):
    aligner = load_aligner(str(save_wav2vec2(tmp_path)), "am", "cpu")
    with torch.no_grad():
        aligner._network.lm_head.bias[3] = torch.nan
    with pytest.raises(ConfigError, match="computes values that are not finite"):
        aligner.log_probs(np.zeros((1, 16000), dtype=np.float32))


def test_the_license_of_the_default_model_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("xtts_extend.corpus.aligners.DEFAULT_ALIGNER", str(save_wav2vec2(tmp_path)))
    for _ in range(2):
        load_aligner(str(tmp_path), "am", "cpu")
    assert caplog.text.count("is licensed under CC-BY-NC 4.0, which does not permit commercial use.") == 1


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ConfigError, match="transformers cannot load --aligner .* as a CTC model: .*config.json"):
        load_aligner(str(tmp_path), "am", "cpu")


def test_a_model_that_cannot_be_downloaded(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set, run `hf download no/model --local-dir FOLDER`"):
        load_aligner("no/model", "am", "cpu")


def plug(monkeypatch, returned):
    """A function of the user that returns the given value."""
    module = ModuleType("times_of_words")
    module.run = lambda audio, rate, words: returned
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("xtts_extend.corpus.aligners.plug_digest", lambda name: "")
    aligner = load_aligner("times_of_words:run", "am", "cpu")
    assert isinstance(aligner, PlugAligner)
    return aligner


def test_a_function_is_an_aligner(monkeypatch):
    returned = [[-0.02, 0.5, 1], np.array([0.5, 1.03, 0.25])]
    times = plug(monkeypatch, returned).align(np.zeros(16000, np.float32), 16000, ["ሰላም", "ለዓለም"])
    assert times == [(0, 0.5, 1), (0.5, 1, 0.25)]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "something else"),
        ([(0, 1)], "something else"),
        ([("a", 1, 1), (0, 1, 1)], "something else"),
        ([(0, 1, 1)], "1 items for 2 words"),
        ([(0, 0.5, 1), (0.5, float("nan"), 1)], "(0.5, nan, 1) for the word 'b', which is not finite"),
        ([(0, 0.5, 1), (0.5, 1.2, 1)], "'b', which is not within the audio's 1.00 s"),
        ([(-0.2, 0.5, 1), (0.5, 1, 1)], "'a', which is not within the audio"),
        ([(0.5, 0.4, 1), (0.5, 1, 1)], "'a', which is not within the audio's 1.00 s, start before end"),
        ([(0.5, 0.8, 1), (0.4, 0.9, 1)], "'b', which starts before the preceding word"),
        ([(0, 0.5, 1), (0.5, 1, 1.5)], "'b', with a score outside 0 to 1"),
    ],
)
def test_what_a_function_returns_is_checked(monkeypatch, returned, message):
    aligner = plug(monkeypatch, returned)
    with pytest.raises(ConfigError) as raised:
        aligner.align(np.zeros(16000, np.float32), 16000, ["a", "b"])
    assert message in str(raised.value)
    assert str(raised.value).startswith("--aligner times_of_words:run returned ")
