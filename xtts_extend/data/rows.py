"""Read manifests in any supported format as rows with a recording, a text, a speaker and a language."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtts_extend.data.arrow_tables import is_arrow, read_arrow
from xtts_extend.data.columns import has_suffix, named_columns, placed_columns
from xtts_extend.data.corpora import is_table, require_text, strip_ids_and_json
from xtts_extend.data.locales import all_languages
from xtts_extend.data.paths import FOLDERS, any_exists
from xtts_extend.data.tables import Table, is_json, read_objects, read_table, read_text, split_lines
from xtts_extend.data.unspoken import has_surrogate
from xtts_extend.errors import DataError

logger = logging.getLogger("trainer")


@dataclass(frozen=True)
class Rows:
    """The rows of a manifest, as one list per role. All lists have the same length.

    Attributes:
        lines: Line numbers in the file, starting at 1, or row numbers if the format has no lines.
        audio: Names of the recordings, as written.
        text: Texts, as written.
        speaker, language: Values as written, or None where a row has none.
        files: Files that embedded recordings were extracted to, or None for recordings that the manifest only names.
    """

    lines: list[int] = field(default_factory=list)
    audio: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    speaker: list[str | None] = field(default_factory=list)
    language: list[str | None] = field(default_factory=list)
    files: list[str | None] = field(default_factory=list)

    def add(self, line: int, where: str, values: Mapping[str, Any], file: str | None = None) -> None:
        """Append a row. Numbers become strings, and a null text becomes an empty string, which the data check reports.

        Args:
            line: Line or row number, starting at 1.
            where: Path and line number, for messages.
            values: Mapping from role to value.
            file: File that an embedded recording was extracted to.

        Raises:
            DataError: The recording or the text is neither a string nor a number.
        """
        speaker, language = values.get("speaker"), values.get("language")
        self.lines.append(line)
        self.audio.append(_as_text(where, "audio", values["audio"]))
        self.text.append("" if values["text"] is None else _as_text(where, "text", values["text"]))
        self.speaker.append(None if speaker is None else str(speaker))
        self.language.append(None if language is None else str(language))
        self.files.append(file)


def read_rows(
    path: Path,
    columns: Mapping[str, str],
    language: str | None = None,
    format: str = "auto",
    *,
    texts_only: bool = False,
) -> Rows:
    """Read a manifest.

    Args:
        path: Manifest file.
        columns: Mapping from role to column, as returned by `columns.parse_columns`. Columns for all other roles are
            detected.
        language: Code of the manifest's language, if known. It helps to detect a language column.
        format: "auto", "coqui", "ljspeech" or "jsonl".
        texts_only: Whether to accept a manifest without recordings. If so, `audio` in the result is meaningless.

    Raises:
        DataError: The file cannot be read or its format is unknown. The message names the line.
    """
    required = ("text",) if texts_only else ("audio", "text")
    if format == "auto" and is_arrow(path):
        rows = Rows()
        for number, values, file in read_arrow(path, columns, texts_only=texts_only):
            rows.add(number, f"{path}, row {number}", values, file)
        return rows
    try:
        text = read_text(path, path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not text.strip():
        raise DataError(
            f"{path} is empty. Expected lines of the form audio_file|text|speaker_name or id|text, or JSON lines."
        )
    if format == "jsonl" or (format == "auto" and is_json(path, text)):
        return _rows_from_objects(path, text, columns, required)
    table = read_table(path, text, columns, None if format == "auto" else "|")
    if table is None:
        first = split_lines(text)[0][1]
        raise DataError(
            f"{path} has an unknown format: its first line is {first[:80]!r}. Expected JSON, or columns separated by "
            "pipes, commas, semicolons or tabs."
        )
    if not len(table.cells):
        raise DataError(f"{path} has a header but no rows. Expected one row per recording.")
    if format == "ljspeech":
        return _rows_from_table(table, _ljspeech_columns(path, table))
    if table.header is not None:
        return _rows_from_table(table, _columns_by_header(path, table, table.header, columns, required))
    if format == "coqui":
        raise DataError(f"{path} has no header. Expected the header audio_file|text or audio_file|text|speaker_name.")
    filled = [index for index in table.cells.columns if (table.cells[index].str.strip() != "").any()]
    table = Table(None, table.cells.loc[:, : filled[-1]])
    audio = None if "audio" in columns else _audio_column(path, table)
    # Without recordings, the first column contains the ids of the texts.
    audio = 0 if audio is None and texts_only else audio
    return _rows_from_table(table, placed_columns(str(path), table.cells, columns, language, audio))


def texts_of_manifest(path: Path, columns: Mapping[str, str] | None = None) -> list[str] | None:
    """Return the texts in a manifest, a file of lines with ids, or a file of JSON strings; None if it is plain text.

    Args:
        path: File to read.
        columns: Mapping from role to column, as returned by `columns.parse_columns`. If given, the file is read as a
            table.

    Raises:
        DataError: The file is malformed, more than one column could contain the texts, or the file is in a format that
            contains more than text.
    """
    if not columns and not is_arrow(path):
        try:
            text = read_text(path, path.read_bytes())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        require_text(path, text)
        if (texts := strip_ids_and_json(path, text)) is not None:
            return _without_surrogates(path, texts)
        if not (is_json(path, text) or is_table(path, text)):
            return None
    rows = read_rows(path, columns or {}, texts_only=True)
    if len(languages := sorted({code for code in rows.language if code})) > 1:
        logger.warning(" ! %s: Using texts in several languages: %s.", path, ", ".join(languages[:20]))
    return _without_surrogates(path, rows.text)


def _without_surrogates(path: Path, texts: list[str]) -> list[str]:
    """Remove unpaired surrogates, which truncated escapes leave behind in JSON and which no tokenizer accepts."""
    if damaged := sum(map(has_surrogate, texts)):
        logger.warning(
            " ! %s: Removed unpaired surrogates, left by truncated JSON escapes (number of texts: %d).", path, damaged
        )
        return [text.encode("utf-8", "ignore").decode() for text in texts]
    return texts


def _as_text(where: str, role: str, value: Any) -> str:
    """Return a cell as a string: a string unchanged, a number in digits, and NaN as an empty string.

    In a column with nulls, pandas turns 1999 into 1999.0 and the nulls into NaN.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "" if value != value else str(value)
    raise DataError(f"{where}: Expected a string for {role}, got {str(value)[:80]}.")


