"""Read Parquet and Arrow tables in Hugging Face's format, and extract embedded recordings to files on first use."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from xtts_extend.data.columns import has_suffix, named_columns
from xtts_extend.errors import DataError
from xtts_extend.files import atomic_write, cache_folder

logger = logging.getLogger("trainer")

_PARQUET = b"PAR1"
_ARROW_FILE = b"ARROW1"
_ARROW_STREAM = b"\xff\xff\xff\xff"
_BATCH_ROWS = 256
#: File extensions of audio formats, keyed by the first bytes of the file.
_SUFFIXES = {
    b"RIFF": ".wav",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b".snd": ".au",
    b"ID3": ".mp3",
    b"\xff\xfb": ".mp3",
    b"\xff\xf3": ".mp3",
}


def is_arrow(path: Path) -> bool:
    """Return whether a file is a Parquet or Arrow table."""
    try:
        with path.open("rb") as file:
            return file.read(6).startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM))
    except OSError:
        return False


def read_arrow(
    path: Path, columns: Mapping[str, str], *, texts_only: bool = False
) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Yield the rows of a Parquet or Arrow table.

    Each row is a tuple of its number (starting at 1), its values keyed by role, and the file that its recording was
    extracted to (None if the table only names the recording).

    Args:
        path: Parquet or Arrow file.
        columns: Mapping from role to column, as returned by `columns.parse_columns`.
        texts_only: Whether to read only the texts. If so, the table does not need recordings.

    Raises:
        DataError: The table is damaged, a column is missing, or a row has no recording.
        MachineError: The cache folder is not writable.
    """
    try:
        yield from _read(path, columns, texts_only)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}. Copy or download it again.") from error


def _read(path: Path, columns: Mapping[str, str], texts_only: bool) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    schema, batches = open_table(path)
    by_role = named_columns(str(path), schema.names, columns)
    if texts_only:
        by_role["audio"] = []
    embedded = [index for index in by_role["audio"] if not is_text(schema.field(index).type)]
    if embedded and "audio" not in columns:
        # If the recordings are embedded, a column of file names only records where they came from.
        by_role["audio"] = embedded
        logger.info(" > %s: Extracting the recordings to %s.", path, cache_folder() / "recordings")
    if not by_role["text"] or not (by_role["audio"] or texts_only):
        audio, flag = ("", "") if texts_only else ('an audio column (such as "audio") and ', "audio=NAME,")
        raise DataError(
            f"{path} has the columns {', '.join(schema.names)}. Expected {audio}"
            'a text column (such as "text"). '
            f"Specify the columns, for example with --columns {flag}text=NAME."
        )
    labels = {index: class_names(schema, schema.names[index]) for indices in by_role.values() for index in indices}
    number = 0
    for batch in batches:
        recordings: Iterable[Any] = [""] * batch.num_rows
        if not texts_only:
            column = batch.column(by_role["audio"][0])
            # Embedded recordings are converted one by one, so that only one of them is in memory at a time.
            recordings = map(to_python, column) if embedded else column.to_pylist()
        values = {
            role: _first_of([cell_values(batch.column(index), labels[index]) for index in indices])
            for role, indices in by_role.items()
            if indices and role != "audio"
        }
        for index, recording in enumerate(recordings):
            number += 1
            row = {role: column[index] for role, column in values.items()}
            row["audio"], file = recording, None
            if not isinstance(row["audio"], str | int | float):
                row["audio"], file = _read_recording(f"{path}, row {number}", row["audio"])
            yield number, row, file


def cell_values(column: pa.Array, labels: list[str] | None) -> list[Any]:
    """Return a column's values. In a column of class labels, ids are replaced with their labels, and -1 with None."""
    values = column.to_pylist()
    if labels is None:
        return values
    return [labels[value] if isinstance(value, int) and 0 <= value < len(labels) else None for value in values]


def _first_of(columns: list[list[Any]]) -> list[Any]:
    """Return the first non-null value in each row."""
    if len(columns) == 1:
        return columns[0]
    return [next((value for value in row if value is not None), None) for row in zip(*columns, strict=True)]


