"""Files of rows become cells: tables separated by commas, semicolons, tabs and pipes, and JSON."""

from __future__ import annotations

import codecs
import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from xtts_extend.data.columns import has_suffix, is_header, is_known_name, known_roles, same_header
from xtts_extend.errors import DataError

logger = logging.getLogger("trainer")
Lines: TypeAlias = list[tuple[int, str]]

#: The first that fits is taken. A comma or a semicolon may also stand in a text.
SEPARATORS = "|\t;,"
_QUOTED = ";,"
# Office's documents and zip, its older ones, PDF, and archives: gzip, bzip2, xz, zstd, 7z, rar.
_NO_TEXT = (
    b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF-",
    b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd", b"7z\xbc\xaf", b"Rar!",
)  # fmt: skip
#: A first line by which Excel is told the separator; Excel itself fills it up with separators.
_SEP = re.compile(r'\s*"?sep=([^\w\s"]|\t)"?[\s,;|]*', re.IGNORECASE)
#: How many lines of titles and comments may stand above a table.
_TITLES = 20
_MAY_BE_QUOTED = ("commas", "semicolons")
_NAMES = {"|": "|", "\t": "tabs", ";": "semicolons", ",": "commas"}


@dataclass(frozen=True)
class Table:
    """The cells of a text table, without blank rows and repeated headers.

    Attributes:
        header: its column names, or None where there is none.
        cells: strings; the index is the line in the file, from 1, the columns are numbered from 0.
    """

    header: list[str] | None
    cells: pd.DataFrame


