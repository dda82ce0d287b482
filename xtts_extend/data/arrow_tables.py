"""Parquet and Arrow tables as Hugging Face writes them; recordings that lie in them become files, once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtts_extend.data.columns import has_suffix, named_columns
from xtts_extend.errors import DataError
from xtts_extend.files import atomic_write, cache_folder

logger = logging.getLogger("trainer")

_PARQUET = b"PAR1"
_ARROW_FILE = b"ARROW1"
_ARROW_STREAM = b"\xff\xff\xff\xff"
_BATCH_ROWS = 256
_BEGINNINGS = {
    b"RIFF": ".wav",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"ID3": ".mp3",
    b"\xff\xfb": ".mp3",
    b"\xff\xf3": ".mp3",
}


def is_arrow(path: Path) -> bool:
    """Whether a file is a Parquet or Arrow table."""
    try:
        with path.open("rb") as file:
            return file.read(6).startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM))
    except OSError:
        return False


def read_arrow(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """The rows of a table: number from 1, values by role, and the file that the recording's bytes were written to.

    Args:
        path: of the table.
        columns: as `columns.parse_columns` gives them.

    Raises:
        DataError: the table is damaged, lacks a column, or holds no recording where one should be.
        MachineError: the cache folder cannot be written to.
    """
    try:
        yield from _read(path, columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}. Copy or download it again.") from error


def _read(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    schema, batches = _open(path)
    found = named_columns(str(path), schema.names, columns)
    held = [place for place in found["audio"] if not _is_text(schema.field(place).type)]
    chosen = {role: places[0] for role, places in found.items() if places}
    if held and "audio" not in columns:
        # beside a recording itself, a name is where it came from
        chosen["audio"] = held[0]
        logger.info(" > %s: the recordings in it are kept as files in %s", path, cache_folder() / "recordings")
    if not {"audio", "text"} <= chosen.keys():
        raise DataError(
            f"{path} has the columns {', '.join(schema.names)}; expected one of recordings, such as audio, and one of "
            "texts, such as text. Say which they are, for example --columns audio=NAME,text=NAME."
        )
    classes = {role: _class_names(schema, schema.names[place]) for role, place in chosen.items()}
    number = 0
    for batch in batches:
        values = {role: batch.column(place).to_pylist() for role, place in chosen.items()}
        for place in range(batch.num_rows):
            number += 1
            row = {role: column[place] for role, column in values.items()}
            for role, names in classes.items():
                if names and isinstance(row[role], int):
                    # -1 is no class
                    row[role] = names[row[role]] if 0 <= row[role] < len(names) else None
            file = None
            if not isinstance(row["audio"], str):
                row["audio"], file = _recording(f"{path}, row {number}", row["audio"])
            yield number, row, file


def _open(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    with path.open("rb") as file:
        beginning = file.read(6)
    if beginning.startswith(_PARQUET):
        table = pq.ParquetFile(path)
        return table.schema_arrow, table.iter_batches(batch_size=_BATCH_ROWS)
    source = pa.memory_map(str(path))
    if beginning.startswith(_ARROW_STREAM):
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    reader = pa.ipc.open_file(source)
    return reader.schema, (reader.get_batch(place) for place in range(reader.num_record_batches))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not (pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """What the numbers in a column of classes stand for, as Hugging Face writes them beside the schema."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    feature = features.get(column)
    return feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _recording(where: str, held: Any) -> tuple[str, str | None]:
    """Name and file of a recording that a cell holds: its bytes, or a struct of them and of a path."""
    path = held.get("path") if isinstance(held, dict) else None
    content = held.get("bytes") if isinstance(held, dict) else held
    if isinstance(content, bytes) and content:
        file = _extract(content, path or "")
        return path or os.path.basename(file), file
    if isinstance(path, str):
        return path, None
    raise DataError(
        f"{where} has no recording: {str(held)[:80]}. Expected a file's bytes, or its path. Tables of samples can be "
        "written anew with datasets.Audio(decode=False)."
    )


def _extract(content: bytes, name: str) -> str:
    """The file of a recording's bytes, by their digest; written unless it is there."""
    digest = hashlib.sha256(content).hexdigest()
    suffix = os.path.splitext(name)[1].lower() if has_suffix(name) else ""
    suffix = suffix or next((known for start, known in _BEGINNINGS.items() if content.startswith(start)), "")
    file = cache_folder() / "recordings" / digest[:2] / f"{digest}{suffix}"
    if not file.is_file() or file.stat().st_size != len(content):
        with atomic_write(file) as opened:
            opened.write(content)
    return str(file)
