"""Whether a file of text is plain, or has ids, times or tags beside its sentences that nobody speaks."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from xtts_extend.data.columns import has_suffix, is_header, known_roles
from xtts_extend.data.paths import any_exists
from xtts_extend.data.tables import SEPARATORS, Lines, split_line, table_lines
from xtts_extend.errors import DataError

logger = logging.getLogger("trainer")

#: How many lines say what a file is.
_LOOK = 1000
# What stands at the beginning of a file, or of one of its lines, by the format that it gives away.
_BEGINNINGS = {
    r"WEBVTT\b": "WebVTT subtitles",
    r"\[Script Info\]|Dialogue: \d": "ASS or SSA subtitles",
    r"\{\d+\}\{\d+\}": "MicroDVD subtitles",
    r"<\?xml|<!--|<!doctype|<(?:html|head|body|tmx|tei|doc|corpus|tt)\b[^<>]*>": "XML or HTML",
    r"\{\\rtf": "a document in RTF",
    r"\\documentclass": "LaTeX",
    r'File type = "ooTextFile': "a TextGrid of Praat",
    r"@(?:UTF8|Begin)\s": "a CHAT transcript",
}
_LINES = {
    r"(?:\d+:)?\d\d?:\d\d[,.]\d{1,3} *--> *(?:\d+:)?\d\d?:\d\d[,.]\d": "SRT or WebVTT subtitles",
    r"\d+:\d\d:\d\d\.\d+,\d+:\d\d:\d\d\.\d+\s*$": "SBV subtitles",
    r'msgid "': "a catalogue of translations (PO)",
}
# What a format has in most of its lines.
_MOSTLY = {
    r"\s*\[\d+:\d\d(?:[.:]\d+)?\]": "LRC lyrics, or a transcript with time codes",
    r"\s*</?[a-zA-Z][^<>]*>": "XML or HTML",
    r"\S+ +(?:\S+ +){1,2}\d+\.\d+ +\d+\.\d+ +\S": "an STM or CTM transcript",
}
_FESTIVAL = re.compile(r'\s*\(\s*\S+\s+"(.*)"\s*\)\s*')
_ID = re.compile(r"[\w.:/#@+()-]*\d[\w.:/#@+()-]*")


def require_text(path: Path, text: str) -> None:
    """Raises DataError for subtitles, XML and other formats of which only a part is text."""
    start = text.lstrip()[:200]
    lines = [line for line in text[:100_000].splitlines() if line.strip()]
    found = [name for pattern, name in _BEGINNINGS.items() if re.match(pattern, start, re.IGNORECASE)]
    found += [name for pattern, name in _LINES.items() if any(re.match(pattern, line.strip()) for line in lines)]
    found += [
        name
        for pattern, name in _MOSTLY.items()
        if lines and 2 * sum(bool(re.match(pattern, line)) for line in lines) > len(lines)
    ]
    if found:
        raise DataError(
            f"{path} looks like {found[0]}: it has more in it than sentences, which would be learned as words. "
            "Expected plain text, one or more sentences a line, or a table or JSON lines with the texts in a column. "
            "Save its text alone, without numbers, times and tags."
        )


def strip_ids_and_json(path: Path, text: str) -> list[str] | None:
    """The texts of JSON strings, in an array or one a line, and of lines that begin with an id; else None."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ways = {
        "JSON strings": _json_strings,
        'lines of Festival, ( id "text" )': _festival,
        "what follows the id at the beginning of each line, as in Kaldi's file text": _texts_after_ids,
    }
    for name, read in ways.items():
        if (texts := read(path, lines)) is not None:
            logger.info(" > %s: the texts are taken from %s", path, name)
            return texts
    return None


def _json_strings(path: Path, lines: Sequence[str]) -> list[str] | None:
    if not lines or lines[0][0] not in '["':
        return None
    for whole in ("\n".join(lines), f"[{','.join(lines)}]"):
        try:
            values = json.loads(whole)
        except ValueError:
            continue
        # what somebody says in a novel stands between quotation marks as well
        named = path.suffix.lower() in (".json", ".jsonl", ".ndjson")
        if not isinstance(values, list) or not (named or lines[0][0] == "[" or any("\\" in line for line in lines)):
            return None
        if any(isinstance(value, list) for value in values):
            raise DataError(f"{path} holds JSON arrays in a row. Expected strings, or objects with the text in a key.")
        return values if all(isinstance(value, str) for value in values) else None
    return None


