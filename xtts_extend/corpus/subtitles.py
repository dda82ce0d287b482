"""Read subtitles, without what is not spoken, and split them into words that remember when they were shown."""

from __future__ import annotations

import html
import logging
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import ParseError

import pysubs2
import regex

from xtts_extend.corpus.transcript import read_text_file
from xtts_extend.corpus.words import Word, locate_words, normalize
from xtts_extend.data.unspoken import without_directions
from xtts_extend.errors import DataError

logger = logging.getLogger("trainer")

#: A pause between subtitles, in seconds, that ends a sentence.
_PAUSE_S = 2.0
#: Time between the captions of a rolling text, in seconds, and the smallest share of captions that repeat text.
_ROLLING_GAP_S, _ROLLING_SHARE = 0.5, 0.4

_TAG = re.compile(r"<[^<>]*>")
_BRACKETS = re.compile(r"\[[^\]]*\]|［[^］]*］|【[^】]*】|\{[^}]*\}", re.DOTALL)
# In subtitles, parentheses around a whole line contain a sound, and a line with notes is sung.
_PARENTHESES = r"[-–—]?\s*[(（][^()（）]*[)）]"
_UNSPOKEN = re.compile(rf"{_PARENTHESES}|[-–—]?\s*[♩♪♫♬].*|.*[♩♪♫♬]")
_UNSPOKEN_CUE = re.compile(rf"{_PARENTHESES}|[♩♪♫♬].*[♩♪♫♬]", re.DOTALL)
_LETTER = regex.compile(r"[\p{L}\p{N}]")
# What stands before a speaker's words: a dash, ">>", a name in capitals, or any name after ">>".
_NAME = r"[\p{L}\p{M}\p{N}. '’-]{0,30}:\s+"
_LEAD = regex.compile(
    rf"\s*(?:>>+\s*(?:\p{{Lu}}{_NAME})?|(?:\p{{Pd}}+(?!\d)\s*)?(?:\p{{Lu}}(?=[^:\p{{Ll}}]+:){_NAME})?)"
)
_CJK_END = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}，。！？、」』…]")
_CJK_START = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}「『]")
_TTML = "http://www.w3.org/ns/ttml"


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: start and end in seconds, and its text on one line."""

    start_s: float
    end_s: float
    text: str


def read_cues(path: Path, language: str) -> list[Cue]:
    """Return the spoken text of subtitles in the order of their start times.

    Sounds, speaker names, songs, styles, comments and drawings are removed. Captions that repeat the lines before them
    (rolling captions) are reduced to what is new.

    Args:
        path: File in a format that pysubs2 reads, such as SRT, WebVTT, ASS, SSA, TTML, SAMI, MicroDVD and MPL2. The
            format is detected from its contents.
        language: Code of the language.

    Raises:
        DataError: The file cannot be read, has an unknown format, is damaged, or has no spoken text.
    """
    events = sorted(_parse(path, read_text_file(path, language)), key=lambda event: (event.start, event.end))
    # Subtitles with shadows are drawn twice. Dictionaries keep the first of equal keys.
    shown = dict.fromkeys(
        Cue(event.start / 1000, max(event.start, event.end) / 1000, _spoken_lines(event.plaintext)) for event in events
    )
    cues = [cue for cue in shown if cue.text]
    if not cues:
        raise DataError(
            f"{path} has no spoken text; number of subtitles, all without speech: {len(shown)}. Expected the text of "
            "the recording with its times."
        )
    if len(shown) > len(cues):
        unspoken = f"{len(shown) - len(cues):,}"
        logger.info(" > %s: Skipped subtitles without speech, such as [music]: %s.", path, unspoken)
    if _is_rolling(cues):
        logger.info(" > %s: Captions repeat the lines before them. Each line is read once.", path)
        cues = list(_unroll(cues))
    return [replace(cue, text=" ".join(cue.text.split())) for cue in cues]


def words_of_cues(cues: Sequence[Cue], language: str) -> list[Word]:
    """Return the words of subtitles, each with the times of its subtitle. Sentences may extend over several subtitles.

    Args:
        cues: Subtitles, sorted by time.
        language: Code of the language.
    """
    text, starts = "", []
    for index, cue in enumerate(cues):
        piece = normalize(cue.text).replace("\n", " ")
        if index and cue.start_s - cues[index - 1].end_s >= _PAUSE_S:
            text += "\n\n"
        elif index and not (_CJK_END.match(text[-1:]) and _CJK_START.match(piece)):
            text += " "
        starts.append(len(text))
        text += piece
    words = []
    for offset, word in locate_words(text, language):
        cue = cues[bisect_right(starts, offset) - 1]
        words.append(replace(word, cue=(cue.start_s, cue.end_s)))
    return words


def _parse(path: Path, text: str) -> list[pysubs2.SSAEvent]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        subtitles = pysubs2.SSAFile.from_string(_without_pitfalls(text))
    except pysubs2.exceptions.UnknownFPSError:
        raise DataError(
            f"{path} counts frames but does not say how many there are per second. Add a first line such as "
            "{1}{1}25, or convert the file to SRT."
        ) from None
    except pysubs2.exceptions.FormatAutodetectionError as error:
        found = f"could be any of {', '.join(sorted(error.formats))}" if error.formats else "has an unknown format"
        raise DataError(
            f"{path} {found}. Expected subtitles as SRT, WebVTT, ASS, SSA or TTML. If it is a text without times, name "
            "it .txt."
        ) from None
    except (ParseError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged, or uses times that are not supported: {error}. Convert it to SRT with a subtitle "
            "editor."
        ) from error
    return [event for event in subtitles if event.is_text]


def _without_pitfalls(text: str) -> str:
    """Return subtitles in a form that pysubs2 reads without losing or adding text."""
    if text.lstrip().startswith("WEBVTT"):
        # pysubs2 takes names of cues and comments for text, a number at the end of a text for a name, and a line with
        # the times of its words for the beginning of a cue.
        text = re.sub(r"<[\d:.]+>", "", text)
        blocks = [block for block in re.split(r"\n{2,}", text) if "-->" in block]
        starts = [block.rfind("\n", 0, block.index("-->")) + 1 for block in blocks]
        return "\n\n0\n".join(["WEBVTT", *(block[start:] for block, start in zip(blocks, starts, strict=True)), ""])
    if "-->" in text:
        # pysubs2 takes a number at the end of the file for the number of another subtitle.
        return text + "\n\n0\n"
    # pysubs2 knows only the final namespace of TTML, and a different name for durations.
    text = re.sub(r"http://www\.w3\.org/2006/(?:04|10)/ttaf1", _TTML, text)
    return re.sub(r"(<p\b[^>]*\s)dur=", r"\1duration=", text) if _TTML in text else text


def _spoken_lines(text: str) -> str:
    """Return what is spoken in a subtitle, keeping its line breaks, or an empty text."""
    text = html.unescape(_TAG.sub("", text))
    text = without_directions(_BRACKETS.sub(" ", text)).strip()
    if _UNSPOKEN_CUE.fullmatch(text):
        return ""
    lines = [
        _LEAD.sub("", line, count=1).strip() for line in text.splitlines() if not _UNSPOKEN.fullmatch(line.strip())
    ]
    return "\n".join(line for line in lines if _LETTER.search(line))


def _is_rolling(cues: Sequence[Cue]) -> bool:
    repeating = sum(_repeated(before, after) > 0 for before, after in pairwise(cues))
    return len(cues) > 2 and repeating >= _ROLLING_SHARE * (len(cues) - 1)


def _unroll(cues: Sequence[Cue]) -> Iterator[Cue]:
    yield cues[0]
    for before, cue in pairwise(cues):
        if new := cue.text.split()[_repeated(before, cue) :]:
            yield replace(cue, text=" ".join(new))


def _repeated(before: Cue, cue: Cue) -> int:
    """Return the number of words at the beginning of a caption that repeat whole lines at the end of the one before."""
    if cue.start_s - before.end_s > _ROLLING_GAP_S:
        return 0
    words, lines = cue.text.split(), before.text.split("\n")
    for first in range(len(lines)):
        repeated = " ".join(lines[first:]).split()
        if words[: len(repeated)] == repeated:
            return len(repeated)
    return 0
