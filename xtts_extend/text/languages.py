"""The languages: how a text of each is cleaned, how long it may be. Coqui's own stay exactly as they are."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache, partial

from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.errors import LanguageError
from xtts_extend.notices import warn_once
from xtts_extend.text.cleaners import Cleaner, amharic_cleaner, default_cleaner
from xtts_extend.text.numbers import read_digits, spell_numbers
from xtts_extend.text.sentences import split_sentences

__all__ = [
    "CLEANER_ERRORS",
    "STOCK_LANGUAGES",
    "Language",
    "amharic_cleaner",
    "clean_numbers",
    "clean_text",
    "compose_stock",
    "default_cleaner",
    "get_language",
    "is_stock",
    "language_tag",
    "register_language",
    "split_sentences",
    "validate_code",
]

#: What the cleaners of the languages (num2words, mostly) raise for some texts.
CLEANER_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)

_CODE = re.compile("[a-z]{2,8}")
# No language has words for it, and the time that coqui's patterns take grows with the third power of its length.
_ABSURD_NUMBER = re.compile("[0-9]{300,}")

# A tokenizer without a vocabulary: coqui's cleaning lives in its methods.
_stock = VoiceBpeTokenizer()
_stock_preprocess = VoiceBpeTokenizer.preprocess_text
_stock_limits: dict[str, int] = dict(_stock.char_limits)

STOCK_LANGUAGES: frozenset[str] = frozenset(_stock_limits)


@dataclass(frozen=True)
class Language:
    """A language: its code, its cleaner, and the length in characters up to which one utterance is good."""

    code: str
    clean: Cleaner
    char_limit: int = 250


# A paragraph of the Declaration of Human Rights takes half as many characters in Amharic as in English.
_registry: dict[str, Language] = {"am": Language("am", amharic_cleaner(), char_limit=130)}


def validate_code(code: str) -> str:
    """The code itself; LanguageError when it is not like "am" or "zh-cn"."""
    if not isinstance(code, str) or not (_CODE.fullmatch(code) or code == "zh-cn"):
        raise LanguageError(
            f"Language code {code!r} is malformed: expected two to eight lower-case letters a-z, such as 'am' or 'yo'. "
            "Use the language's ISO 639 code."
        )
    return code


def is_stock(code: str) -> bool:
    """Whether coqui-tts itself cleans this language; a region is ignored, as coqui does ("zh-cn" is "zh")."""
    return code.split("-")[0] in STOCK_LANGUAGES


def compose_stock(text: str, code: str) -> str:
    """Text of coqui's own languages with accents in its letters (NFC); of others as it is, their cleaners do the same.

    Coqui's cleaners leave accents that are characters of their own (NFD), and its vocabulary has none of them.
    """
    composed = unicodedata.normalize("NFC", text) if is_stock(code) and not text.isascii() else text
    # NFC takes some letters of Indic scripts apart
    return composed if len(composed) < len(text) else text


def language_tag(code: str) -> str:
    """The vocabulary's tag of a language, as coqui writes it: "am" -> "[am]", "zh" -> "[zh-cn]"."""
    base = code.split("-")[0]
    return "[zh-cn]" if base == "zh" else f"[{base}]"


def register_language(language: Language) -> None:
    """Teach the registry a language, or replace it. Raises LanguageError for coqui's own and for malformed ones."""
    validate_code(language.code)
    if is_stock(language.code):
        raise LanguageError(
            f"Language '{language.code}' is one of coqui's own and keeps coqui's cleaning, else the text of old "
            "languages would change. Register another code."
        )
    if not callable(language.clean):
        raise LanguageError(f"The cleaner of language '{language.code}' is {language.clean!r}; expected a function.")
    if language.char_limit < 1:
        raise LanguageError(f"char_limit of language '{language.code}' is {language.char_limit}; expected 1 or more.")
    _registry[language.code] = language


def get_language(code: str) -> Language:
    """The language of a code: coqui's own, a registered one, or a sensible default. LanguageError when malformed."""
    if is_stock(validate_code(code)):
        return _stock_language(code.split("-")[0])
    return _registry.get(code) or _default_language(code)


@lru_cache(maxsize=64)
def _stock_language(code: str) -> Language:
    return Language(code, partial(_clean_stock, code=code), _stock_limits[code])


@lru_cache(maxsize=64)
def _default_language(code: str) -> Language:
    return Language(code, default_cleaner(code))


def _clean_stock(text: str, code: str) -> str:
    try:
        return _stock_preprocess(_stock, text, code)
    except ImportError as error:
        raise LanguageError(f"coqui's cleaning of '{code}' lacks a package: {error}. Install it.") from error


def clean_text(text: str, language: str) -> str:
    """The text that becomes tokens; of coqui's own languages exactly what its `preprocess_text` gives, if it does.

    A number that a cleaner fails on is read digit by digit, see `clean_numbers`. Raises LanguageError for a malformed
    code, and when coqui's cleaning of a language lacks a package.
    """
    found = get_language(language)
    return clean_numbers(found.clean, text, found.code)


def clean_numbers(clean: Cleaner, text: str, code: str) -> str:
    """Clean a text; where the cleaner fails on a number, that is written in words before, which is said once.

    num2words fails on long numbers in most languages, on ordinals ("1990.") in Czech, and on all of them in Hindi. Such
    a number is read as a plain cardinal, or digit by digit.
    """
    warning = f"The cleaner of '{code}' fails on some numbers of the text: these are read digit by digit."
    text, absurd = _ABSURD_NUMBER.subn(lambda digits: read_digits(digits[0], code), text)
    if absurd:
        warn_once(warning)
    try:
        return clean(text)
    except CLEANER_ERRORS:
        if not re.search("[0-9]", text):
            raise

    def fails(word: str) -> bool:
        try:
            clean(word)
        except CLEANER_ERRORS:
            return True
        return False

    try:
        cleaned = clean(spell_numbers(text, code, fails))
    except CLEANER_ERRORS:
        # numbers that only fail together
        cleaned = clean(spell_numbers(text, code))
    warn_once(warning)
    return cleaned