def to_python(value: pa.Scalar) -> Any:
    """Convert a value to Python objects, with lists of numbers as NumPy arrays."""
    if isinstance(value, pa.StructScalar) and value.is_valid:
        return {name: to_python(part) for name, part in value.items()}
    if isinstance(value, pa.ListScalar) and value.is_valid:
        nested = pa.types.is_nested(value.type.value_type)
        return np.array(value.as_py()) if nested else value.values.to_numpy(zero_copy_only=False)
    return value.as_py()


def open_table(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema and the batches of a Parquet or Arrow table.

    Raises:
        pa.ArrowException, OSError, ValueError: The table cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(_PARQUET):
        table = pq.ParquetFile(path)
        return table.schema_arrow, table.iter_batches(batch_size=_BATCH_ROWS)
    source = pa.memory_map(str(path))
    if magic.startswith(_ARROW_STREAM):
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    reader = pa.ipc.open_file(source)
    return reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))


def is_text(kind: pa.DataType) -> bool:
    """Return whether the values of a column are texts or numbers, not bytes, structs or lists."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Return a column's class labels from Hugging Face's metadata, or None if it is not a column of class labels."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    feature = features.get(column)
    return feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


@dataclass(frozen=True)
class Recording:
    """What a cell says about its recording.

    Attributes:
        name: Name of the recording, or "".
        content: Bytes of its file, or None if the cell does not contain them.
        suffix: File extension for the bytes, such as ".wav", or "".
    """

    name: str
    content: bytes | None = None
    suffix: str = ""


def recording_of(cell: Any) -> Recording | None:
    """Return the recording in a cell, or None if there is none.

    A cell contains the bytes of a file, or a struct with a path and either bytes or samples.
    """
    parts = cell if isinstance(cell, dict) else {"bytes": cell}
    path, content = parts.get("path"), parts.get("bytes")
    name = path if isinstance(path, str) else ""
    samples, rate = parts.get("array"), parts.get("sampling_rate") or parts.get("sample_rate")
    if isinstance(content, bytes) and content:
        return Recording(name, content, _suffix(content, name))
    if isinstance(samples, np.ndarray) and samples.size and samples.dtype.kind in "iuf" and rate:
        return Recording(name, _encode_au(samples, int(rate)), ".au")
    return Recording(name) if isinstance(path, str) else None


def _read_recording(where: str, cell: Any) -> tuple[str, str | None]:
    """Return the name of a cell's recording and its extracted file, which is None if the cell contains only a path."""
    recording = recording_of(cell)
    if recording is None:
        raise DataError(
            f"{where} has no recording: {str(cell)[:80]}. Expected the bytes of a file, its path, or a struct with "
            "the fields array and sampling_rate. If these are samples without a sample rate, rewrite the table with "
            "datasets.Audio(decode=False)."
        )
    if recording.content is None:
        return recording.name, None
    file = _extract(recording.content, recording.suffix)
    return recording.name or os.path.basename(file), file


def _encode_au(samples: npt.NDArray[Any], rate: int) -> bytes:
    """Encode samples, [frames] or [channels, frames], as AU. The format has no timestamps, so the bytes never vary."""
    subtypes = {"int16": "PCM_16", "int32": "PCM_32"}
    if samples.dtype.name not in subtypes:
        samples = samples.astype(np.float32)
    content = io.BytesIO()
    soundfile.write(content, samples.T, rate, format="AU", subtype=subtypes.get(samples.dtype.name, "FLOAT"))
    return content.getvalue()


def _suffix(content: bytes, name: str) -> str:
    """Return the file extension of a recording, from its name or its first bytes, or "" if neither tells."""
    suffix = os.path.splitext(name.strip())[1].lower() if has_suffix(name) else ""
    return suffix or next((known for start, known in _SUFFIXES.items() if content.startswith(start)), "")


def _extract(content: bytes, suffix: str) -> str:
    """Write a recording to a cache file named after its SHA-256, unless the file exists, and return its path."""
    digest = hashlib.sha256(content).hexdigest()
    file = cache_folder() / "recordings" / digest[:2] / f"{digest}{suffix}"
    if not file.is_file() or file.stat().st_size != len(content):
        with atomic_write(file) as opened:
            opened.write(content)
    return str(file)
