"""Recognize text files without recordings: plain text, text with ids, and formats with timestamps or markup."""

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

#: Number of lines that are read to detect the format of a file.
_SAMPLE_LINES = 1000
#: Formats that are detected by a pattern at the beginning of the file.
_FILE_PATTERNS = {
    r"WEBVTT\b": "WebVTT subtitles",
    r"\[Script Info\]|Dialogue: \d": "ASS or SSA subtitles",
    r"\{\d+\}\{\d+\}": "MicroDVD subtitles",
    r"<\?xml|<!--|<!doctype|<(?:html|head|body|tmx|tei|doc|corpus|tt)\b[^<>]*>": "XML or HTML",
    r"\{\\rtf": "an RTF document",
    r"\\documentclass": "LaTeX",
    r'File type = "ooTextFile': "a Praat TextGrid",
    r"@(?:UTF8|Begin)\s": "a CHAT transcript",
}
#: Formats that are detected by a pattern at the beginning of any line.
_LINE_PATTERNS = {
    r"(?:\d+:)?\d\d?:\d\d[,.]\d{1,3} *--> *(?:\d+:)?\d\d?:\d\d[,.]\d": "SRT or WebVTT subtitles",
    r"\d+:\d\d:\d\d\.\d+,\d+:\d\d:\d\d\.\d+\s*$": "SBV subtitles",
    r'msgid "': "a translation catalog (PO)",
}
#: Formats that are detected by a pattern at the beginning of most lines.
_MAJORITY_PATTERNS = {
    r"\s*\[\d+:\d\d(?:[.:]\d+)?\]": "LRC lyrics, or a transcript with time codes",
    r"\s*</?[a-zA-Z][^<>]*>": "XML or HTML",
    r"\S+ +(?:\S+ +){1,2}\d+\.\d+ +\d+\.\d+ +\S": "an STM or CTM transcript",
}
_FESTIVAL = re.compile(r'\s*\(\s*\S+\s+"(.*)"\s*\)\s*')
_ID = re.compile(r"[\w.:/#@+()-]*\d[\w.:/#@+()-]*")


def require_text(path: Path, text: str) -> None:
    """Raise DataError for subtitles, XML and other formats that contain more than text.

    Args:
        path: Path of the file, for messages.
        text: Text of the file.
    """
    start = text.lstrip()[:200]
    lines = [line for line in text[:100_000].splitlines() if line.strip()]
    formats = [name for pattern, name in _FILE_PATTERNS.items() if re.match(pattern, start, re.IGNORECASE)]
    formats += [
        name for pattern, name in _LINE_PATTERNS.items() if any(re.match(pattern, line.strip()) for line in lines)
    ]
    formats += [
        name
        for pattern, name in _MAJORITY_PATTERNS.items()
        if lines and 2 * sum(bool(re.match(pattern, line)) for line in lines) > len(lines)
    ]
    if formats:
        raise DataError(
            f"{path} looks like {formats[0]}. It contains more than just sentences, and the model would learn the rest "
            "as if it were spoken. Expected plain text with one or more sentences per line, a table with a text "
            "column, or JSON lines with a text key. Save only the text, without numbers, timestamps or tags."
        )


