from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import TTS.tts.layers.xtts.tokenizer as coqui_tokenizer
import TTS.tts.models.xtts as coqui_xtts
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.errors import LanguageError, VocabularyError
from xtts_extend.text import languages
from xtts_extend.text.cleaning import Cleaning, Step
from xtts_extend.text.languages import Language, clean_text, is_stock, register_language
from xtts_extend.text.speakable import spoken_text
from xtts_extend.text.tokenizer import PackedLanguage, enable, load_tokenizer, require_cleanable, require_tag
from xtts_extend.text.vocabulary import append_entries, load_vocabulary, parse_vocabulary


@pytest.fixture
def tokenizer(write_vocab: Callable[..., Path]) -> VoiceBpeTokenizer:
    """A tokenizer with the tags [en], [yo] and [zh-cn] and the letter ẹ."""
    base = load_vocabulary(write_vocab(tags=("en", "yo", "zh-cn")))
    path = base.path.parent / "ìwé àwọn ọ̀rọ̀.json"
    path.write_text(append_entries(base, [], ["ẹ"], []), encoding="utf-8")
    return load_tokenizer(path)


def test_stock_languages_are_cleaned_and_tokenized_as_before(shared_data: Path) -> None:
    enable()
    tokenizer = VoiceBpeTokenizer(shared_data / "xtts_vocab.json")
    preprocess = VoiceBpeTokenizer.preprocess_text.__wrapped__
    encode = VoiceBpeTokenizer.encode.__wrapped__
    for code in ("en", "fr", "ru", "tr", "cs"):
        for line in (shared_data / "udhr" / f"{code}.txt").read_text(encoding="utf-8").splitlines()[:40]:
            assert tokenizer.preprocess_text(line, code) == preprocess(tokenizer, line, code)
            assert tokenizer.encode(line, code) == encode(tokenizer, line, code)
    assert {code: tokenizer.char_limits[code] for code in vars(tokenizer)["char_limits"]} == vars(tokenizer)[
        "char_limits"
    ]


