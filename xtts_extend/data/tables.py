"""Read JSON files, and text tables separated by commas, semicolons, tabs or pipes."""

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

#: Column separators, in order of preference: commas and semicolons come last, because they also occur in texts.
SEPARATORS = "|\t;,"
_QUOTED = ";,"
#: First bytes of zip (also .docx and .xlsx), older Office files, PDF, gzip, bzip2, xz, zstd, 7z and rar.
_BINARY_FORMATS = (
    b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF-",
    b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd", b"7z\xbc\xaf", b"Rar!",
)  # fmt: skip
#: A first line that tells Excel which separator is used. Excel pads this line with separators.
_SEP = re.compile(r'\s*"?sep=([^\w\s"]|\t)"?[\s,;|]*', re.IGNORECASE)
#: Maximum number of title and comment lines above a table.
_MAX_TITLES = 20
_QUOTED_NAMES = ("commas", "semicolons")
_NAMES = {"|": "|", "\t": "tabs", ";": "semicolons", ",": "commas"}


@dataclass(frozen=True)
class Table:
    """The cells of a text table, without blank rows or repeated headers.

    Attributes:
        header: Column names, or None if there is no header.
        cells: The cells as strings, indexed by line number in the file, starting at 1. The columns are numbered from 0.
    """

    header: list[str] | None
    cells: pd.DataFrame


def read_text(path: Path, content: bytes) -> str:
    """Decode the contents of a file as UTF-8, or as UTF-16 or UTF-32 if detected unambiguously.

    Args:
        path: Path of the file, for messages.
        content: Bytes of the file.

    Raises:
        DataError: The file is binary or in a different encoding. The message names the first invalid byte.
    """
    if content.startswith(_BINARY_FORMATS):
        raise DataError(
            f"{path} is a document, a spreadsheet or an archive. Unpack it, or export it as plain text or as CSV in "
            "UTF-8."
        )
    encoding = "utf-8"
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif 0 in content[:200]:
        # In UTF-16, every other byte of Latin letters is 0.
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
            f"0x{content[error.start]:02x}. Save it as UTF-8 (in a spreadsheet program, as CSV UTF-8), or convert it, "
            "for example with: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
        ) from error


def split_lines(text: str) -> Lines:
    """Return the non-blank lines with their line numbers, starting at 1.

    Lines end with a line feed, or with a carriage return if the text has no line feed.
    """
    end = "\n" if "\n" in text else "\r"
    # Concatenated files can have byte order marks in the middle.
    numbered = ((number, line.lstrip("\ufeff")) for number, line in enumerate(text.split(end), start=1))
    return [(number, line.removesuffix("\r")) for number, line in numbered if line.strip()]


def split_line(line: str, separator: str) -> list[str]:
    """Split a line at every separator, even inside quotation marks, to help guess what kind of line it is."""
    return [cell.strip('" ') for cell in line.split(separator)]


def is_json(path: Path, text: str) -> bool:
    """Return whether a file is JSON, judging by how its text begins or by its file extension."""
    return re.match(r"\s*(\{|\[\s*[{\]])", text) is not None or path.suffix.lower() in (".json", ".jsonl", ".ndjson")