def read_text(path: Path, content: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 and UTF-32 as they are recognised without a doubt.

    Raises DataError, which names the byte, for any other encoding.
    """
    if content.startswith(_NO_TEXT):
        raise DataError(
            f"{path} is a document, a spreadsheet or an archive. Unpack it, or save it as plain text or CSV UTF-8 from "
            "its program."
        )
    encoding = "utf-8"
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif 0 in content[:200]:
        # every other byte of Latin letters is 0
        even, odd = content[:200:2], content[1:200:2]
        if not even.count(0) and odd.count(0) > len(odd) // 4:
            encoding = "utf-16-le"
        elif not odd.count(0) and even.count(0) > len(even) // 4:
            encoding = "utf-16-be"
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {encoding.upper()}: byte {error.start} (line {content.count(10, 0, error.start) + 1}) is "
            f"0x{content[error.start]:02x}. Save it as UTF-8 (spreadsheets call it CSV UTF-8), or convert it, for "
            "example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
        ) from error


def split_lines(text: str) -> Lines:
    """The lines that are not blank, with their numbers from 1; only a line feed ends one, in its absence a return."""
    end = "\n" if "\n" in text else "\r"
    # files that were joined have a byte order mark in the middle
    numbered = ((number, line.lstrip("\ufeff")) for number, line in enumerate(text.split(end), start=1))
    return [(number, line.removesuffix("\r")) for number, line in numbered if line.strip()]


def split_line(line: str, separator: str) -> list[str]:
    """What is between the separators of a line, for a look at it: those inside of quotation marks count too."""
    return [cell.strip('" ') for cell in line.split(separator)]


def is_json(path: Path, text: str) -> bool:
    """Whether a file holds JSON lines, an array of objects, or says so by its name."""
    return re.match(r"\s*(\{|\[\s*[{\]])", text) is not None or path.suffix.lower() in (".json", ".jsonl", ".ndjson")


def read_objects(path: Path, text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The objects of JSON lines, of an array, or of the one array in an object: number, place in words, object.

    Raises DataError: something in it is no object, or not JSON.
    """
    lines = split_lines(text)
    first = lines[0][1].strip() if lines else ""
    if first.startswith("[") or len(lines) == 1 or not first.endswith("}"):
        try:
            whole = json.loads(text)
        except ValueError as error:
            if first.startswith("["):
                raise DataError(f"{path} is not JSON: {error}. Expected an array of objects.") from error
        else:
            parts = [part for part in whole.values() if _is_array(part)] if isinstance(whole, dict) else [whole]
            if len(parts) == 1 and isinstance(parts[0], list):
                for number, entry in enumerate(parts[0], start=1):
                    where = f"{path}, entry {number}"
                    yield number, where, _object(where, entry)
                return
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {error}. Expected one object per line.") from error
        yield number, where, _object(where, entry)


def _is_array(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(entry, dict) for entry in part)


def _object(where: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is a JSON {type(entry).__name__}. Expected an object with a recording and its text.")
    return entry


def read_table(path: Path, text: str, columns: Mapping[str, str], separator: str | None = None) -> Table | None:
    """The cells of a table; None when its first line has no separator, or the file is blank.

    A comma or semicolon table is quoted as CSV is. In the others a quotation mark is a character like any other, unless
    every field is enclosed in them.

    Args:
        path: for messages.
        text: of the file.
        columns: what the user says, which may name a header that nobody else has.
        separator: what stands between the columns, if that is known.

    Raises:
        DataError: rows have another number of columns, a quotation mark is not closed, or a second header differs.
    """
    said, above, lines = table_lines(text, columns)
    if above:
        titles = ", ".join(f"{number} ({line.strip()[:40]!r})" for number, line in above)
        logger.warning(" ! %s: what stands above the table is left out: line %s", path, titles)
    separator = said or separator or _separator(lines, columns)
    if separator is None or not lines:
        return None
    quoted = _is_quoted(lines, separator)
    numbers, cells = _rectangle(path, _rows(path, lines, separator, quoted), _NAMES.get(separator, separator))
    first = cells.iloc[0].tolist()
    header = first if is_header(first, columns) else None
    if header is not None:
        cells, numbers = cells[1:], numbers[1:]
    cells.index = pd.Index(numbers)
    return Table(header, _without_headers(path, _without_blanks(path, cells), header))


def table_lines(text: str, columns: Mapping[str, str]) -> tuple[str | None, Lines, Lines]:
    """The separator that a first line names, the titles and comments above a table, and its lines; none is blank."""
    lines = split_lines(text)
    said = _SEP.fullmatch(lines[0][1]) if lines else None
    lines = lines[1:] if said else lines
    begin = _begin(lines[:_TITLES], columns)
    return said[1] if said else None, lines[:begin], lines[begin:]


def _begin(lines: Lines, columns: Mapping[str, str]) -> int:
    """The place of a header that only titles stand above: in fewer cells, none a recording; else how many comments."""
    rows = {separator: [split_line(line, separator) for _, line in lines] for separator in SEPARATORS}
    for place in range(len(lines)):
        for cells in rows.values():
            sure = bool(columns) or {"audio", "text"} <= known_roles(cells[place])
            if is_header(cells[place], columns) and (sure or not place):
                filled = [[cell for cell in row if cell] for row in cells[:place]]
                if all(_is_comment(row) or len(row) < len(cells[place]) for row in filled) and not _has_recording(
                    filled
                ):
                    return place
    comments = next((place for place, (_, line) in enumerate(lines) if not line.lstrip().startswith("#")), 0)
    return 0 if any(_has_recording(cells[:comments]) for cells in rows.values()) else comments


def _is_comment(row: Sequence[str]) -> bool:
    return bool(row) and row[0].startswith("#")


def _has_recording(rows: Iterable[Sequence[str]]) -> bool:
    return any(has_suffix(cell) for row in rows for cell in row)


def _separator(lines: Lines, columns: Mapping[str, str]) -> str | None:
    """Between the names of a header; else what each line has as often, above all after a recording's name.

    Pipes and tabs that each line has are separators even if a text holds another one, which is then named.
    """
    if not lines:
        return None
    first = lines[0][1]
    there = [separator for separator in SEPARATORS if separator in first]
    for separator in there:
        if is_header(split_line(first, separator), columns):
            return separator
    even = []
    for separator in there:
        plain = (re.sub('"[^"]*"', "", line) if separator in _QUOTED else line for _, line in lines)
        counts = {line.count(separator) for line in plain}
        if len(counts) == 1 or (separator not in _QUOTED and 0 not in counts):
            even.append(separator)
    # a cell that ends as a recording does is the name of one, and not a text and a name
    even.sort(
        key=lambda separator: min(
            len(cell) if has_suffix(cell) else len(first) for cell in split_line(first, separator)
        )
    )
    return next(iter([*even, *there]), None)


def _is_quoted(lines: Lines, separator: str) -> bool:
    """Whether quotation marks enclose fields: of pipes and tabs all, but for the header, numbers and empty ones."""
    if separator in _QUOTED:
        return any('"' in line for _, line in lines)
    body = lines[1:] if not lines[0][1].lstrip().startswith('"') else lines
    field = r' *(?:"(?:[^"]|"")*"|[-+]?[\d.]+(?:[eE][-+]?\d+)?|) *'
    row = re.compile(f"{field}(?:{re.escape(separator)}{field})*")
    pending = ""
    for _, line in body:
        pending += line
        # a field may go over several lines
        if pending.count('"') % 2:
            pending += "\n"
        elif '"' not in pending or not row.fullmatch(pending):
            return False
        else:
            pending = ""
    return bool(body) and not pending


def _rows(path: Path, lines: Lines, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, with the line that it begins in."""
    if not quoted:
        yield from ((number, line.split(separator)) for number, line in lines)
        return
    # some programs write a backslash before a quotation mark, in the place of a second one
    lines = [(number, re.sub(r'\\"(?=[^,;])', '""', line) if '\\"' in line else line) for number, line in lines]
    # beside the spaces after separators, quotation marks count as those of a field
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=separator, skipinitialspace=True)
    begin = 0
    try:
        for row in reader:
            several = reader.line_num - begin > 1
            if several or reader.line_num == len(lines):
                _require_balance(path, lines[begin : reader.line_num], separator, several)
            yield lines[begin][0], row
            begin = reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}, line {lines[begin][0]}: {error}. Expected fields as CSV quotes them.") from error


def _require_balance(path: Path, lines: Lines, separator: str, several: bool) -> None:
    """Raises DataError when a row of several lines, or the last one, comes of a quotation mark that nothing closes."""
    texts = [line + "\n" for _, line in lines]
    try:
        rows = list(csv.reader(texts, delimiter=separator, skipinitialspace=True, strict=True))
        # a recording that a text has taken in
        written = sum(has_suffix(cell) for _, line in lines for cell in split_line(line, separator))
        swallowed = written > sum(has_suffix(cell) for row in rows for cell in row)
    except csv.Error:
        swallowed = True
    if swallowed and (several or lines[0][1].count('"') % 2):
        raise DataError(
            f"{path}: a quotation mark that opens in line {lines[0][0]} is not closed there, and would make one row "
            f"of the lines {lines[0][0]} to {lines[-1][0]}. Close it; inside a quoted field, write it twice."
        )


def _rectangle(path: Path, rows: Iterable[tuple[int, list[str]]], separator: str) -> tuple[list[int], pd.DataFrame]:
    """All rows with as many cells as the first; blank ones at the end, as spreadsheets leave them, do not count."""
    flat: list[str] = []
    numbers: list[int] = []
    wrong: list[tuple[int, int]] = []
    width = least = 0
    for number, row in rows:
        if not numbers:
            width, least = len(row), len(row) - _trailing_blanks(row)
        if len(row) != width:
            row = row[: len(row) - _trailing_blanks(row)] if len(row) > width else row
            if not least <= len(row) <= width:
                wrong.append((number, len(row)))
            row = row + [""] * (width - len(row))
        numbers.append(number)
        flat += row[:width]
    if wrong:
        hint = " Put a text that holds the separator in quotation marks." if separator in _MAY_BE_QUOTED else ""
        if separator in "|tabs":
            hint = f" Take {separator} out of the texts, or enclose every field of the file in quotation marks."
        usual, count = Counter(length for _, length in wrong).most_common(1)[0]
        if width > usual and count > len(numbers) // 2:
            raise DataError(
                f"{path}: line {numbers[0]} has {width} columns separated by {separator}, but {count} of the other "
                f"{len(numbers) - 1} lines have {usual}.{hint}"
            )
        lines = ", ".join(f"line {number} has {length}" for number, length in wrong[:10])
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise DataError(f"{path}: expected {width} columns separated by {separator}, but {lines}{more}.{hint}")
    return numbers, pd.DataFrame({place: pd.Series(flat[place::width], dtype=object) for place in range(width)})


def _trailing_blanks(row: Sequence[str]) -> int:
    """How many cells at a row's end are blank."""
    return next((count for count, cell in enumerate(reversed(row)) if cell.strip()), len(row))


def _without_blanks(path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """Without rows that have nothing in them."""
    filled = pd.Series(False, index=cells.index)
    for place in cells.columns:
        filled |= cells[place].str.strip() != ""
    if not filled.all():
        first = cells.index[~filled][0]
        count = (~filled).sum()
        logger.warning(" ! %s: rows without any content are left out: %d, from line %d on", path, count, first)
    return cells[filled]


def _without_headers(path: Path, cells: pd.DataFrame, header: list[str] | None) -> pd.DataFrame:
    """Without the headers that joined files have inside; raises DataError for one that differs."""
    known = [place for place, name in enumerate(header or [""]) if header is None or is_known_name(name)]
    if not known:
        return cells
    column = zip(cells.index, cells[known[0]].tolist(), strict=True)
    repeated = []
    for line in [line for line, cell in column if len(cell) < 40 and "." not in cell and is_known_name(cell)]:
        row = cells.loc[line].tolist()
        if header is not None and same_header(row, header):
            repeated.append(line)
        elif is_header(row, {}) and all(is_known_name(cell) for cell in row if cell.strip()):
            raise DataError(
                f"{path}, line {line} is a header again, {'|'.join(row)!r}, and not the one of the first line. Put the "
                "rows below it in a file of their own, and give both as manifests."
            )
    if repeated:
        lines = ", ".join(map(str, repeated))
        logger.warning(" ! %s: the header stands again in line %s, which is left out", path, lines)
    return cells.drop(index=repeated)
