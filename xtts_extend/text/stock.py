"""Coqui's own languages, whose text cleaning is unchanged."""

from __future__ import annotations

import unicodedata

from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.errors import LanguageError

# Coqui's cleaner is a method of its tokenizer. It is saved here, before `enable()` patches it, and needs no vocabulary.
_tokenizer = VoiceBpeTokenizer()
_preprocess = VoiceBpeTokenizer.preprocess_text

#: For each language, the length in characters of the longest utterance that the model speaks well.
STOCK_LIMITS: dict[str, int] = dict(_tokenizer.char_limits)
#: Codes of coqui's own languages.
STOCK_LANGUAGES: frozenset[str] = frozenset(STOCK_LIMITS)


def is_stock(code: str) -> bool:
    """Return whether coqui-tts has its own cleaner for a language. As in coqui, "zh-cn" counts as "zh"."""
    return code.split("-")[0] in STOCK_LANGUAGES


def clean_stock(text: str, language: str) -> str:
    """Clean text in one of coqui's own languages with coqui's cleaner, and return it.

    Raises:
        LanguageError: The cleaner needs a package that is not installed.
    """
    try:
        return _preprocess(_tokenizer, text, language)
    except ImportError as error:
        raise LanguageError(
            f"Coqui's cleaner for '{language}' needs a package that is not installed: {error}. Install the package."
        ) from error


def compose_stock(text: str, code: str) -> str:
    """Return text in coqui's own languages in composed form (NFC), and text in other languages unchanged.

    Coqui's cleaners keep combining accents (NFD), but its vocabulary does not have them. The cleaners of other
    languages compose the text themselves.
    """
    composed = unicodedata.normalize("NFC", text) if is_stock(code) and not text.isascii() else text
    # NFC decomposes some letters in Indic scripts.
    return composed if len(composed) < len(text) else text
