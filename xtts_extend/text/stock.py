"""The languages that coqui-tts cleans itself. Their cleaning stays unchanged."""

from __future__ import annotations

import unicodedata

from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.errors import LanguageError

# Coqui's cleaning is a method of its tokenizer, read here before `enable()` patches it. The method needs no vocabulary.
_tokenizer = VoiceBpeTokenizer()
_preprocess = VoiceBpeTokenizer.preprocess_text

#: For each language, the length of the longest utterance that the model speaks well, in characters.
STOCK_LIMITS: dict[str, int] = dict(_tokenizer.char_limits)
#: Codes of coqui's own languages.
STOCK_LANGUAGES: frozenset[str] = frozenset(STOCK_LIMITS)


def is_stock(code: str) -> bool:
    """Return whether coqui-tts itself cleans this language. Like coqui, this ignores the region: "zh-cn" is "zh"."""
    return code.split("-")[0] in STOCK_LANGUAGES


def clean_stock(text: str, language: str) -> str:
    """Return the text as coqui cleans it in one of its own languages.

    Raises:
        LanguageError: The cleaning needs a package that is not installed.
    """
    try:
        return _preprocess(_tokenizer, text, language)
    except ImportError as error:
        raise LanguageError(
            f"Coqui's cleaning of '{language}' needs a package that is not installed: {error}. Install the package."
        ) from error


def compose_stock(text: str, code: str) -> str:
    """Compose text in one of coqui's own languages (NFC), and return text in other languages unchanged.

    Coqui's cleaners keep combining accents (NFD), which its vocabulary does not have. The cleaners of other languages
    compose the text themselves.
    """
    composed = unicodedata.normalize("NFC", text) if is_stock(code) and not text.isascii() else text
    # NFC decomposes some letters of Indic scripts.
    return composed if len(composed) < len(text) else text
