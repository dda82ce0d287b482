"""Split text into the words that are aligned with a recording, and join words to the text of a clip.

Numbers are spelled out first, because they are spoken as several words. Scripts that are written without spaces are
split into grapheme clusters (a letter with its marks).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex

from xtts_extend.text.characters import JOINERS, is_silent
from xtts_extend.text.cleaners import lower_dotted_i
from xtts_extend.text.cleaning import Step
from xtts_extend.text.languages import CLEANER_ERRORS, get_language
from xtts_extend.text.numbers import numbers_to_words
from xtts_extend.text.sentences import UNSPACED, sentence_ends

# Coqui's cleaners for these languages romanize, so they cannot spell out numbers in the language's own script.
_ROMANIZED = frozenset({"ja", "ko", "zh"})

_ethiopic, _lower = Step("ethiopic", 1).clean, Step("casing", 1).clean

# Vowels that are written before their consonant, and signs that stack the next consonant, stay with the consonant, and
# so do the vowels after it, some of which Unicode counts as clusters of their own.
_BEFORE_CONSONANT = rf"\p{{Logical_Order_Exception}}|(?={UNSPACED})\X(?<=[\u1039\u17d2])"
_CLUSTER = rf"(?:{_BEFORE_CONSONANT})*(?={UNSPACED})\X[\p{{M}}ะาำๅະາຳ]*"
_CLOSING = r"\p{Pe}\p{Pf}\p{Terminal_Punctuation}…\"'་༌"
_OPENING = r"[\p{Ps}\p{Pi}¿¡]"
# A dash ends a word, a hyphen does not.
_DASHES = "–—―⸺"
_RUN = (
    rf"(?<={UNSPACED})[{_CLOSING}]+|(?:(?!{_OPENING}+{UNSPACED})[^\s{UNSPACED}{_DASHES}])+[{_DASHES}]*"
    rf"|{_OPENING}+|[{_DASHES}]+"
)
_TOKEN = regex.compile(rf"(?V1)(?P<separator>\s*)(?P<text>{_CLUSTER}|{_RUN})")
_SPOKEN = regex.compile(r"[\p{L}\p{M}\p{N}]|(?<=\p{L}\p{M}*)'(?=\p{L})")
_ONLY_OPENING = regex.compile(rf"{_OPENING}+")
_ONLY_MARKS = regex.compile(rf"[{_CLOSING}\p{{Ps}}\p{{Pi}}\p{{Pd}}\s]+")
_PHRASE_END = regex.compile(
    rf"(?V1)(?:[[\p{{Terminal_Punctuation}}…{_DASHES}]--[.]]|\.\.|\s-)[\p{{Pe}}\p{{Pf}}\"'“‘\s]*$"
)
_ENDS_UNSPACED, _SPACE_BEFORE_UNSPACED = regex.compile(rf"(?V1){UNSPACED}$"), regex.compile(rf"(?V1) {UNSPACED}")
# Lines in these scripts are joined without a space.
_CJK = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}]")

# A number with its currency, sign, percent sign, ordinal mark or suffix, which cleaners read together.
_SPACE = "[ \u00a0\u202f]"
_NUMBER = regex.compile(
    rf"(?P<number>(?:\p{{Sc}}{_SPACE}?)?(?:(?<!\S)[-−])?"
    rf"(?:\p{{Nd}}{{1,3}}(?:{_SPACE}\p{{Nd}}{{3}})+(?!\p{{Nd}})|\p{{Nd}}+)(?:[.,٫٬'’:/]\p{{Nd}}+)*)"
    rf"(?P<suffix>-?\p{{L}}[\p{{L}}\p{{M}}]*|\.(?=\s+\S)|{_SPACE}?(?:[%‰٪°ºª]|\p{{Sc}}))?"
)
_SPELLINGS = str.maketrans("٫٬٪−’", ".,%-'")
#: Numbers that cleaners read: whole numbers, with separators between thousands or not, decimal fractions, and times.
_READABLE = regex.compile(r"\D*(?:\d{1,3}(?:[.,']\d{3})+(?:[.,]\d+)?|\d{1,40}(?:[.,]\d{1,40})?|\d{1,2}:\d\d)")
#: What is left of a number that a cleaner could not read.
_UNREAD = regex.compile(r"^-|[\p{N}\p{Sc}%‰°/]")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, or in scripts without spaces, a grapheme cluster.

    Attributes:
        text: The word as it goes into the manifest, with its punctuation.
        spoken: Only what is spoken: lowercase letters and marks, apostrophes within the word, and digits that could not
            be spelled out. Empty for a symbol that the language's cleaner does not read.
        separator: What stands before the word in the text: " " or "".
        ends_sentence: Whether the word is the last of a sentence.
        ends_phrase: Whether a comma, a dash or a similar mark follows, or a space in a script that is written without
            spaces between words. True if `ends_sentence` is.
        cue: Start and end in seconds of the subtitle that the word came from: a hint, which may be wrong.
    """

    text: str
    spoken: str
    separator: str
    ends_sentence: bool = False
    ends_phrase: bool = False
    cue: tuple[float, float] | None = None


