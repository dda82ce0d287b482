"""The languages that coqui-tts cleans itself: they stay exactly as they are."""

from __future__ import annotations

import unicodedata

from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.errors import LanguageError

# A tokenizer without a vocabulary: coqui's cleaning lives in its methods. Taken before `enable()` patches them.
_tokenizer = VoiceBpeTokenizer()
_preprocess = VoiceBpeTokenizer.preprocess_text

#: The length in characters up to which one utterance is good, of each.
STOCK_LIMITS: dict[str, int] = dict(_tokenizer.char_limits)
STOCK_LANGUAGES: frozenset[str] = frozenset(STOCK_LIMITS)


def is_stock(code: str) -> bool:
    """Whether coqui-tts itself cleans this language; a region is ignored, as coqui does ("zh-cn" is "zh")."""
    return code.split("-")[0] in STOCK_LANGUAGES


def clean_stock(text: str, language: str) -> str:
    """The text as coqui cleans it in one of its own languages; LanguageError where a package is lacking for that."""
    try:
        return _preprocess(_tokenizer, text, language)
    except ImportError as error:
        raise LanguageError(f"coqui's cleaning of '{language}' lacks a package: {error}. Install it.") from error


def compose_stock(text: str, code: str) -> str:
    """Text of coqui's own languages with accents in its letters (NFC); of others as it is, their cleaners do the same.

    Coqui's cleaners leave accents that are characters of their own (NFD), and its vocabulary has none of them.
    """
    composed = unicodedata.normalize("NFC", text) if is_stock(code) and not text.isascii() else text
    # NFC takes some letters of Indic scripts apart
    return composed if len(composed) < len(text) else text
