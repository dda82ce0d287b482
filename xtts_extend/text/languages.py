"""The languages: how a text of each is cleaned, how long it may be. Coqui's own stay exactly as they are."""

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


@dataclass(frozen=True)
class Language:
    """A language: its code, its cleaner, and the length in characters up to which one utterance is good.

    The cleaner is a `Cleaning`, or any function from text to text; a language pack can carry only the former.
    """

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
        raise LanguageError(
            f"The cleaner of language '{language.code}' is {language.clean!r}; expected a function or a Cleaning."
        )
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
    return Language(code, Cleaning((Step("coqui", 1, {"language": code}),)), STOCK_LIMITS[code])


@lru_cache(maxsize=64)
def _default_language(code: str) -> Language:
    return Language(code, default_cleaner(code))


def cleaning_of(code: str) -> tuple[Cleaning, int]:
    """How a language is cleaned, as data, and its limit in characters.

    Raises LanguageError for a malformed code, and where the registered cleaner is a Python function.
    """
    language = get_language(code)
    if not isinstance(language.clean, Cleaning):
        name = getattr(language.clean, "__name__", type(language.clean).__name__)
        raise LanguageError(
            f"The cleaner of language '{language.code}' is Python code ({name}), which a language pack cannot carry; "
            'expected a Cleaning. Write it as steps, for example replacements (docs/languages.md, "Cleaning as data"), '
            "and register that, or export with --merged."
        )
    return language.clean, language.char_limit


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
