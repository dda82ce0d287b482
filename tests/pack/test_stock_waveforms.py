"""XTTS's own languages sound the same, sample by sample, in stock coqui-tts and in a folder with packs."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stock_speech
from packs import TEXTS
from stock_speech import EXTRAS, SENTENCES, WAYS, speak

from xtts_extend.files import file_digest
from xtts_extend.pack.route import routed
from xtts_extend.text.languages import STOCK_LANGUAGES

UNAVAILABLE = {
    language
    for language, modules in EXTRAS.items()
    if any(importlib.util.find_spec(module) is None for module in modules)
}
#: Languages of the quick tests; all 17 take half a minute.
QUICK = ("en", "es", "ru")
CASES = [pytest.param(language, marks=() if language in QUICK else pytest.mark.slow) for language in SENTENCES]


def digests(*folders: Path) -> dict[Path, str]:
    return {file: file_digest(file) for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def stock(request, all_languages, packed, made_once):
    """A function that returns the waveform for a folder, a language and a way to speak, without xtts_extend."""
    languages = {
        item.callspec.params["language"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    } - UNAVAILABLE

    def fill(folder: Path) -> None:
        before = digests(all_languages, packed)
        command = [sys.executable, stock_speech.__file__, folder / "waveforms.npz", ",".join(sorted(languages))]
        subprocess.run([*command, all_languages, packed], check=True, capture_output=True)
        assert digests(all_languages, packed) == before

    waveforms = np.load(made_once("waveforms of stock", fill) / "waveforms.npz")
    assert len(waveforms) == 2 * len(languages) * len(WAYS)
    return lambda folder, language, way: waveforms[f"{folder} {language} {way}"]


@pytest.fixture(scope="module")
def model(loaded):
    """A copy, because `synthesize` adds zh to the model's list of languages."""
    return copy.deepcopy(loaded)


def test_all_languages_are_tested():
    assert SENTENCES.keys() == STOCK_LANGUAGES
    assert len(SENTENCES) == 17
    assert not UNAVAILABLE, "the extra 'test' has what coqui's cleaning of these languages needs"


@pytest.mark.parametrize("language", CASES)
def test_a_language_of_the_base(language, model, all_languages, packed, stock):
    if language in UNAVAILABLE:
        pytest.skip(f"coqui's extra for {language} is not installed")
    for way, other in zip(WAYS, TEXTS, strict=True):
        expected = stock(all_languages, language, way)
        assert len(expected) > 1000
        assert np.array_equal(stock(packed, language, way), expected), "without enable()"
        speak(model, TEXTS[other], other, way)
        assert np.array_equal(speak(model, SENTENCES[language], language, way), expected), f"after {other}"
    with routed(model, other):
        assert not np.array_equal(speak(model, SENTENCES[language], language, way), expected), f"through {other}"