def read_objects(path: Path, text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield each object in a JSON file as (number, "PATH, line N", object). Numbers start at 1.

    The file consists of JSON lines, an array of objects, or an object that contains one such array.

    Args:
        path: Path of the file, for messages.
        text: Text of the file.

    Raises:
        DataError: The text is not JSON, or an entry is not an object.
    """
    lines = split_lines(text)
    first = lines[0][1].strip() if lines else ""
    if first.startswith("[") or len(lines) == 1 or not first.endswith("}"):
        try:
            root = json.loads(text)
        except ValueError as error:
            if first.startswith("["):
                raise DataError(f"{path} is not JSON: {error}. Expected an array of objects.") from error
        else:
            arrays = [value for value in root.values() if _is_array(value)] if isinstance(root, dict) else [root]
            if len(arrays) == 1 and isinstance(arrays[0], list):
                for number, entry in enumerate(arrays[0], start=1):
                    where = f"{path}, entry {number}"
                    yield number, where, _require_object(where, entry)
                return
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {error}. Expected one object per line.") from error
        yield number, where, _require_object(where, entry)


def _is_array(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _require_object(where: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise DataError(
            f"{where} is a JSON value of type {type(entry).__name__}. Expected an object with a recording and its text."
        )
    return entry


def read_table(path: Path, text: str, columns: Mapping[str, str], separator: str | None = None) -> Table | None:
    """Return the cells of a table, or None if the file is blank or its first line has no separator.

    Fields separated by commas or semicolons can be quoted as in CSV. In fields separated by pipes or tabs, a quotation
    mark is an ordinary character unless every field is quoted.

    Args:
        path: Path of the file, for messages.
        text: Text of the file.
        columns: Mapping from role to column, as returned by `columns.parse_columns`. These names also identify a
            header.
        separator: Column separator, if known.

    Raises:
        DataError: Rows have different numbers of columns, a quotation mark is not closed, or a second header differs
            from the first.
    """
    declared, preamble, lines = table_lines(text, columns)
    if preamble:
        titles = ", ".join(f"{number} ({line.strip()[:40]!r})" for number, line in preamble)
        logger.warning(" ! %s: Skipped these lines above the table as titles or comments: %s.", path, titles)
    separator = declared or separator or _find_separator(lines, columns)
    if separator is None or not lines:
        return None
    quoted = _is_quoted(lines, separator)
    numbers, cells = _rectangle(path, _rows(path, lines, separator, quoted), _NAMES.get(separator, separator))
    first = cells.iloc[0].tolist()
    header = first if is_header(first, columns) else None
    if header is not None:
        cells, numbers = cells[1:], numbers[1:]
    cells.index = pd.Index(numbers)
    return Table(header, _drop_repeated_headers(path, _drop_blank_rows(path, cells), header))


def table_lines(text: str, columns: Mapping[str, str]) -> tuple[str | None, Lines, Lines]:
    """Return the separator declared in a `sep=` line, the titles and comments above the table, and the table's lines.

    Blank lines are omitted.

    Args:
        text: Text of the file.
        columns: Mapping from role to column, as returned by `columns.parse_columns`.
    """
    lines = split_lines(text)
    declared = _SEP.fullmatch(lines[0][1]) if lines else None
    lines = lines[1:] if declared else lines
    start = _table_start(lines[:_MAX_TITLES], columns)
    return declared[1] if declared else None, lines[:start], lines[start:]


def _table_start(lines: Lines, columns: Mapping[str, str]) -> int:
    """Return the index of the header, or of the first line after the comments if there is no header.

    Lines above a header are comments or titles. Titles have fewer cells than the header, and none names a recording.
    """
    rows = {separator: [split_line(line, separator) for _, line in lines] for separator in SEPARATORS}
    for index in range(len(lines)):
        for cells in rows.values():
            sure = bool(columns) or {"audio", "text"} <= known_roles(cells[index])
            if is_header(cells[index], columns) and (sure or not index):
                filled = [[cell for cell in row if cell] for row in cells[:index]]
                if all(_is_comment(row) or len(row) < len(cells[index]) for row in filled) and not _has_recording(
                    filled
                ):
                    return index
    comments = next((index for index, (_, line) in enumerate(lines) if not line.lstrip().startswith("#")), 0)
    return 0 if any(_has_recording(cells[:comments]) for cells in rows.values()) else comments


def _is_comment(row: Sequence[str]) -> bool:
    return bool(row) and row[0].startswith("#")


def _has_recording(rows: Iterable[Sequence[str]]) -> bool:
    return any(has_suffix(cell) for row in rows for cell in row)


def _find_separator(lines: Lines, columns: Mapping[str, str]) -> str | None:
    """Return the separator of a table, or None if its first line contains no separator.

    A separator between known column names takes precedence. Without a header, the separator is one that occurs the same
    number of times on every line, preferably after the name of a recording. Extra pipes and tabs on some lines are
    accepted here and reported later.
    """
    if not lines:
        return None
    first = lines[0][1]
    candidates = [separator for separator in SEPARATORS if separator in first]
    for separator in candidates:
        if is_header(split_line(first, separator), columns):
            return separator
    regular = []
    for separator in candidates:
        plain = (re.sub('"[^"]*"', "", line) if separator in _QUOTED else line for _, line in lines)
        counts = {line.count(separator) for line in plain}
        if len(counts) == 1 or (separator not in _QUOTED and 0 not in counts):
            regular.append(separator)
    # The shorter a cell that ends with an audio extension, the more likely it is only a file name, without text.
    regular.sort(
        key=lambda separator: min(
            len(cell) if has_suffix(cell) else len(first) for cell in split_line(first, separator)
        )
    )
    return next(iter([*regular, *candidates]), None)


def _is_quoted(lines: Lines, separator: str) -> bool:
    """Return whether quotation marks enclose fields.

    If the separator is a pipe or a tab, every field must be quoted, apart from the header, numbers and empty fields.
    """
    if separator in _QUOTED:
        return any('"' in line for _, line in lines)
    body = lines[1:] if not lines[0][1].lstrip().startswith('"') else lines
    field = r' *(?:"(?:[^"]|"")*"|[-+]?[\d.]+(?:[eE][-+]?\d+)?|) *'
    row = re.compile(f"{field}(?:{re.escape(separator)}{field})*")
    pending = ""
    for _, line in body:
        pending += line
        # A field may span several lines.
        if pending.count('"') % 2:
            pending += "\n"
        elif '"' not in pending or not row.fullmatch(pending):
            return False
        else:
            pending = ""
    return bool(body) and not pending


def _rows(path: Path, lines: Lines, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each row."""
    if not quoted:
        yield from ((number, line.split(separator)) for number, line in lines)
        return
    # Some programs escape a quotation mark with a backslash instead of doubling it.
    lines = [(number, re.sub(r'\\"(?=[^,;])', '""', line) if '\\"' in line else line) for number, line in lines]
    # With `skipinitialspace`, quotation marks are recognized even after spaces.
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=separator, skipinitialspace=True)
    start = 0
    try:
        for row in reader:
            is_multiline = reader.line_num - start > 1
            if is_multiline or reader.line_num == len(lines):
                _require_closed_quotes(path, lines[start : reader.line_num], separator, is_multiline)
            yield lines[start][0], row
            start = reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}, line {lines[start][0]}: {error}. Expected fields quoted as in CSV.") from error