def split_words(text: str, language: str) -> list[Word]:
    """Return the words of a text, with numbers spelled out.

    Case and punctuation are kept. A number that the language's cleaner cannot read for certain keeps its digits.

    >>> [word.text for word in split_words("Mr. Bell paid $5, twice.", "en")]
    ['Mr.', 'Bell', 'paid', 'five', 'dollars,', 'twice.']
    >>> [(word.text, word.separator) for word in split_words("ครับ ผม", "th")]
    [('ค', ''), ('รั', ''), ('บ', ''), ('ผ', ' '), ('ม', '')]

    Args:
        text: Text of any length.
        language: Code of the language.

    Raises:
        LanguageError: The code is malformed.
    """
    return [word for _, word in locate_words(normalize(text), language)]


def has_digits(text: str) -> bool:
    """Return whether a text has digits or other numerals, which could not be spelled out."""
    # Not `str.isnumeric`, which includes ideographs.
    return any(unicodedata.category(character) in ("Nd", "No") for character in text)


def join_words(words: Sequence[Word]) -> str:
    """Return the text that the words were split from, without the separator before the first one."""
    return "".join(word.separator + word.text for word in words)[len(words[0].separator) :] if words else ""


def normalize(text: str) -> str:
    """Return the text composed (NFC), with line feeds at line ends and without invisible characters except joiners.

    Ethiopic numerals become digits, and the Ethiopic full stop has one spelling.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    silent = {character for character in set(text) if is_silent(character) and character not in JOINERS}
    return _ethiopic(text.translate(dict.fromkeys(map(ord, silent))))


def locate_words(text: str, language: str) -> Iterator[tuple[int, Word]]:
    """Yield each word of a normalized text with its offset in the text. See `split_words`."""
    get_language(language)
    start = 0
    for end in sentence_ends(text, language):
        words = _merge(_tokens(*_spell(text, start, end, language)))
        for index, (offset, separator, token) in enumerate(words):
            is_last = index + 1 == len(words)
            after = "" if is_last else words[index + 1][1] + words[index + 1][2]
            yield (
                offset,
                Word(token, _spoken(token, language), separator, is_last, is_last or _ends_phrase(token, after)),
            )
        start = end


def _spell(text: str, start: int, end: int, language: str) -> tuple[str, list[int]]:
    """Return a sentence with numbers spelled out, and the offset in the text of each of its characters."""
    sentence = text[start:end]
    pieces: list[str] = []
    offsets: list[int] = []
    position = 0
    for match in _NUMBER.finditer(sentence):
        first = match.start()
        words, last = _read(match, language)
        pieces += sentence[position:first], words
        offsets += [*range(start + position, start + first), *[start + first] * len(words)]
        position = last
    pieces.append(sentence[position:])
    offsets += range(start + position, end)
    # The Ethiopic wordspace separates words as a space does.
    return "".join(pieces).replace("፡", " "), offsets


def _read(match: regex.Match[str], language: str) -> tuple[str, int]:
    """Return a number in words, or as it is written if it cannot be read for certain, and where it ends."""
    unread = match[0], match.end()
    number, suffix = _ascii_digits(match["number"]), _ascii_digits(match["suffix"] or "")
    if not _READABLE.fullmatch(number) or _is_cased(match.string[: match.start()][-1:]):
        return unread
    plain = _in_words(number, language)
    if suffix:
        with_suffix = _in_words(number + suffix, language)
        if with_suffix is not None and (plain is None or with_suffix != plain + _lower(suffix)):
            return with_suffix, match.end()
        # Some scripts attach suffixes to numbers in words. "5th" is not "fiveth", and "5." may be an ordinal.
        if not suffix[0].isalpha() or _is_cased(suffix[0]):
            return unread
    return (plain, match.end("number")) if plain is not None else unread


def _is_cased(character: str) -> bool:
    return character.lower() != character.upper()


def _ascii_digits(text: str) -> str:
    """Return a number with ASCII digits and marks, and without spaces between thousands."""
    digits = (str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text.translate(_SPELLINGS))
    return regex.sub(rf"(?<=\d){_SPACE}(?=\d)", "", "".join(digits))


@lru_cache(maxsize=4096)
def _in_words(number: str, language: str) -> str | None:
    """Return a number in words, or None if the language's cleaner cannot read it."""
    code = language.split("-")[0]
    try:
        words = numbers_to_words(number, code) if code in _ROMANIZED else get_language(language).clean(number)
    except CLEANER_ERRORS:
        return None
    words = " ".join(unicodedata.normalize("NFC", words.replace(":", " ")).split())
    return None if not words or _UNREAD.search(words) else words