def strip_ids_and_json(path: Path, text: str) -> list[str] | None:
    """Return the texts in a file of JSON strings, Festival lines or lines with ids, or None for any other file.

    JSON strings can be in an array or one per line.

    Args:
        path: File to read.
        text: Text of the file.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    readers = {
        "JSON strings": _json_strings,
        'Festival lines of the form ( id "text" )': _festival_texts,
        "the text after the id on each line, as in Kaldi's text file": _texts_after_ids,
    }
    for name, read in readers.items():
        if (texts := read(path, lines)) is not None:
            logger.info(" > %s: Reading %s.", path, name)
            return texts
    return None


def _json_strings(path: Path, lines: Sequence[str]) -> list[str] | None:
    if not lines or lines[0][0] not in '["':
        return None
    for content in ("\n".join(lines), f"[{','.join(lines)}]"):
        try:
            values = json.loads(content)
        except ValueError:
            continue
        # Direct speech in a novel is also in quotation marks.
        has_json_suffix = path.suffix.lower() in (".json", ".jsonl", ".ndjson")
        if not isinstance(values, list) or not (
            has_json_suffix or lines[0][0] == "[" or any("\\" in line for line in lines)
        ):
            return None
        if any(isinstance(value, list) for value in values):
            raise DataError(f"{path} contains JSON arrays as rows. Expected strings, or objects with a text key.")
        return values if all(isinstance(value, str) for value in values) else None
    return None


def _festival_texts(path: Path, lines: Sequence[str]) -> list[str] | None:
    if not lines or not _FESTIVAL.fullmatch(lines[0]):
        return None
    matches = [_FESTIVAL.fullmatch(line) for line in lines]
    texts = [match[1].replace('\\"', '"') for match in matches if match]
    return texts if len(texts) == len(lines) else None


def _texts_after_ids(path: Path, lines: Sequence[str]) -> list[str] | None:
    # A colon may end an id, but not if it is in a time such as 00:12.
    for end in (r"(?<=\w)(?<!\b\d\d)(?<!\b\d): *", " +"):
        head = [re.split(end, line, maxsplit=1) for line in lines[:_SAMPLE_LINES]]
        if len(head) < 2 or max(map(len, head)) < 2 or not _are_certainly_ids([cells[0].strip('"') for cells in head]):
            continue
        split = [re.split(end, line, maxsplit=1) for line in lines]
        for cells in split:
            if not (_ID.fullmatch(cells[0]) or has_suffix(cells[0].strip('"'))):
                raise DataError(
                    f"{path}: Most lines begin with an id, but {' '.join(cells)[:60]!r} does not. Add the missing id, "
                    "or remove all ids."
                )
        return [cells[1] if len(cells) > 1 else "" for cells in split]
    return None


def _are_certainly_ids(ids: Sequence[str]) -> bool:
    """Return whether the first words of the lines are certainly ids, not numbers or names in a text."""
    if _almost_all(sum(map(has_suffix, ids)), ids):
        return True
    if not _are_ids(ids):
        return False
    ids = [name.rstrip(".:)") for name in ids]
    if all(name.isdecimal() for name in ids):
        # The years in a chronicle are not ids.
        consecutive = [int(name) for name in ids] == list(range(int(ids[0]), int(ids[0]) + len(ids)))
        return len(ids) > 2 and (consecutive or (ids[0].startswith("0") and len({*map(len, ids)}) == 1))
    return len(ids) > 4 or all(re.search(r"\w[-_]\w", name) for name in ids)


def _are_ids(cells: Sequence[str]) -> bool:
    """Return whether almost all cells are unique and look like ids, with at least one digit and no spaces."""
    return _almost_all(sum(bool(_ID.fullmatch(cell)) for cell in cells), cells) and _almost_all(len({*cells}), cells)


def _almost_all(count: int, items: Sequence[object]) -> bool:
    """Return whether a count is at least 95% of the items (all of them if there are fewer than 20)."""
    return count >= 0.95 * len(items)


def is_table(path: Path, text: str) -> bool:
    """Return whether a text file is a table, that is, whether it has a header or a column of recordings or ids.

    Args:
        path: File to read.
        text: Text of the file.

    Raises:
        DataError: It is a table, but its text column is unknown.
    """
    declared, preamble, all_lines = table_lines(text, {})
    lines = all_lines[:_SAMPLE_LINES]
    for separator in declared or SEPARATORS:
        rows = _split_rows(lines, separator, truncated=len(lines) < len(all_lines))
        if not rows or len(rows[0]) < 2 or (len(rows) > 1 and len(rows[1]) < 2):
            continue
        roles = known_roles(rows[0]) if is_header(rows[0], {}) else set()
        if {"audio", "text"} <= roles and (len(rows) > 1 or not preamble):
            return True
        split = [row for row in rows if len(row) > 1]
        if not _almost_all(len(split), rows):
            continue
        rows = split
        is_regular = _almost_all(Counter(map(len, rows)).most_common(1)[0][1], rows)
        if "text" in roles and is_regular and len(rows) > 1:
            return True
        # Rows may differ in length, because a quoted text may contain a comma.
        if any(_almost_all(sum(map(has_suffix, column)), rows) for column in zip(*rows, strict=False)):
            return True
        first = [row[0] for row in rows]
        literal = separator in "|\t"
        if _are_ids(first) and (len(rows) > 1 or (literal and len(first[0]) > 4)):
            return True
        if literal and is_regular and any_exists(first[:100], path):
            return True
        if separator == "\t" and is_regular and len(rows) > 1:
            columns = ", ".join(f"{number} ({cell[:30]!r})" for number, cell in enumerate(rows[0], 1))
            raise DataError(
                f"{path} looks like a table without a header, with the columns {columns}. Specify the text column, "
                f"for example with --columns text={len(rows[0])}. If the whole file is text, replace the tabs with "
                "spaces."
            )
    return False


def _split_rows(lines: Lines, separator: str, *, truncated: bool) -> list[list[str]]:
    """Return the rows of a possible table, without the last one if a quoted field could continue beyond `lines`."""
    stripped = [line.strip(" \t" if separator == "\t" else " ") for _, line in lines]
    if separator in "|\t":
        return [split_line(line, separator) for line in stripped]
    try:
        rows = list(csv.reader((line + "\n" for line in stripped), delimiter=separator, skipinitialspace=True))
    except csv.Error:
        return []
    return rows[:-1] if truncated else rows
