"""Texts are checked once, and what a check says does not depend on whether it is cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.data import text_cache
from xtts_extend.data.text_cache import CheckedTexts
from xtts_extend.data.text_checks import TextCheck
from xtts_extend.notices import warn_once
from xtts_extend.text import languages
from xtts_extend.text import tokenizer as tokenizer_module
from xtts_extend.text.cleaning import Cleaning, Step
from xtts_extend.text.languages import Language

#: Usable, unknown character, markup, phonemes with an unknown character, nothing left, only white space, too long.
TEXTS = ["hello there", "the ሰ", "see example.de now", "ðɪs ɪz", "ኣ", " ", "the " * 40]

LIMIT = 60


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were cleaned and tokenized."""
    texts: list[str] = []
    check_text = text_cache.check_text

    def check(text: str, *more: Any) -> TextCheck:
        texts.append(text)
        return check_text(text, *more)

    monkeypatch.setattr(text_cache, "check_text", check)
    return texts


def run(tokenizer: VoiceBpeTokenizer, cache: Path | None, texts: list[str], language: str = "en") -> list[TextCheck]:
    """Check texts as one start does, and save the cache."""
    cached = CheckedTexts(tokenizer, cache)
    results = [cached.check(text, language) for text in texts]
    cached.save()
    return results


def comparable(results: list[TextCheck]) -> list[tuple[Any, ...]]:
    return [
        (result.tokens, result.letters, result.all_problems(LIMIT), [tuple(warning) for warning in result.warnings])
        for result in results
    ]


def test_a_second_start_checks_only_changed_texts(tokenizer, checked, tmp_path, caplog):
    cache = tmp_path / "a folder ድ" / ".checked.jsonl"
    expected = run(tokenizer, None, TEXTS)
    kinds = [sorted(result.all_problems(LIMIT)) for result in expected]
    assert kinds == [
        [],
        ["unknown_tokens"],
        [],
        ["unknown_tokens"],
        ["unknown_tokens"],
        ["empty_text"],
        ["too_long_text"],
    ]
    assert [kind for kind, _ in expected[2].warnings] == ["markup"]
    checked.clear()

    assert comparable(run(tokenizer, cache, TEXTS)) == comparable(expected)
    assert checked == TEXTS
    assert [file.name for file in cache.parent.iterdir()] == [".checked.jsonl.en.texts"]
    checked.clear()
    second = run(tokenizer, cache, ["a new text", *TEXTS])
    assert checked == ["a new text"]
    assert comparable(second[1:]) == comparable(expected)
    checked.clear()
    # A variant is cleaned like its language; another language has its own file.
    assert comparable(run(tokenizer, cache, ["a new text", *TEXTS], "en-gb")) == comparable(second)
    assert checked == []
    run(tokenizer, cache, ["hello there"], "de")
    assert checked == ["hello there"]
    assert len(list(cache.parent.iterdir())) == 2
    assert caplog.messages == []


def test_the_limit_does_not_invalidate_the_cache(tokenizer, checked, tmp_path):
    for _ in range(2):
        (result,) = run(tokenizer, tmp_path / "cache", ["hello there"])
        # The tag, ten letters of which three are one token, and a space.
        assert (result.tokens, result.all_problems(10), result.letters) == (10, {}, 10)
        assert result.all_problems(9) == {"too_long_text": {"detail": "10 tokens; the model accepts at most 9"}}
    assert checked == ["hello there"]


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-200] ^= 1
    path.write_bytes({"cut": content[:-1], "flipped": bytes(changed), "empty": b"", "foreign": b"a|b\n1|2\n"}[how])


