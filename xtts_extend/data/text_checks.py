"""Find texts that are unusable, that look suspicious, or that do not match their recordings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.data.dataset import STOP_ID, UNKNOWN_ID
from xtts_extend.data.sample import Sample
from xtts_extend.data.unspoken import find_damage, find_markup, has_surrogate, is_phonemic, without_markup
from xtts_extend.notices import collect_notices
from xtts_extend.text.languages import CLEANER_ERRORS
from xtts_extend.text.tokenizer import bare_tokenizer
from xtts_extend.text.vocabulary import name_character

_DIGIT = re.compile(r"\d")

# Letters and digits, without combining vowel signs.
_LETTER = re.compile(r"[^\W_]")
# Scripts whose characters are syllables or words: Ethiopic, Cherokee, Canadian syllabics, kana, Han, Yi, Vai, Hangul.
_SYLLABLE = re.compile(
    "[\u1200-\u139f\u13a0-\u167f\u2d80-\u2ddf\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua63f"
    "\uab00-\uab2f\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]"
)
# A spoken digit is a word of about four letters in most languages.
_LETTERS_PER_DIGIT = 4
#: Minimum number of recordings for a language to be judged by its own median rate, and the factor by which a rate may
#: differ from that median.
_MIN_RECORDINGS = 50
_MEDIAN_FACTOR = 3
# Characters per second. Read speech has 9 to 20 letters per second including pauses, and 3 to 8 if a character is a
# syllable or a word. The bounds are half the slowest rate and one and a half times the fastest.
_LETTER_BOUNDS, _SYLLABLE_BOUNDS = (4.0, 30.0), (1.5, 12.0)
# The silence around a single word is excluded from its speaking time.
_SHORT_TEXT, _SILENCE_AROUND_S = 10, 1.0


@dataclass(frozen=True)
class TextCheck:
    """What the data check finds out about a text. It depends on the text, its language and the tokenizer alone.

    Attributes:
        tokens: Number of tokens; 0 if the text cannot be tokenized.
        letters: Number of letters; see `count_letters`.
        problems: Details of the problems that make the text unusable, keyed by kind.
        warnings: Kind and detail of each warning; empty if the text is unusable.
        notices: Messages that cleaning the text passed to `warn_once`.
    """

    tokens: int
    letters: int
    problems: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    warnings: Sequence[tuple[str, str]] = ()
    notices: Sequence[str] = ()

    def all_problems(self, max_length: int) -> dict[str, dict[str, Any]]:
        """Return the problems, including too many tokens for a model that accepts at most `max_length`."""
        if self.tokens <= max_length:
            return dict(self.problems)
        return {
            **self.problems,
            "too_long_text": {"detail": f"{self.tokens} tokens; the model accepts at most {max_length}"},
        }


def check_text(text: str, language: str, tokenizer: VoiceBpeTokenizer) -> TextCheck:
    """Clean and tokenize a text, and return its number of tokens, problems and warnings."""
    with collect_notices() as notices:
        tokens, problems = _read_text(text, language, tokenizer)
        warnings = [] if problems else list(text_warnings(text, language, tokenizer))
    return TextCheck(tokens, count_letters(text), problems, warnings, notices)


def _read_text(text: str, language: str, tokenizer: VoiceBpeTokenizer) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the number of tokens, and details of the problems that make a text unusable, keyed by kind."""
    if has_surrogate(text):
        return 0, {"text_error": {"detail": f"an unpaired surrogate (from a truncated escape) in {ascii(text)[:80]}"}}
    if not text.strip():
        return 0, {"empty_text": {"detail": repr(text)}}
    try:
        ids = tokenizer.encode(text, language)
    except CLEANER_ERRORS as error:
        return 0, {"text_error": {"detail": f"{type(error).__name__} for {text[:80]!r}: {str(error)[:80]}"}}
    found: dict[str, dict[str, Any]] = {}
    if len(ids) <= 1:
        found["empty_text"] = {"detail": f"nothing is left of {text!r} after cleaning"}
    if UNKNOWN_ID in ids or STOP_ID in ids:
        cleaned = tokenizer.preprocess_text(text, language.split("-")[0])
        encoding = bare_tokenizer(tokenizer, language).encode(cleaned)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        pieces = {cleaned[start:end] for token, (start, end) in spans if token in (UNKNOWN_ID, STOP_ID)}
        characters = [name_character(piece) for piece in sorted(pieces)]
        cause = f"; {why}" if (why := _why_unknown(text, pieces)) else ""
        detail = f"{' '.join(characters)} in {cleaned!r}{cause}"
        found["unknown_tokens"] = {"detail": detail, "characters": characters}
    return len(ids), found