def _festival(path: Path, lines: Sequence[str]) -> list[str] | None:
    if not lines or not _FESTIVAL.fullmatch(lines[0]):
        return None
    found = [_FESTIVAL.fullmatch(line) for line in lines]
    texts = [match[1].replace('\\"', '"') for match in found if match]
    return texts if len(texts) == len(lines) else None


def _texts_after_ids(path: Path, lines: Sequence[str]) -> list[str] | None:
    # a time, 00:12, has a colon inside
    for end in (r"(?<=\w)(?<!\b\d\d)(?<!\b\d): *", " +"):
        head = [re.split(end, line, maxsplit=1) for line in lines[:_LOOK]]
        if len(head) < 2 or max(map(len, head)) < 2 or not _name_utterances([cells[0].strip('"') for cells in head]):
            continue
        split = [re.split(end, line, maxsplit=1) for line in lines]
        for cells in split:
            if not (_ID.fullmatch(cells[0]) or has_suffix(cells[0].strip('"'))):
                raise DataError(
                    f"{path}: most lines begin with an id, but not {' '.join(cells)[:60]!r}. Put its id before it, "
                    "or take all ids away."
                )
        return [cells[1] if len(cells) > 1 else "" for cells in split]
    return None


def _name_utterances(ids: Sequence[str]) -> bool:
    """Whether what lines begin with are surely ids, and not the numbers and names of a text."""
    if _almost_all(sum(map(has_suffix, ids)), ids):
        return True
    if not _are_ids(ids):
        return False
    ids = [name.rstrip(".:)") for name in ids]
    if all(name.isdecimal() for name in ids):
        # the years of a chronicle are no ids
        counted = [int(name) for name in ids] == list(range(int(ids[0]), int(ids[0]) + len(ids)))
        return len(ids) > 2 and (counted or (ids[0].startswith("0") and len({*map(len, ids)}) == 1))
    return len(ids) > 4 or all(re.search(r"\w[-_]\w", name) for name in ids)


def _are_ids(cells: Sequence[str]) -> bool:
    """Whether cells name utterances: with a digit, without spaces, each once; but for few that are to be named."""
    return _almost_all(sum(bool(_ID.fullmatch(cell)) for cell in cells), cells) and _almost_all(len({*cells}), cells)


def _almost_all(count: int, of: Sequence[object]) -> bool:
    """Whether a count is 95 % of a list at least: of less than twenty, all."""
    return count >= 0.95 * len(of)


def is_table(path: Path, text: str) -> bool:
    """Whether a file is a table of texts: with a header, or with a column of recordings or of ids.

    Raises DataError: it is a table, and nothing says which of its columns has the texts.
    """
    said, above, all_lines = table_lines(text, {})
    lines = all_lines[:_LOOK]
    for separator in said or SEPARATORS:
        rows = _rows(lines, separator, cut=len(lines) < len(all_lines))
        if not rows or len(rows[0]) < 2 or (len(rows) > 1 and len(rows[1]) < 2):
            continue
        roles = known_roles(rows[0]) if is_header(rows[0], {}) else set()
        if {"audio", "text"} <= roles and (len(rows) > 1 or not above):
            return True
        divided = [row for row in rows if len(row) > 1]
        if not _almost_all(len(divided), rows):
            continue
        rows = divided
        even = _almost_all(Counter(map(len, rows)).most_common(1)[0][1], rows)
        if "text" in roles and even and len(rows) > 1:
            return True
        # a comma may stand in a quoted text as well
        if any(_almost_all(sum(map(has_suffix, column)), rows) for column in zip(*rows, strict=False)):
            return True
        first = [row[0] for row in rows]
        literal = separator in "|\t"
        if _are_ids(first) and (len(rows) > 1 or (literal and len(first[0]) > 4)):
            return True
        if literal and even and any_exists(first[:100], path):
            return True
        if separator == "\t" and even and len(rows) > 1:
            columns = ", ".join(f"{place} ({cell[:30]!r})" for place, cell in enumerate(rows[0], 1))
            raise DataError(
                f"{path} looks like a table without a header, with the columns {columns}. Say which has the texts, for "
                f"example --columns text={len(rows[0])}; if all of it is text, replace the tabs by spaces."
            )
    return False


def _rows(lines: Lines, separator: str, *, cut: bool) -> list[list[str]]:
    """The rows of what could be a table; `cut` says that there are more lines."""
    plain = [line.strip(" \t" if separator == "\t" else " ") for _, line in lines]
    if separator in "|\t":
        return [split_line(line, separator) for line in plain]
    try:
        rows = list(csv.reader((line + "\n" for line in plain), delimiter=separator, skipinitialspace=True))
    except csv.Error:
        return []
    # the last one may be a part of a row
    return rows[:-1] if cut else rows
