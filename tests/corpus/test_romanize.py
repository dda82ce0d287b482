from __future__ import annotations

import pytest

from xtts_extend.corpus import romanize as module
from xtts_extend.corpus.romanize import romanize


class Romanizer:
    """Uroman's method, which returns the code and the word."""

    def romanize_string(self, word: str, lcode: str) -> str:
        return f"{lcode}-{word.upper()}"


def test_only_letters_and_apostrophes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_uroman", Romanizer)
    module._romanize.cache_clear()
    assert romanize(["Don’t!", "a b", "12", ""], "en") == ["engdon't", "engab", "eng", "eng"]
    module._romanize.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "word", "romanized"),
    [
        ("am", "ሰላም", "salaame"),
        ("cs", "Žluťoučký,", "zlutoucky"),
        ("pl", "łódź", "lodz"),
        ("ru", "щука", "shchuka"),
        ("uk", "гиря", "hyrya"),
        ("bg", "щука", "shtuka"),
        ("de", "Übel", "uebel"),
        ("fr", "l’été", "l'ete"),
        ("hi", "क्ष", "kssa"),
        ("zh-cn", "你", "ni"),
        ("ko", "안녕", "annyeong"),
        ("cs", "–", ""),
        ("cs", "25", ""),
    ],
)
def test_uroman_has_rules_for_scripts_and_languages(language: str, word: str, romanized: str) -> None:
    assert romanize([word, word], language) == [romanized, romanized]
