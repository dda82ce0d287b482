"""Find the table of texts in an unpacked archive: Common Voice, OpenSLR, LJSpeech, or any other single table."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from xtts_extend.data.parquet_set import SKIPPED
from xtts_extend.data.paths import AUDIO_SUFFIXES
from xtts_extend.data.source_spec import DEFAULT_SPLIT, choose_split, listed
from xtts_extend.data.tables import read_text, split_lines
from xtts_extend.errors import ConfigError, DataError
from xtts_extend.files import atomic_write

#: Tables of OpenSLR: `line_index.tsv` and its variants have an id and a text, `utt_spk_text.tsv` has a speaker as well.
_OPENSLR = re.compile(r"(?P<line_index>(.+_)?line_index(_.+)?\.tsv)|(.+_)?utt_spk_text\.tsv", re.IGNORECASE)
#: An id of OpenSLR's crowdsourced data sets begins with its speaker: `afr_0184_0123456789`.
_SPEAKER = re.compile(r"(?P<speaker>[a-z]+_[0-9]+)_[0-9]+", re.IGNORECASE)
#: The manifest that `prepare_tables` writes.
_PREPARED = "openslr-metadata.jsonl"
_TABLES = (".csv", ".tsv", ".jsonl", ".psv")
_LJSPEECH = ("metadata.csv", "metadata.txt")
#: Tables of Common Voice that do not list recordings.
_NOT_RECORDINGS = re.compile(
    r"reported|clip_durations|validated_sentences|unvalidated_sentences|single_word.*|times", re.IGNORECASE
)
_SPLIT_NAME = re.compile(r"(?:metadata|manifest|data)?[-_.]?(?P<split>\w+)")


def prepare_tables(folder: Path) -> None:
    """Write a manifest for the tables of OpenSLR in an unpacked archive, if there are any.

    OpenSLR's tables have ids instead of file names, and the recordings can be in folders that other readers do not
    search. Rows whose recording is not in the archive (OpenSLR divides large data sets among several) are listed in
    `skipped.jsonl`.

    Args:
        folder: Folder with the unpacked archive.

    Raises:
        DataError: A table is malformed, or none of its recordings is in the archive.
        MachineError: The manifest cannot be written.
    """
    tables = [file for file in _files(folder) if _OPENSLR.fullmatch(file.name)]
    if not tables:
        return
    recordings = {file.stem: file for file in _files(folder) if file.suffix.lower() in AUDIO_SUFFIXES}
    rows, skipped = [], []
    for table in tables:
        where = table.relative_to(folder).as_posix()
        for number, name, speaker, text in _openslr_rows(table):
            recording = recordings.get(name.removesuffix(".wav"))
            if recording is None:
                reason = f"the recording {name!r} is not in the archive"
                skipped.append({"file": where, "row": number, "reason": reason})
                continue
            row = {"audio_file": recording.relative_to(folder).as_posix(), "text": text, "speaker_name": speaker}
            rows.append({key: value for key, value in row.items() if value is not None})
    if not rows:
        names = listed([str(table.relative_to(folder)) for table in tables])
        raise DataError(
            f"The recordings that {names} names are not in {folder}. Check that it is the archive with the recordings."
        )
    for name, entries in ((SKIPPED, skipped), (_PREPARED, rows)):
        with atomic_write(folder / name) as file:
            for entry in entries:
                file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")


def find_table(folder: Path, split: str, where: str) -> Path | None:
    """Return the table of texts in an unpacked archive, or None if there is none.

    Args:
        folder: Folder with the unpacked archive, for which `prepare_tables` has been called.
        split: Name of a split, such as `train` for `train.tsv`; "" for the default.
        where: The archive as the user spelled it, for messages.

    Raises:
        ConfigError: There is no such split, or there are several tables.
    """
    if (folder / _PREPARED).is_file():
        tables = [folder / _PREPARED]
    else:
        tables = [file for file in _files(folder) if file.suffix.lower() in _TABLES or file.name in _LJSPEECH]
        tables = [file for file in tables if not _NOT_RECORDINGS.fullmatch(file.stem)]
    if not tables:
        return None
    if len(tables) == 1 and not split:
        return tables[0]
    folders = {table.parent for table in tables}
    if len(folders) > 1:
        raise _ambiguous(folder, tables, where)
    by_split = {_split_of(table): table for table in tables}
    if len(by_split) < len(tables) or (not split and DEFAULT_SPLIT not in by_split):
        raise _ambiguous(folder, tables, where)
    return choose_split(by_split, split, where)


def _split_of(table: Path) -> str:
    match = _SPLIT_NAME.fullmatch(table.stem)
    return match["split"] if match else table.stem


def _ambiguous(folder: Path, tables: Sequence[Path], where: str) -> ConfigError:
    names = listed([table.relative_to(folder).as_posix() for table in tables])
    return ConfigError(f"{where} contains several tables: {names}. It is unpacked in {folder}; pass one of them.")


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, in the order of their paths."""
    for parent, subfolders, names in os.walk(folder):
        subfolders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _openslr_rows(table: Path) -> Iterator[tuple[int, str, str | None, str]]:
    """Yield the line number, the recording's name, the speaker if known, and the text of each row.

    Raises:
        DataError: A row has too few columns.
    """
    match = _OPENSLR.fullmatch(table.name)
    is_line_index = match is not None and match["line_index"] is not None
    try:
        text = read_text(table, table.read_bytes())
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    for number, line in split_lines(text):
        # Some of the tables have an empty column between the others.
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(cells):
            continue
        if len(cells) < (2 if is_line_index else 3):
            raise DataError(f"{table}, line {number}: Expected columns separated by tabs, got {line[:80]!r}.")
        speaker = _SPEAKER.fullmatch(cells[0])
        yield number, cells[0], (speaker and speaker["speaker"]) if is_line_index else cells[1], cells[-1]