def _why_unknown(text: str, pieces: set[str]) -> str | None:
    """Return why a text contains unknown pieces, or None if they are part of ordinary text."""
    if damage := find_damage(text):
        return damage
    if is_phonemic(text):
        return "phonetic symbols (IPA) instead of ordinary text"
    markup = find_markup(text) or ""
    return (
        f"{markup[:40]!r} looks like markup" if any(len(piece) == 1 and piece in markup for piece in pieces) else None
    )


def text_warnings(text: str, language: str, tokenizer: VoiceBpeTokenizer) -> Iterator[tuple[str, str]]:
    """Yield the kind and detail of each warning about a usable text."""
    spoken = text
    if markup := find_markup(text):
        spoken = without_markup(text)
        yield "markup", f"{markup[:80]!r} in {text[:80]!r}"
    if damage := find_damage(text):
        yield "mojibake", damage
    if is_phonemic(text):
        yield "phonemes", f"{text[:80]!r}"
    if _DIGIT.search(spoken):
        cleaned = tokenizer.preprocess_text(spoken, language.split("-")[0])
        if _DIGIT.search(cleaned):
            yield "digits", f"{cleaned[:80]!r}"


def speaking_rates(samples: Sequence[tuple[Sample, int]]) -> list[tuple[Sample, str]]:
    """Return the samples with an implausible number of characters per second, each with a detail for the report.

    Languages with enough recordings are judged by their own median rate, others by typical speaking rates.

    Args:
        samples: Samples and their numbers of letters, as `count_letters` returns them.
    """
    rates: dict[str, list[float]] = defaultdict(list)
    for sample, letters in samples:
        rates[sample.language].append(letters / sample.duration_s)
    medians = {language: median(values) for language, values in rates.items() if len(values) >= _MIN_RECORDINGS}
    return [
        (sample, detail)
        for sample, letters in samples
        if (detail := _implausible_length(sample, letters, medians)) is not None
    ]


def _implausible_length(sample: Sample, count: int, medians: dict[str, float]) -> str | None:
    """Return why `count` characters are too many or too few for the sample's duration, or None if they fit."""
    usual = medians.get(sample.language)
    if usual is not None:
        lowest, highest = usual / _MEDIAN_FACTOR, usual * _MEDIAN_FACTOR
        expected = f"the language's median is {usual:.1f}"
    else:
        lowest, highest = plausible_rates(sample.text)
        expected = f"speech usually has {lowest:g} to {highest:g}"
    duration = sample.duration_s
    speaking_time = duration - _SILENCE_AROUND_S if count < _SHORT_TEXT else duration
    if lowest * speaking_time <= count <= highest * duration:
        return None
    return f"{count / duration:.1f} characters per second, but {expected}; the text may belong to a different recording"


def plausible_rates(text: str) -> tuple[float, float]:
    """Return the lowest and the highest plausible number of letters per second, which depend on the text's script."""
    is_syllabic = 2 * len(_SYLLABLE.findall(text)) > count_letters(text)
    return _SYLLABLE_BOUNDS if is_syllabic else _LETTER_BOUNDS


def count_letters(text: str) -> int:
    """Return the number of letters in a text, with each digit counted as a spoken word."""
    return len(_LETTER.findall(text)) + (_LETTERS_PER_DIGIT - 1) * len(_DIGIT.findall(text))