def _require_closed_quotes(path: Path, lines: Lines, separator: str, is_multiline: bool) -> None:
    """Raise DataError if a quotation mark that is opened in the lines of a row is never closed."""
    texts = [line + "\n" for _, line in lines]
    try:
        rows = list(csv.reader(texts, delimiter=separator, skipinitialspace=True, strict=True))
        # A text that has swallowed the next row contains the name of that row's recording.
        names = sum(has_suffix(cell) for _, line in lines for cell in split_line(line, separator))
        is_open = names > sum(has_suffix(cell) for row in rows for cell in row)
    except csv.Error:
        is_open = True
    if is_open and (is_multiline or lines[0][1].count('"') % 2):
        raise DataError(
            f"{path}: The quotation mark opened on line {lines[0][0]} is not closed, so lines {lines[0][0]} to "
            f"{lines[-1][0]} would become one row. Close it, or double it if it is inside a quoted field."
        )


def _rectangle(path: Path, rows: Iterable[tuple[int, list[str]]], separator: str) -> tuple[list[int], pd.DataFrame]:
    """Return the line numbers and the cells of rows, giving every row as many cells as the first.

    Spreadsheets leave blank cells at the end of some rows, so rows may have more or fewer of them.
    """
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
        hint = " Put texts that contain the separator in quotation marks." if separator in _QUOTED_NAMES else ""
        if separator in "|tabs":
            hint = f" Remove {separator} from the texts, or put every field of the file in quotation marks."
        usual, count = Counter(length for _, length in wrong).most_common(1)[0]
        if width > usual and count > len(numbers) // 2:
            raise DataError(
                f"{path}: Line {numbers[0]} has {width} columns separated by {separator}, but {count} of the other "
                f"{len(numbers) - 1} lines have {usual}.{hint}"
            )
        lines = ", ".join(f"line {number} has {length}" for number, length in wrong[:10])
        more = f"; number of other lines that differ: {len(wrong) - 10}" if len(wrong) > 10 else ""
        raise DataError(f"{path}: Expected {width} columns separated by {separator}, but {lines}{more}.{hint}")
    return numbers, pd.DataFrame({index: pd.Series(flat[index::width], dtype=object) for index in range(width)})


def _trailing_blanks(row: Sequence[str]) -> int:
    """Return the number of blank cells at the end of a row."""
    return next((count for count, cell in enumerate(reversed(row)) if cell.strip()), len(row))


def _drop_blank_rows(path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    filled = pd.Series(False, index=cells.index)
    for column in cells.columns:
        filled |= cells[column].str.strip() != ""
    if not filled.all():
        first = cells.index[~filled][0]
        count = (~filled).sum()
        logger.warning(" ! %s: Skipped blank rows (%d in total, starting on line %d).", path, count, first)
    return cells[filled]


def _drop_repeated_headers(path: Path, cells: pd.DataFrame, header: list[str] | None) -> pd.DataFrame:
    """Drop headers that are repeated in concatenated files. Raise DataError if one differs from the first header."""
    known = [index for index, name in enumerate(header or [""]) if header is None or is_known_name(name)]
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
                f"{path}, line {line}, is a second header, {'|'.join(row)!r}, which differs from the first one. Move "
                "the rows below it to a separate file, and pass both files as manifests."
            )
    if repeated:
        lines = ", ".join(map(str, repeated))
        logger.warning(" ! %s: Skipped repeated headers on these lines: %s.", path, lines)
    return cells.drop(index=repeated)