@pytest.mark.parametrize(("how", "warns"), [("cut", 1), ("flipped", 1), ("empty", 0), ("foreign", 0)])
def test_a_damaged_cache_is_replaced(tokenizer, checked, tmp_path, caplog, how, warns):
    expected = comparable(run(tokenizer, tmp_path / "cache", TEXTS))
    file = tmp_path / ".cache.en.texts"
    content = file.read_bytes()
    damage(file, how)
    checked.clear()
    assert comparable(run(tokenizer, tmp_path / "cache", TEXTS)) == expected
    assert checked == TEXTS
    assert [message.endswith("is damaged. All texts will be checked again.") for message in caplog.messages] == (
        [True] * warns
    )
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_read_or_written_costs_only_time(tokenizer, checked, tmp_path, caplog):
    (tmp_path / ".cache.en.texts").mkdir()
    for _ in range(2):
        assert comparable(run(tokenizer, tmp_path / "cache", TEXTS)) == comparable(run(tokenizer, None, TEXTS))
    assert checked == TEXTS * 4
    assert len(caplog.messages) == 1
    assert "was not saved. The next start will check all texts again." in caplog.text
    (tmp_path / "file").write_text("")
    assert run(tokenizer, tmp_path / "file" / "cache", ["hello"])[0].tokens == 6


def replacing(old: str, new: str) -> Cleaning:
    return Cleaning((Step("casing", 1), Step("replacements", 1, {"texts": {old: new}, "whole_words": False})))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch):
    """A function that registers a cleaner for a language whose tag the tokenizer has."""
    monkeypatch.setattr(languages, "is_stock", lambda code: False)
    monkeypatch.setattr(tokenizer_module, "is_stock", lambda code: False)

    def register(clean) -> None:
        monkeypatch.setitem(languages._registry, "de", Language("de", clean))

    return register


def test_another_cleaner_or_vocabulary_invalidates_the_cache(tokenizer, checked, tmp_path, register, monkeypatch):
    def tokens(given: VoiceBpeTokenizer = tokenizer) -> int:
        return run(given, tmp_path / "cache", ["a & b"], "de")[0].tokens

    register(replacing("&", "and"))
    assert tokens() == tokens() == 8
    assert len(checked) == 1
    register(replacing("&", "or"))
    assert tokens() == 7
    assert len(checked) == 2
    # A function may do anything, so nothing is cached.
    register(lambda text: text.replace("&", ""))
    assert tokens() == tokens() == 5
    assert len(checked) == 4
    register(replacing("&", "or"))
    assert tokens() == 7
    assert len(checked) == 4
    other = VoiceBpeTokenizer()
    other.tokenizer = type(tokenizer.tokenizer).from_str(tokenizer.tokenizer.to_str())
    assert tokens(other) == 7
    assert len(checked) == 4
    other.tokenizer.add_tokens(["or"])
    assert tokens(other) == 6
    assert len(checked) == 5
    monkeypatch.setattr(tokenizer_module, "_environment_digest", lambda: "other versions")
    assert tokens(other) == 6
    assert len(checked) == 6


def test_texts_that_the_cleaner_failed_on_are_checked_again(tokenizer, checked, tmp_path, register):
    register(Cleaning((Step("casing", 1),)))
    for _ in range(2):
        (result,) = run(tokenizer, tmp_path / "cache", ["caf\udcc3"], "de")
        assert list(result.problems) == ["text_error"]
    assert checked == ["caf\udcc3"] * 2


def test_what_cleaning_logs_is_logged_again(tokenizer, checked, tmp_path, caplog, monkeypatch):
    def preprocess(self: VoiceBpeTokenizer, text: str, language: str) -> str:
        warn_once("Some numbers are read digit by digit.")
        return text

    monkeypatch.setattr(VoiceBpeTokenizer, "preprocess_text", preprocess)
    for starts in (1, 2):
        run(tokenizer, tmp_path / "cache", ["one", "two"])
        assert caplog.messages == [" > Some numbers are read digit by digit."] * starts
        # A new process logs everything again.
        monkeypatch.setattr("xtts_extend.notices._logged", set())
    assert checked == ["one", "two"]


def test_a_cache_that_is_saved_twice_keeps_both(tokenizer, checked, tmp_path):
    cached = CheckedTexts(tokenizer, tmp_path / "cache")
    for text in ("one", "two"):
        cached.check(text, "en")
        cached.save()
    checked.clear()
    run(tokenizer, tmp_path / "cache", ["one", "two", "three"])
    assert checked == ["three"]
