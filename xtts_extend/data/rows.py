"""A manifest in any of the forms that people have becomes rows: recording, text, speaker, language."""

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
    """What a manifest says, a list per role, all as long.

    Attributes:
        lines: in the file, from 1; of tables that have no lines the number of the row.
        audio: names of recordings, as they stand.
        text: as they stand.
        speaker, language: as they stand; None where nothing is said.
        files: where a recording was extracted to whose bytes are in the table; else None.
    """

    lines: list[int] = field(default_factory=list)
    audio: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    speaker: list[str | None] = field(default_factory=list)
    language: list[str | None] = field(default_factory=list)
    files: list[str | None] = field(default_factory=list)

    def add(self, line: int, where: str, values: Mapping[str, Any], file: str | None = None) -> None:
        """Add a row of values that may have other types than text. A null text is an empty one, which the check names.

        Raises DataError when recording or text is neither a text nor a number.
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
        path: of the file.
        columns: role → column, as `columns.parse_columns` gives them; what is not in it is recognised.
        language: of the manifest, if it is known.
        format: "auto", "coqui", "ljspeech" or "jsonl".
        texts_only: recordings need not be named; where they are not, `audio` is anything.

    Raises DataError: the file cannot be read, or is not in a form that we know; the message names the line.
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
        raise DataError(f"{path} is empty. Expected lines of audio_file|text|speaker_name, id|text, or JSON.")
    if format == "jsonl" or (format == "auto" and is_json(path, text)):
        return _rows_of_objects(path, text, columns, required)
    table = read_table(path, text, columns, None if format == "auto" else "|")
    if table is None:
        first = split_lines(text)[0][1]
        raise DataError(
            f"{path} has an unknown format: its first line is {first[:80]!r}. Expected columns separated by pipes, "
            "commas, semicolons or tabs, or JSON."
        )
    if not len(table.cells):
        raise DataError(f"{path} has a header and no line below it. Expected one line per recording.")
    if format == "ljspeech":
        return _rows_of_table(table, _ljspeech(path, table))
    if table.header is not None:
        return _rows_of_table(table, _named(path, table, table.header, columns, required))
    if format == "coqui":
        raise DataError(f"{path} has no header. Expected audio_file|text or audio_file|text|speaker_name.")
    filled = [place for place in table.cells.columns if (table.cells[place].str.strip() != "").any()]
    table = Table(None, table.cells.loc[:, : filled[-1]])
    audio = None if "audio" in columns else _audio_column(path, table)
    # beside texts alone stand their ids
    audio = 0 if audio is None and texts_only else audio
    return _rows_of_table(table, placed_columns(str(path), table.cells, columns, language, audio))


def texts_of_manifest(path: Path, columns: Mapping[str, str] | None = None) -> list[str] | None:
    """The texts of a manifest, or of another list with ids or JSON around them; None when a file is plain text.

    Args:
        path: of the file.
        columns: role → column, as `columns.parse_columns` gives them. Whoever names columns has a table.

    Raises DataError: it has faults, its texts could be in two of its columns, or a part of it is no text.
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
    if len(languages := sorted({spoken for spoken in rows.language if spoken})) > 1:
        logger.warning(" ! %s: its texts are in several languages, and all count: %s", path, ", ".join(languages[:20]))
    return _without_surrogates(path, rows.text)


def _without_surrogates(path: Path, texts: list[str]) -> list[str]:
    """Texts without the halves of characters that cut escapes leave in JSON, which no tokenizer takes."""
    if halved := sum(map(has_surrogate, texts)):
        logger.warning(" ! %s: half a character, of a cut escape, is left out of %d texts", path, halved)
        return [text.encode("utf-8", "ignore").decode() for text in texts]
    return texts


