"""Cleaning as data: named steps with versions and parameters, which a file can carry and a later release can read.

A version of a step never changes what it does: another behaviour is the next version, and old ones stay readable.
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

# --- what the steps do

_CYRILLIC = re.compile("[\u0400-\u052f]")
_ETHIOPIC_COLONS = re.compile("(?<=[ሀ-፿])::")
_AMHARIC_ORDINAL = re.compile(r"(?<![\d.,])(\d{1,15})ኛ", re.ASCII)
# Letters and their marks; once the marks are plain, all that is neither is white space or ASCII.
_LETTER = r"[^\s\x00-@\[-`{-\x7f]"


def compose(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def turkic_i(text: str, dotless: bool) -> str:
    """I and İ in lower case: ı and i; without `dotless` İ alone.

    Cyrillic text is left as it is: the Latin I in it is a numeral.
    """
    if not dotless:
        return text.replace("İ", "i")
    return text if _CYRILLIC.search(text) else compose(text).replace("İ", "i").replace("I", "ı")


def _ethiopic(text: str) -> str:
    # ፡፡ is how ። is often typed, :: too; ፡- stands for ፦
    text = text.replace("፡፡", "።")
    if "::" in text:
        text = _ETHIOPIC_COLONS.sub("።", text)
    return ethiopic_numerals_to_digits(text.replace("፡-", "፦"))


def _lower(text: str) -> str:
    # İ lower-cases to i and a combining dot, which nobody pronounces.
    return text.lower().replace("i\u0307", "i")


def _replace(text: str, pattern: re.Pattern[str], texts: Mapping[str, str]) -> str:
    return pattern.sub(lambda match: texts[match[0]], text)


def _replacements(texts: dict[str, str], whole_words: bool) -> Cleaner:
    for old in texts:
        # `Xtts.inference` lower-cases texts before they are cleaned
        if old != (lower := _lower(compose(old))):
            raise LanguageError(
                f"The step 'replacements' of a cleaning replaces {old!r}, which no text holds once it is in lower case "
                f"and composed letters (NFC); expected {lower!r}. Correct the step."
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
            f"The step 'homophones' of a cleaning has {len(letters)} letters and {len(written_as)} to write "
            "for them; expected one for each. Correct the step."
        )
    return partial(_fold, table=str.maketrans(letters, written_as))


def _collapse_spaces(text: str) -> str:
    return " ".join(text.split())


# --- which steps there are


class _Parameter(NamedTuple):
    expected: str
    is_valid: Callable[[Any], bool]


class _Definition(NamedTuple):
    """One version of a step: what makes its function of its parameters. The function has to be one that pickles."""

    build: Callable[..., Cleaner]
    parameters: Mapping[str, _Parameter]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


_BOOLEAN = _Parameter("true or false", lambda value: isinstance(value, bool))
_TEXT = _Parameter("a text that is not empty", _is_text)
_TEXTS = _Parameter(
    "one text or more, each with what is written for it",
    lambda value: (
        isinstance(value, dict)
        and len(value) > 0
        and all(_is_text(old) and isinstance(new, str) for old, new in value.items())
    ),
)
_NUM2WORDS_LANGUAGE = _Parameter(
    "a language of num2words, as that spells it (a newer num2words may know more)",
    lambda value: isinstance(value, str) and num2words_language(value) == value,
)
_DECIMAL_MARK = _Parameter("'.' or ','", lambda value: value in (".", ","))
_STOCK_LANGUAGE = _Parameter(
    f"one of coqui's own languages: {', '.join(sorted(STOCK_LANGUAGES))}",
    lambda value: isinstance(value, str) and value in STOCK_LANGUAGES,
)


def _direct(clean: Callable[..., str], **parameters: _Parameter) -> _Definition:
    """A step whose function takes its parameters as they are."""
    return _Definition(lambda **values: partial(clean, **values), parameters)


#: The versions of every step, from 1 on. What one does is described in docs/languages.md.
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
    """One step of a cleaning: its name, the version of what it does, and its parameters.

    Raises LanguageError for what this release does not know, and for missing or wrong parameters.
    """

    name: str
    version: int
    parameters: Mapping[str, Json] = field(default_factory=dict, hash=False)
    clean: Cleaner = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        definition = self._definition()
        own: dict[str, Json] = copy.deepcopy(dict(self.parameters))
        expected = ", ".join(definition.parameters) or "none"
        for name in [*definition.parameters, *own]:
            if (name in own) != (name in definition.parameters):
                found = "has no" if name not in own else "has an unknown"
                raise LanguageError(
                    f"The step '{self.name}' of a cleaning {found} parameter {name!r}; its parameters are: {expected}. "
                    "Correct the step."
                )
        for name, parameter in definition.parameters.items():
            if not parameter.is_valid(own[name]):
                raise LanguageError(
                    f"The step '{self.name}' of a cleaning has {name} = {reprlib.repr(own[name])}; expected "
                    f"{parameter.expected}. Correct the step."
                )
        object.__setattr__(self, "parameters", own)
        object.__setattr__(self, "clean", definition.build(**own))

    def _definition(self) -> _Definition:
        if not isinstance(self.name, str) or self.name not in _STEPS:
            raise LanguageError(
                f"A cleaning has the step {self.name!r}, which xtts_extend {__version__} does not know; it knows: "
                f"{', '.join(_STEPS)}. Correct the name, or install a newer release of xtts_extend."
            )
        versions = _STEPS[self.name]
        if type(self.version) is not int or self.version < 1:
            raise LanguageError(
                f"The step '{self.name}' of a cleaning has version {self.version!r}; expected a number from 1 to "
                f"{len(versions)}. Correct the step."
            )
        if self.version > len(versions):
            raise LanguageError(
                f"A cleaning has version {self.version} of the step '{self.name}'; xtts_extend {__version__} knows "
                f"versions up to {len(versions)}. Install a newer release of xtts_extend."
            )
        return versions[self.version - 1]


@dataclass(frozen=True)
class Cleaning:
    """Steps that clean a text one after another. Unlike a Python function, a language pack can carry it.

    >>> Cleaning((Step("casing", 1), Step("replacements", 1, {"texts": {"&": " and "}, "whole_words": False})))("A&B")
    'a and b'
    """

    steps: tuple[Step, ...]

    def __call__(self, text: str) -> str:
        for step in self.steps:
            text = step.clean(text)
        return text

    def after(self, name: str, *steps: Step) -> Cleaning:
        """The same cleaning with further steps behind the first one of a name; LanguageError when there is none."""
        names = [step.name for step in self.steps]
        if name not in names:
            raise LanguageError(f"The cleaning has no step {name!r}; it has: {', '.join(names)}. Name one of them.")
        index = names.index(name) + 1
        return Cleaning((*self.steps[:index], *steps, *self.steps[index:]))

    def to_dict(self) -> list[dict[str, Json]]:
        """The steps as JSON: of each its name, its version and its parameters."""
        return [
            {"name": step.name, "version": step.version, **copy.deepcopy(dict(step.parameters))} for step in self.steps
        ]

    @classmethod
    def from_dict(cls, data: object) -> Cleaning:
        """The cleaning of what `to_dict` gave. Raises LanguageError for what it cannot be, see `Step`."""
        if not isinstance(data, list):
            raise LanguageError(
                f"A cleaning is {reprlib.repr(data)}; expected a list of steps. Use what `Cleaning.to_dict` gives."
            )
        steps = []
        for entry in data:
            if not isinstance(entry, dict) or not {"name", "version"} <= entry.keys():
                raise LanguageError(
                    f"A step of a cleaning is {reprlib.repr(entry)}; expected an object with a name, a version and "
                    "parameters. Use what `Cleaning.to_dict` gives."
                )
            parameters = {key: value for key, value in entry.items() if key not in ("name", "version")}
            steps.append(Step(entry["name"], entry["version"], parameters))
        return cls(tuple(steps))
