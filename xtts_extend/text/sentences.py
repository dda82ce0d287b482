"""Find the ends of sentences, and split long text into sentences that are short enough for the model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import pysbd
import regex
from pysbd.languages import LANGUAGE_CODES

from xtts_extend.errors import LanguageError

#: Letters and marks of scripts that are written without spaces between words.
UNSPACED = (
    r"[[\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}\p{scx=Myanmar}\p{scx=Tibetan}\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}"
    r"\p{scx=Bopomofo}\p{scx=Yi}\p{scx=Tai_Le}\p{scx=New_Tai_Lue}\p{scx=Tai_Tham}\p{scx=Tai_Viet}\p{scx=Javanese}"
    r"\p{scx=Balinese}]&&[\p{L}\p{M}]]"
)

# pysbd takes time quadratic in the text's length (8 s for 80,000 characters), so lines are split into blocks first.
_BLOCK = 500

# Sentence-final punctuation that pysbd does not support in all languages; ። is often typed as ፡፡.
_FULL_STOP = re.compile("(?<=[።፧፨।॥།။។۔。！？])(?![።፧፨।॥།။።۔。！？])|(?<=፡፡)")
_SENTENCE_END = re.compile(r"[.!?።፧।॥။។۔。！？]+\s|፡፡|[።။។。！？]")
_SPOKEN = re.compile(r"\w")
# Text up to a possible break: whitespace, the Ethiopic wordspace, or a zero-width space.
_WORD = re.compile("[^\\s፡\u200b]*[\\s፡\u200b]+|[^\\s፡\u200b]+")

# Ends of sentences, with the quotation marks and brackets that they close. Unicode counts the Burmese comma (U+104A)
# among them, but not the ends of Tibetan and Thai sentences. Marks of the first kind need a space after them.
_SPACED_STOPS = r"(?P<spaced>[ \u00a0\u202f]?[.!?…‼⁇⁈⁉{extra}]+)"
_STOPS = r"(?P<unspaced>[[\p{Sentence_Terminal}།༎༏༐༑๚๛]--[.!?‼⁇⁈⁉၊]]+[.!?…]*|፡፡)"
_CLOSERS = r"(?:[\p{Pe}\p{Pf}\"']|(?:[“‘«‹]|[ \u00a0\u202f][\p{Pe}\p{Pf}])(?=\s|$))*"
# An end is no end if the sentence goes on in lowercase. Georgian letters are lowercase by definition.
_CONTINUED = regex.compile(r"\s*[\p{Ps}\p{Pi}\p{Pd}\"']*\s*(?!\p{Georgian})\p{Ll}")
# In Thai and Lao, a space ends a phrase or a sentence, unless the repetition sign follows.
_SPACE = (
    r"(?<=[[\p{Thai}\p{Lao}]&&[\p{L}\p{M}]])(?P<space>)[ \u00a0\u3000\n]+(?=[[\p{Thai}\p{Lao}]&&[\p{L}\p{M}]--[ๆໆ]])"
)
_PARAGRAPHS = regex.compile(r"\s*\n\s*\n\s*|\s*[\f\x1d\x85\u2028\u2029]\s*")
_LINES = regex.compile(r"[\n\f\x1d\x85\u2028\u2029]")
#: Number of characters that pysbd sees at a time, and the longest sentence for which they are increased.
_WINDOW, _LONGEST_WINDOW = 500, 4000
# pysbd's rules for these languages ignore full stops, which are common in them as well.
_WITHOUT_FULL_STOP = frozenset({"am", "hi", "hy", "my", "ur"})


def sentence_ends(text: str, language: str) -> list[int]:
    """Return the offset after each sentence's last character, which may be a quotation mark or a bracket.

    Sentences end at the sentence-final punctuation of any script. After a full stop, pysbd decides whether it ends an
    abbreviation. In Thai and Lao, which have no full stop, sentences end at spaces. The end of a paragraph (a blank
    line) ends a sentence, and so does the end of a line, unless most lines end within a sentence.

    >>> sentence_ends("Mr. Smith left. He ran", "en")
    [15, 22]

    Args:
        text: Text of any length, with line breaks normalized to line feeds.
        language: Code of the language.
    """
    code = language.split("-")[0]
    stops = _stops(code)
    paragraphs = list(_spans(text, _PARAGRAPHS))
    if not _is_wrapped(text, paragraphs, stops):
        paragraphs = list(_spans(text, _LINES))
    return [start + end for start, last in paragraphs for end in _ends_within(text[start:last], code, stops)]


def _spans(text: str, separator: regex.Pattern[str], offset: int = 0) -> Iterator[tuple[int, int]]:
    """Yield start and end, plus an offset, of the parts between separators, without the spaces around them."""
    start = 0
    for end, following in [*(match.span() for match in separator.finditer(text)), (len(text), len(text))]:
        part = text[start:end]
        if stripped := part.strip():
            first = start + part.index(stripped[0])
            yield offset + first, offset + first + len(stripped)
        start = following


@lru_cache(maxsize=8)
def _stops(code: str) -> regex.Pattern[str]:
    # In Greek, a semicolon is the question mark. In Armenian, a colon is often typed for the full stop.
    extra = {"el": ";", "ell": ";", "grc": ";", "hy": ":՞", "hye": ":՞", "hyw": ":՞"}.get(code, "")
    spaced = _SPACED_STOPS.replace("{extra}", extra)
    return regex.compile(rf"(?V1)(?:{spaced}{_CLOSERS}(?=\s|$|{UNSPACED})|{_STOPS}{_CLOSERS}|{_SPACE})")


def _is_wrapped(text: str, paragraphs: list[tuple[int, int]], stops: regex.Pattern[str]) -> bool:
    """Return whether lines are broken to fit a width: within paragraphs, most line breaks are within sentences."""
    breaks = [last for start, end in paragraphs for _, last in _spans(text[start:end], _LINES, start)]
    inner = set(breaks).difference(end for _, end in paragraphs)
    if not inner:
        return False
    ends = {match.end() for match in stops.finditer(text) if match["space"] is None}
    return not ends.issubset(breaks) and 2 * len(inner & ends) < len(inner)


def _ends_within(text: str, code: str, stops: regex.Pattern[str]) -> Iterator[int]:
    """Yield the ends of sentences in a text without paragraphs. The last one is the end of the text."""
    full_stops: set[int] | None = None
    for match in stops.finditer(text):
        end = match.end() if match["space"] is None else match.start("space")
        if end == len(text):
            break
        if match["spaced"] is not None:
            if _CONTINUED.match(text, match.end()):
                continue
            if match["spaced"].strip() == ".":
                full_stops = _pysbd_ends(text, code) if full_stops is None else full_stops
                if full_stops.isdisjoint(range(match.end("spaced"), match.end() + 1)):
                    continue
        yield end
    yield len(text)


def _pysbd_ends(text: str, code: str) -> set[int]:
    """Return where sentences end according to pysbd, which sees a window of the text at a time."""
    segmenter = _segmenter("en" if code in _WITHOUT_FULL_STOP else code, char_span=True)
    text = text.replace("\n", " ")
    ends: set[int] = set()
    start, size = 0, _WINDOW
    while start < len(text):
        window = text[start : start + size]
        spans = segmenter.segment(window)
        is_last = start + size >= len(text)
        # The window may have cut the last sentence.
        decided = spans if is_last else spans[:-1]
        ends.update(start + span.start + len(span.sent.rstrip()) for span in decided)
        if is_last:
            break
        if decided:
            start, size = start + decided[-1].end, _WINDOW
        elif size < _LONGEST_WINDOW:
            size *= 2
        else:
            start, size = start + size, _WINDOW
    return ends


def split_sentences(text: str, language: str, limit: int) -> list[str]:
    """Split a text into sentences, none of which is empty or longer than the limit.

    Sentences are split by pysbd's rules (the English rules for languages that it does not support), and at the
    sentence-final punctuation in other scripts. A sentence that is too long is wrapped at spaces. A word that is too
    long is split, but not between a letter and its combining marks.

    >>> split_sentences("ሰላም ነው። ደህና ነህ፧ አዎ!", "am", 130)
    ['ሰላም ነው።', 'ደህና ነህ፧', 'አዎ!']

    Args:
        text: Text of any length.
        language: Code of the language.
        limit: Maximum length of a sentence, in characters.

    Raises:
        LanguageError: The limit is below 1.
    """
    if limit < 1:
        raise LanguageError(f"Sentences cannot be split at {limit} characters; expected a limit of 1 or more.")
    segmenter = _segmenter(language.split("-")[0])
    pieces: list[str] = []
    for line in text.splitlines():
        for block in _blocks(line, max(_BLOCK, 2 * limit)):
            for sentence in segmenter.segment(block):
                for part in _FULL_STOP.split(sentence):
                    for piece in _wrap(part.strip(), limit):
                        # If a sentence is only punctuation, the model makes up a sound for it.
                        if pieces and not _SPOKEN.search(piece) and len(pieces[-1] + piece) <= limit:
                            pieces[-1] += piece
                        else:
                            pieces.append(piece)
    return pieces


@lru_cache(maxsize=32)
def _segmenter(code: str, char_span: bool = False) -> pysbd.Segmenter:
    return pysbd.Segmenter(language=code if code in LANGUAGE_CODES else "en", clean=False, char_span=char_span)


def _blocks(line: str, size: int) -> list[str]:
    blocks = []
    while len(line) > size:
        ends = [match.end() for match in _SENTENCE_END.finditer(line, 0, size)]
        end = ends[-1] if ends else line.rfind(" ", 0, size) + 1 or size
        blocks.append(line[:end])
        line = line[end:]
    return [*blocks, line] if line.strip() else blocks


def _wrap(sentence: str, limit: int) -> list[str]:
    lines, line = [], ""
    for word in _WORD.findall(sentence):
        if len((line + word).rstrip()) > limit:
            lines.append(line.strip())
            line = ""
        while len(word.rstrip()) > limit:
            end = _break_position(word, limit)
            lines.append(word[:end])
            word = word[end:]
        line += word
    return [piece for piece in [*lines, line.strip()] if piece]


def _break_position(word: str, limit: int) -> int:
    """Return the last index up to `limit` that does not split a letter from its marks, or `limit` if there is none."""
    index = limit
    while index and unicodedata.category(word[index])[0] == "M":
        index -= 1
    return index or limit