def _as_text(where: str, role: str, value: Any) -> str:
    """What a cell says: a text, or a number in digits; pandas makes 1999.0 of 1999 beside nulls, and NaN of these."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "" if value != value else str(value)
    raise DataError(f"{where}: {role} is {str(value)[:80]}; expected a string.")


def _rows_of_objects(path: Path, text: str, columns: Mapping[str, str], required: Sequence[str]) -> Rows:
    rows = Rows()
    known: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for number, where, entry in read_objects(path, text):
        keys = tuple(entry)
        if keys not in known:
            known[keys] = named_columns(where, keys, columns)
            if not all(known[keys][role] for role in required):
                expected = " and ".join({"audio": "audio_file", "text": "text"}[role] for role in required)
                raise DataError(
                    f"{where} has the keys {', '.join(keys[:20])}; expected {expected}, or others that "
                    f"--columns names, for example --columns {','.join(f'{role}=KEY' for role in required)}."
                )
        if entry.get("offset") and "audio" in required:
            raise DataError(
                f"{where} is a part of a longer recording (offset {entry['offset']}). Cut the recording first, and "
                "write a manifest of its parts."
            )
        cells = list(entry.values())
        values: dict[str, Any] = {}
        for role, places in known[keys].items():
            values[role] = None
            for place in places:
                if cells[place] is not None:
                    values[role] = cells[place]
                    break
        if "audio" not in required:
            values["audio"] = ""
        elif isinstance(values["audio"], dict):
            values["audio"] = values["audio"].get("path") or values["audio"]
        rows.add(number, where, values)
    if not rows.lines:
        raise DataError(f"{path} is empty. Expected one object per recording.")
    return rows


def _ljspeech(path: Path, table: Table) -> dict[str, int]:
    width = table.cells.shape[1]
    if width not in (2, 3):
        line = table.cells.index[0]
        raise DataError(f"{path}: line {line} has {width} columns; LJSpeech has id|text or id|text|normalised.")
    return {"audio": 0, "text": width - 1}


def _named(
    path: Path, table: Table, header: list[str], columns: Mapping[str, str], required: Sequence[str]
) -> dict[str, int]:
    """Role → column of a table with a header; of several names for one role the first whose column is not blank."""
    found = named_columns(str(path), header, columns)
    if not all(found[role] for role in required):
        names = {"audio": "one of recordings, such as audio_file", "text": "one of texts, such as text"}
        raise DataError(
            f"{path}: the header has the columns {', '.join(header)}; expected "
            f"{', and '.join(names[role] for role in required)}. Say which it is, for example --columns "
            f"{','.join(f'{role}=NAME' for role in required)}."
        )
    chosen = {}
    for role, places in found.items():
        filled = [place for place in places if (table.cells[place].str.strip() != "").any()]
        if role == "language":
            # names that nobody knows beside codes
            filled.sort(key=lambda place: not all_languages(table.cells[place]))
        if places:
            chosen[role] = (filled or places)[0]
        if len(filled) > 1:
            others = ", ".join(header[place].strip() for place in filled[1:])
            logger.info(
                " > %s: %s is taken from the column %s, not from %s", path, role, header[filled[0]].strip(), others
            )
    return chosen


def _audio_column(path: Path, table: Table) -> int | None:
    """The column that names recordings: by their suffixes; or the first, where recordings or a folder for them lie."""
    for place in table.cells.columns:
        if table.cells[place].head(1000).map(has_suffix).mean() > 0.5:
            return int(place)
    has_folder = any((path.parent / folder).is_dir() for folder in FOLDERS[1:])
    return 0 if has_folder or any_exists(table.cells[0].head(1000).tolist(), path) else None


def _rows_of_table(table: Table, chosen: Mapping[str, int]) -> Rows:
    cells = table.cells
    text = cells[chosen["text"]]
    # " | " between the columns; one text alone may begin with a space
    if (text.str.startswith(" ") | text.str.endswith(" ")).all():
        text = text.str.strip()
    nothing: list[str | None] = [None] * len(cells)

    def optional(role: str) -> list[str | None]:
        return [cell or None for cell in cells[chosen[role]].str.strip()] if role in chosen else nothing

    spoken = (optional("speaker"), optional("language"))
    # without recordings, whatever is there
    audio = cells[chosen.get("audio", chosen["text"])].tolist()
    return Rows(cells.index.tolist(), audio, text.tolist(), *spoken, nothing)