def _rows_from_objects(path: Path, text: str, columns: Mapping[str, str], required: Sequence[str]) -> Rows:
    rows = Rows()
    by_keys: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for number, where, entry in read_objects(path, text):
        keys = tuple(entry)
        if keys not in by_keys:
            by_keys[keys] = named_columns(where, keys, columns)
            if not all(by_keys[keys][role] for role in required):
                expected = " and ".join({"audio": "audio_file", "text": "text"}[role] for role in required)
                raise DataError(
                    f"{where} has the keys {', '.join(keys[:20])}. Expected {expected}. Specify the keys to use, for "
                    f"example with --columns {','.join(f'{role}=KEY' for role in required)}."
                )
        if entry.get("offset") and "audio" in required:
            raise DataError(
                f"{where} is a segment of a longer recording (offset {entry['offset']}). Split the recording into one "
                "file per segment, and list those files in the manifest."
            )
        cells = list(entry.values())
        values: dict[str, Any] = {}
        for role, indices in by_keys[keys].items():
            values[role] = None
            for index in indices:
                if cells[index] is not None:
                    values[role] = cells[index]
                    break
        if "audio" not in required:
            values["audio"] = ""
        elif isinstance(values["audio"], dict):
            values["audio"] = values["audio"].get("path") or values["audio"]
        rows.add(number, where, values)
    if not rows.lines:
        raise DataError(f"{path} is empty. Expected one object per recording.")
    return rows


def _ljspeech_columns(path: Path, table: Table) -> dict[str, int]:
    width = table.cells.shape[1]
    if width not in (2, 3):
        line = table.cells.index[0]
        raise DataError(
            f"{path}, line {line}: Expected id|text or id|text|normalized, as in LJSpeech, but found a different "
            f"number of columns ({width})."
        )
    return {"audio": 0, "text": width - 1}


def _columns_by_header(
    path: Path, table: Table, header: list[str], columns: Mapping[str, str], required: Sequence[str]
) -> dict[str, int]:
    """Map roles to the columns of a table with a header, choosing the first non-blank column for each role."""
    by_role = named_columns(str(path), header, columns)
    if not all(by_role[role] for role in required):
        names = {"audio": 'an audio column (such as "audio_file")', "text": 'a text column (such as "text")'}
        raise DataError(
            f"{path}: The header has the columns {', '.join(header)}. Expected "
            f"{' and '.join(names[role] for role in required)}. Specify the columns, for example with --columns "
            f"{','.join(f'{role}=NAME' for role in required)}."
        )
    chosen = {}
    for role, indices in by_role.items():
        filled = [index for index in indices if (table.cells[index].str.strip() != "").any()]
        if role == "language":
            # Prefer a column of known languages to one with unrecognized names.
            filled.sort(key=lambda index: not all_languages(table.cells[index]))
        if indices:
            chosen[role] = (filled or indices)[0]
        if len(filled) > 1:
            others = ", ".join(header[index].strip() for index in filled[1:])
            logger.info(" > %s: Reading %s from column %s, not from %s.", path, role, header[filled[0]].strip(), others)
    return chosen


def _audio_column(path: Path, table: Table) -> int | None:
    """Return the column that names the recordings.

    This is the first column in which most cells end with the file extension of an audio format. If there is none, it is
    the table's first column, provided that the manifest's folder has a subfolder for recordings or that one of the
    recordings is found.
    """
    for index in table.cells.columns:
        if table.cells[index].head(1000).map(has_suffix).mean() > 0.5:
            return int(index)
    has_folder = any((path.parent / folder).is_dir() for folder in FOLDERS[1:])
    return 0 if has_folder or any_exists(table.cells[0].head(1000).tolist(), path) else None


def _rows_from_table(table: Table, chosen: Mapping[str, int]) -> Rows:
    cells = table.cells
    text = cells[chosen["text"]]
    # Spaces around every text belong to the separator " | ". Spaces around some texts are part of them.
    if (text.str.startswith(" ") | text.str.endswith(" ")).all():
        text = text.str.strip()
    missing: list[str | None] = [None] * len(cells)

    def optional(role: str) -> list[str | None]:
        return [cell or None for cell in cells[chosen[role]].str.strip()] if role in chosen else missing

    speaker_and_language = (optional("speaker"), optional("language"))
    # Without recordings, `audio` is meaningless, but it must have the right length.
    audio = cells[chosen.get("audio", chosen["text"])].tolist()
    return Rows(cells.index.tolist(), audio, text.tolist(), *speaker_and_language, missing)
