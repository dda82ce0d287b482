"""Registry of languages, with a cleaner and a character limit for each. Coqui's own languages stay unchanged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from xtts_extend.errors import LanguageError
from xtts_extend.notices import warn_once
from xtts_extend.text.cleaners import amharic_cleaner, default_cleaner
from xtts_extend.text.cleaning import Cleaner, Cleaning, Step
from xtts_extend.text.numbers import read_digits, spell_numbers
from xtts_extend.text.sentences import split_sentences
from xtts_extend.text.stock import STOCK_LANGUAGES, STOCK_LIMITS, compose_stock, is_stock

__all__ = [
    "CLEANER_ERRORS",
    "STOCK_LANGUAGES",
    "Language",
    "amharic_cleaner",
    "clean_numbers",
    "clean_text",
    "cleaning_of",
    "compose_stock",
    "default_cleaner",
    "get_language",
    "is_stock",
    "language_tag",
    "register_language",
    "split_sentences",
    "validate_code",
]

#: Exceptions that the languages' cleaners (mostly num2words) raise on some texts.
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
# No language has words for a number this long, and the time that coqui's patterns take is cubic in its length.
_HUGE_NUMBER = re.compile("[0-9]{300,}")


@dataclass(frozen=True)
class Language:
    """A language, with its code, cleaner and character limit.

    Attributes:
        code: ISO 639 code.
        clean: A `Cleaning`, or any function from string to string. A language pack can store only a `Cleaning`.
        char_limit: Length in characters of the longest utterance that the model speaks well.
    """

    code: str
    clean: Cleaner
    char_limit: int = 250


# In the Universal Declaration of Human Rights, Amharic needs half as many characters as English.
_registry: dict[str, Language] = {"am": Language("am", amharic_cleaner(), char_limit=130)}


def validate_code(code: str) -> str:
    """Return the code if it is well formed, such as "am" or "zh-cn"; otherwise, raise LanguageError."""
    if not isinstance(code, str) or not (_CODE.fullmatch(code) or code == "zh-cn"):
        raise LanguageError(
            f"Language code {code!r} is malformed: expected two to eight lowercase letters a-z, such as 'am' or 'yo'. "
            "Use the language's ISO 639 code."
        )
    return code


def language_tag(code: str) -> str:
    """Return a language's vocabulary tag as coqui writes it, such as "[am]" for "am" and "[zh-cn]" for "zh"."""
    base = code.split("-")[0]
    return "[zh-cn]" if base == "zh" else f"[{base}]"


def register_language(language: Language) -> None:
    """Add a language to the registry, or replace the one with the same code. The change lasts until the process ends.

    >>> register_language(Language("ig", default_cleaner("ig"), char_limit=200))
    >>> get_language("ig").char_limit
    200

    Raises:
        LanguageError: The language is one of coqui's own, or its code, cleaner or limit is invalid.
    """
    validate_code(language.code)
    if is_stock(language.code):
        raise LanguageError(
            f"Language '{language.code}' is one of coqui's own and keeps coqui's cleaning, so that its text is "
            "tokenized as before. Register the language under a different code."
        )
    if not callable(language.clean):
        raise LanguageError(
            f"The cleaner of language '{language.code}' is {language.clean!r}; expected a function or a Cleaning."
        )
    if language.char_limit < 1:
        raise LanguageError(
            f"The char_limit of language '{language.code}' is {language.char_limit}; expected 1 or more."
        )
    _registry[language.code] = language


def get_language(code: str) -> Language:
    """Return the language with the given code: coqui's own, a registered one, or one with the default cleaner.

    >>> get_language("am").char_limit
    130

    Raises:
        LanguageError: The code is malformed.
    """
    if is_stock(validate_code(code)):
        return _stock_language(code.split("-")[0])
    return _registry.get(code) or _default_language(code)


@lru_cache(maxsize=64)
def _stock_language(code: str) -> Language:
    return Language(code, Cleaning((Step("coqui", 1, {"language": code}),)), STOCK_LIMITS[code])


@lru_cache(maxsize=64)
def _default_language(code: str) -> Language:
    return Language(code, default_cleaner(code))


def cleaning_of(code: str) -> tuple[Cleaning, int]:
    """Return a language's `Cleaning` and its character limit.

    Raises:
        LanguageError: The code is malformed, or the registered cleaner is a Python function.
    """
    language = get_language(code)
    if not isinstance(language.clean, Cleaning):
        name = getattr(language.clean, "__name__", type(language.clean).__name__)
        raise LanguageError(
            f"The cleaner of language '{language.code}' is Python code ({name}), which a language pack cannot store; "
            'expected a Cleaning. Register a Cleaning with steps such as replacements (docs/languages.md, "Cleaning as '
            'data"), or export with --merged.'
        )
    return language.clean, language.char_limit


def clean_text(text: str, language: str) -> str:
    """Return the cleaned text, ready for tokenization. For coqui's own languages, it is what `preprocess_text` returns.

    If a cleaner fails on a number, the number is read digit by digit; see `clean_numbers`.

    >>> clean_text("ሰላም፡ለዓለም። 21", "am")
    'ሰላም ለዓለም. ሃያ አንድ'

    Raises:
        LanguageError: The code is malformed, or coqui's cleaner needs a package that is not installed.
    """
    registered = get_language(language)
    return clean_numbers(registered.clean, text, registered.code)


def clean_numbers(clean: Cleaner, text: str, code: str) -> str:
    """Return the cleaned text. If the cleaner fails on some numbers, warn once, spell them out and clean again.

    num2words fails on long numbers in most languages, on ordinals ("1990.") in Czech, and on all numbers in Hindi. Such
    numbers are read as plain cardinals or digit by digit.

    Args:
        clean: The cleaner.
        text: Text in the language, not yet cleaned.
        code: Code of the language.
    """
    warning = f"The cleaner for '{code}' fails on some numbers in the text. These numbers are read digit by digit."
    text, replaced = _HUGE_NUMBER.subn(lambda digits: read_digits(digits[0], code), text)
    if replaced:
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
        # The numbers fail only in combination with each other.
        cleaned = clean(spell_numbers(text, code))
    warn_once(warning)
    return cleaned