def _tokens(sentence: str, offsets: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """Yield the offset, separator and text of each token."""
    for match in _TOKEN.finditer(sentence):
        separator = " " if match["separator"] else ""
        if "\n" in match["separator"] and _CJK.match(match["text"]):
            separator = ""
        yield offsets[match.start("text")], separator, match["text"]


def _merge(tokens: Iterator[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Return a sentence's tokens with punctuation attached.

    Opening marks, and any marks at the beginning, are attached to the next token, and all others to the previous one.
    """
    words: list[tuple[int, str, str]] = []
    opening: tuple[int, str, str] | None = None
    for offset, separator, token in tokens:
        if opening is not None:
            offset, separator, token = opening[0], opening[1], opening[2] + separator + token
        opening = None
        if _ONLY_MARKS.fullmatch(token) and (not words or _ONLY_OPENING.fullmatch(token)):
            opening = offset, separator, token
        elif _ONLY_MARKS.fullmatch(token):
            words[-1] = words[-1][0], words[-1][1], words[-1][2] + separator + token
        else:
            words.append((offset, separator, token))
    if opening is not None:
        words.append(opening)
    return words


@lru_cache(maxsize=65536)
def _spoken(token: str, language: str) -> str:
    spoken = token
    if language.split("-")[0] not in _ROMANIZED and not any(character.isdigit() for character in token):
        # The cleaner spells out abbreviations and symbols.
        spoken = get_language(language).clean(token)
    spoken = _lower(lower_dotted_i(spoken, language)).translate(dict.fromkeys(map(ord, "’ʼ＇"), "\u0027"))
    return "".join(_SPOKEN.findall(spoken))


def _ends_phrase(token: str, after: str) -> bool:
    if _PHRASE_END.search(token):
        return True
    return bool(_ENDS_UNSPACED.search(token) and _SPACE_BEFORE_UNSPACED.match(after))
