"""Text cleaning as data: named, versioned steps with parameters, stored in files that later releases can read.

The behavior of a given version of a step never changes. New behavior gets a new version, and old versions stay usable.
"""

from __future__ import annotations

import copy
import re
import reprlib
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from xtts_extend import __version__
from xtts_extend.errors import LanguageError
from xtts_extend.text.characters import plain_characters
from xtts_extend.text.numbers import (
    amharic_ordinal,
    ethiopic_numerals_to_digits,
    num2words_language,
    numbers_to_words,
)
from xtts_extend.text.stock import STOCK_LANGUAGES, clean_stock

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Cleaner = Callable[[str], str]

# --- step functions

_CYRILLIC = re.compile("[\u0400-\u052f]")
_ETHIOPIC_COLONS = re.compile("(?<=[ሀ-፿])::")
_AMHARIC_ORDINAL = re.compile(r"(?<![\d.,])(\d{1,15})ኛ", re.ASCII)
# Letters and their combining marks. After punctuation is replaced, everything else is whitespace or ASCII.
_LETTER = r"[^\s\x00-@\[-`{-\x7f]"


def compose(text: str) -> str:
    """Return the text in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text)


def turkic_i(text: str, dotless: bool) -> str:
    """Lowercase I and İ to ı and i if `dotless`; otherwise, lowercase only İ, to i. Return the text.

    If `dotless`, text with Cyrillic letters is returned unchanged, because a Latin I in such text is a Roman numeral.
    """
    if not dotless:
        return text.replace("İ", "i")
    return text if _CYRILLIC.search(text) else compose(text).replace("İ", "i").replace("I", "ı")


def _ethiopic(text: str) -> str:
    # ። is often typed as ፡፡ or ::, and ፦ as ፡-.
    text = text.replace("፡፡", "።")
    if "::" in text:
        text = _ETHIOPIC_COLONS.sub("።", text)
    return ethiopic_numerals_to_digits(text.replace("፡-", "፦"))


def _lower(text: str) -> str:
    # `str.lower` turns İ into i plus a combining dot that does not affect the pronunciation.
    return text.lower().replace("i\u0307", "i")


def _replace(text: str, pattern: re.Pattern[str], texts: Mapping[str, str]) -> str:
    return pattern.sub(lambda match: texts[match[0]], text)


def _replacements(texts: dict[str, str], whole_words: bool) -> Cleaner:
    for old in texts:
        # `Xtts.inference` lowercases text before it is cleaned.
        if old != (lower := _lower(compose(old))):
            raise LanguageError(
                f"Cleaning step 'replacements' replaces {old!r}, which never occurs, because text is lowercased and "
                f"composed (NFC) first; expected {lower!r}. Correct the step."
            )

    def bounded(old: str) -> str:
        before = f"(?<!{_LETTER})" if re.match(_LETTER, old[0]) else ""
        after = f"(?!{_LETTER})" if re.match(_LETTER, old[-1]) else ""
        return before + re.escape(old) + after

    longest_first = sorted(texts, key=len, reverse=True)
    pattern = re.compile("|".join(map(bounded if whole_words else re.escape, longest_first)))
    return partial(_replace, pattern=pattern, texts=texts)


def _move_currency(text: str, pattern: re.Pattern[str]) -> str:
    return pattern.sub(r"\2\1", text)


def _currency_last(symbols: str) -> Cleaner:
    return partial(_move_currency, pattern=re.compile(rf"([{re.escape(symbols)}])\s*(\d+(?:[.,]\d+)*)"))


def _amharic_ordinals(text: str) -> str:
    return _AMHARIC_ORDINAL.sub(lambda match: amharic_ordinal(int(match[1])), text)


def _read_numbers(text: str, language: str, decimal_mark: str) -> str:
    return numbers_to_words(text, language, decimal_mark)


def _fold(text: str, table: dict[int, int]) -> str:
    return text.translate(table)


def _homophones(letters: str, written_as: str) -> Cleaner:
    if len(letters) != len(written_as):
        raise LanguageError(
            f"Cleaning step 'homophones' has {len(letters)} characters in 'letters' and {len(written_as)} in "
            "'written_as'; expected the same number in both. Correct the step."
        )
    return partial(_fold, table=str.maketrans(letters, written_as))


def _collapse_spaces(text: str) -> str:
    return " ".join(text.split())


# --- step definitions


class _Parameter(NamedTuple):
    expected: str
    is_valid: Callable[[Any], bool]


class _Definition(NamedTuple):
    """One version of a step: its parameters, and how to build its (picklable) function from them."""

    build: Callable[..., Cleaner]
    parameters: Mapping[str, _Parameter]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


_BOOLEAN = _Parameter("true or false", lambda value: isinstance(value, bool))
_TEXT = _Parameter("a non-empty string", _is_text)
_TEXTS = _Parameter(
    "one or more non-empty strings, each with its replacement",
    lambda value: (
        isinstance(value, dict)
        and len(value) > 0
        and all(_is_text(old) and isinstance(new, str) for old, new in value.items())
    ),
)
_NUM2WORDS_LANGUAGE = _Parameter(
    "a language code that num2words supports (a newer version of num2words may support more)",
    lambda value: isinstance(value, str) and num2words_language(value) == value,
)
_DECIMAL_MARK = _Parameter("'.' or ','", lambda value: value in (".", ","))
_STOCK_LANGUAGE = _Parameter(
    f"one of coqui's own languages: {', '.join(sorted(STOCK_LANGUAGES))}",
    lambda value: isinstance(value, str) and value in STOCK_LANGUAGES,
)


def _direct(clean: Callable[..., str], **parameters: _Parameter) -> _Definition:
    """Return the definition of a step whose function takes the parameters as keyword arguments."""
    return _Definition(lambda **values: partial(clean, **values), parameters)


#: The versions of each step, numbered from 1. docs/languages.md describes the steps.
_STEPS: dict[str, tuple[_Definition, ...]] = {
    "composition": (_direct(compose),),
    "turkic_i": (_direct(turkic_i, dotless=_BOOLEAN),),
    "ethiopic": (_direct(_ethiopic),),
    "characters": (_direct(plain_characters),),
    "casing": (_direct(_lower),),
    "replacements": (_Definition(_replacements, {"texts": _TEXTS, "whole_words": _BOOLEAN}),),
    "currency_last": (_Definition(_currency_last, {"symbols": _TEXT}),),
    "amharic_ordinals": (_direct(_amharic_ordinals),),
    "numbers": (_direct(_read_numbers, language=_NUM2WORDS_LANGUAGE, decimal_mark=_DECIMAL_MARK),),
    "homophones": (_Definition(_homophones, {"letters": _TEXT, "written_as": _TEXT}),),
    "white_space": (_direct(_collapse_spaces),),
    "coqui": (_direct(clean_stock, language=_STOCK_LANGUAGE),),
}


@dataclass(frozen=True)
class Step:
    """One cleaning step, with its name, version and parameters.

    Raises:
        LanguageError: This release does not have the step or that version of it, or a parameter is missing, unknown or
            invalid.
    """

    name: str
    version: int
    parameters: Mapping[str, Json] = field(default_factory=dict, hash=False)
    clean: Cleaner = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        definition = self._definition()
        values: dict[str, Json] = copy.deepcopy(dict(self.parameters))
        expected = ", ".join(definition.parameters) or "none"
        for name in [*definition.parameters, *values]:
            if (name in values) != (name in definition.parameters):
                problem = "is missing the" if name not in values else "has an unknown"
                raise LanguageError(
                    f"Cleaning step '{self.name}' {problem} parameter {name!r}; its parameters are: {expected}. "
                    "Correct the step."
                )
        for name, parameter in definition.parameters.items():
            if not parameter.is_valid(values[name]):
                raise LanguageError(
                    f"Cleaning step '{self.name}' has {name} = {reprlib.repr(values[name])}; expected "
                    f"{parameter.expected}. Correct the step."
                )
        object.__setattr__(self, "parameters", values)
        object.__setattr__(self, "clean", definition.build(**values))

    def _definition(self) -> _Definition:
        if not isinstance(self.name, str) or self.name not in _STEPS:
            raise LanguageError(
                f"Unknown cleaning step {self.name!r}; xtts_extend {__version__} has the steps {', '.join(_STEPS)}. "
                "Correct the name, or install a newer release of xtts_extend."
            )
        versions = _STEPS[self.name]
        if type(self.version) is not int or self.version < 1:
            raise LanguageError(
                f"Cleaning step '{self.name}' has version {self.version!r}; expected a whole number from 1 to "
                f"{len(versions)}. Correct the step."
            )
        if self.version > len(versions):
            raise LanguageError(
                f"Cleaning step '{self.name}' is version {self.version}, but xtts_extend {__version__} supports only "
                f"versions up to {len(versions)}. Install a newer release of xtts_extend."
            )
        return versions[self.version - 1]


@dataclass(frozen=True)
class Cleaning:
    """A sequence of steps that cleans text. Unlike a Python function, it can be stored in a language pack.

    >>> Cleaning((Step("casing", 1), Step("replacements", 1, {"texts": {"&": " and "}, "whole_words": False})))("A&B")
    'a and b'
    """

    steps: tuple[Step, ...]

    def __call__(self, text: str) -> str:
        for step in self.steps:
            text = step.clean(text)
        return text

    def after(self, name: str, *steps: Step) -> Cleaning:
        """Return a copy with steps inserted after the first step with the given name.

        Args:
            name: Name of the existing step.
            steps: Steps to insert after it.

        Raises:
            LanguageError: The cleaning has no step with this name.
        """
        names = [step.name for step in self.steps]
        if name not in names:
            raise LanguageError(
                f"The cleaning has no step named {name!r}. Use the name of one of its steps: {', '.join(names)}."
            )
        index = names.index(name) + 1
        return Cleaning((*self.steps[:index], *steps, *self.steps[index:]))

    def to_dict(self) -> list[dict[str, Json]]:
        """Return the steps as a JSON-serializable list, each with its name, version and parameters."""
        return [
            {"name": step.name, "version": step.version, **copy.deepcopy(dict(step.parameters))} for step in self.steps
        ]

    @classmethod
    def from_dict(cls, data: object) -> Cleaning:
        """Return the cleaning described by the output of `to_dict`.

        Raises:
            LanguageError: The data is not a list of valid steps; see `Step`.
        """
        if not isinstance(data, list):
            raise LanguageError(
                f"Expected a list of cleaning steps, got {reprlib.repr(data)}. Use the output of `Cleaning.to_dict`."
            )
        steps = []
        for entry in data:
            if not isinstance(entry, dict) or not {"name", "version"} <= entry.keys():
                raise LanguageError(
                    f"Expected each cleaning step to be an object with a name, a version and parameters, got "
                    f"{reprlib.repr(entry)}. Use the output of `Cleaning.to_dict`."
                )
            parameters = {key: value for key, value in entry.items() if key not in ("name", "version")}
            steps.append(Step(entry["name"], entry["version"], parameters))
        return cls(tuple(steps))