def test_new_languages_are_cleaned_with_the_registry(
    tokenizer: VoiceBpeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tokenizer.tokenizer.get_vocab()
    assert tokenizer.encode("“Ẹ the”", "yo") == [ids[token] for token in ("[yo]", "ẹ", "[SPACE]", "the")]
    assert tokenizer.encode("ẹ", "yo-NG") == [ids["[yo]"], ids["ẹ"]], "coqui ignores the region"
    monkeypatch.setattr(languages, "_registry", {})
    register_language(Language("yo", lambda text: text.replace("x", "the").lower(), char_limit=77))
    assert tokenizer.encode("x", "yo") == [ids["[yo]"], ids["the"]]
    assert tokenizer.char_limits["yo"] == tokenizer.char_limits.get("yo", 250) == 77


def test_the_error_for_a_code_without_a_tag_lists_the_tags(tokenizer: VoiceBpeTokenizer) -> None:
    for code in ("am", "hu"):
        with pytest.raises(LanguageError, match=rf"no tag \[{code}\].*tags for: en, yo, zh-cn"):
            tokenizer.encode("a", code)
    with pytest.raises(LanguageError, match="malformed"):
        require_tag(tokenizer, "y")
    require_tag(tokenizer, "zh")
    require_tag(tokenizer, "zh-cn")


def test_text_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    enable()
    monkeypatch.setitem(sys.modules, "spacy", None)
    text = "ሰላም ነው። " * 40
    pieces = coqui_xtts.split_sentence(text, "am", 130)
    assert pieces == coqui_tokenizer.split_sentence(text, "am", 130)
    assert [len(piece) for piece in pieces] == [127, 127, 63]
    assert " ".join(pieces) == text.strip()
    assert coqui_xtts.split_sentence(" ሰላም። ነው። ", "am", 130) == ["ሰላም። ነው።"]
    assert coqui_xtts.split_sentence(text, "am", None) == [text.strip()]
    with pytest.raises(ImportError):
        coqui_xtts.split_sentence("Hello there. " * 40, "en", 250)
    assert coqui_xtts.split_sentence(" Hello.", "en", 250) == ["Hello."]


class FakeXtts:
    """The parts of a model that `Xtts.synthesize` and `Xtts.inference` use."""

    device = torch.device("cpu")
    gpt_batch_size = 1
    args = SimpleNamespace(gpt_max_text_tokens=402)
    inference = coqui_xtts.Xtts.inference

    def __init__(self, tokenizer: VoiceBpeTokenizer) -> None:
        self.tokenizer = tokenizer
        self.config = XttsConfig()
        self.cloned = 0
        self.heard: list[list[int]] = []
        self.gpt = self

    code_stride_len = 1024

    def generate(self, text_inputs: torch.Tensor, **_: Any) -> torch.Tensor:
        self.heard.append(text_inputs[0].tolist())
        return torch.zeros(1, 4, dtype=torch.long)

    def __call__(self, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(1, 4, 8)

    def hifigan_decoder(self, latents: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 1, 10)

    def clone_voice(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        self.cloned += 1
        return {"gpt_conditioning_latents": torch.zeros(1), "speaker_embedding": torch.zeros(1)}


def test_synthesize_accepts_languages_with_a_tag(tokenizer: VoiceBpeTokenizer) -> None:
    model = FakeXtts(tokenizer)
    assert "yo" not in model.config.languages
    text = "Ẹ the. " * 60
    result = coqui_xtts.Xtts.synthesize(model, text, speaker_wav="voice.wav", language="yo", enable_text_splitting=True)
    assert result["wav"].shape == (20,), "two pieces"
    sentence = tokenizer.encode("ẹ the.", "yo")[1:]
    space = tokenizer.tokenizer.token_to_id("[SPACE]")
    assert model.heard[0] == [tokenizer.tokenizer.token_to_id("[yo]"), *sentence, *([space, *sentence] * 34)]
    assert model.config.languages[-1] == "yo"
    assert "yo" not in XttsConfig().languages, "only this model's configuration changes"
    coqui_xtts.Xtts.synthesize(model, "ẹ", speaker_wav="voice.wav", language="yo")
    assert model.config.languages.count("yo") == 1


def test_synthesize_refuses_a_language_without_a_tag(tokenizer: VoiceBpeTokenizer) -> None:
    model = FakeXtts(tokenizer)
    with pytest.raises(LanguageError, match="tags for: en, yo, zh-cn"):
        coqui_xtts.Xtts.synthesize(model, "ሰላም", speaker_wav="voice.wav", language="am")
    assert (model.heard, model.cloned) == ([], 0), "before any work is done"
    assert "am" not in model.config.languages
    with pytest.raises(AssertionError, match="not supported"):
        coqui_xtts.Xtts.synthesize(model, "a", speaker_wav="voice.wav")


def test_load_tokenizer_refuses_other_files(write_text: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"missing\.json cannot be read: No such file"):
        load_tokenizer(tmp_path / "missing.json")
    with pytest.raises(VocabularyError, match="is not JSON"):
        load_tokenizer(write_text("{", "vocab.json"))


def test_languages_that_are_not_registered(tokenizer: VoiceBpeTokenizer) -> None:
    for code in ("ka", "vi", "el", "ti", "sw"):
        assert not is_stock(code)
        assert tokenizer.preprocess_text("ABC", code) == clean_text("ABC", code) == "abc"
        assert tokenizer.char_limits[code] == 250


@pytest.fixture
def packed(write_vocab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> VoiceBpeTokenizer:
    """A tokenizer with the tag [en] and a pack for Yoruba that differs from the registry in cleaning and limit."""
    base = load_vocabulary(write_vocab(tags=("en",)))
    extended = parse_vocabulary(append_entries(base, ["[yo]"], ["ẹ", "ọ"], []), base.path)
    replacements = Step("replacements", 1, {"texts": {"&": " ọ "}, "whole_words": False})
    monkeypatch.setattr(languages, "_registry", {})
    register_language(Language("yo", str.upper, char_limit=77))
    tokenizer = load_tokenizer(base.path)
    cleaning = Cleaning((Step("casing", 1), replacements, Step("white_space", 1)))
    tokenizer.packed = {"yo": PackedLanguage("yo", extended.tokenizer, cleaning, char_limit=40)}
    return tokenizer


def test_a_pack_overrides_the_registry_for_its_model_only(packed: VoiceBpeTokenizer, small_vocab: Path) -> None:
    assert packed.preprocess_text("Ẹ&A", "yo") == "ẹ ọ a"
    ids = packed.packed["yo"].tokenizer.get_vocab()
    assert packed.encode("Ẹ&A", "yo-NG") == [ids[token] for token in ("[yo]", "ẹ", "[SPACE]", "ọ", "[SPACE]", "a")]
    assert (packed.char_limits["yo"], packed.char_limits.get("yo"), packed.char_limits["en"]) == (40, 40, 250)
    require_cleanable(packed, "yo")
    other = load_tokenizer(small_vocab)
    assert (other.preprocess_text("a", "yo"), other.char_limits["yo"]) == ("A", 77)
    assert other.encode("the", "en") == packed.encode("the", "en")
    with pytest.raises(LanguageError, match=r"no tag \[yo\]"):
        require_tag(other, "yo")
    with pytest.raises(LanguageError, match=r"no tag \[am\].* tags for: en, yo\."):
        require_tag(packed, "am")


def test_text_in_a_packs_language_is_split_and_spoken(packed: VoiceBpeTokenizer) -> None:
    model = FakeXtts(packed)
    coqui_xtts.Xtts.inference(model, "Ẹ & the. " * 10, "yo", torch.zeros(1), torch.zeros(1), enable_text_splitting=True)
    sentence = packed.encode("ẹ ọ the.", "yo")[1:]
    assert [len(heard) for heard in model.heard] == [1 + 4 * len(sentence) + 3] * 2 + [1 + 2 * len(sentence) + 1]
    spoken = spoken_text(packed, "Ẹ ነ & the.", "yo", 400)
    assert (spoken.sentences, spoken.unknown) == (["Ẹ & the."], ["ነ"])
