"""Parquet and Arrow tables as Hugging Face writes them; recordings that lie in them become files, once."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
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
_BEGINNINGS = {
    b"RIFF": ".wav",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b".snd": ".au",
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


def read_arrow(
    path: Path, columns: Mapping[str, str], *, texts_only: bool = False
) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """The rows of a table: number from 1, values by role, and the file that the recording's bytes were written to.

    Args:
        path: of the table.
        columns: as `columns.parse_columns` gives them.
        texts_only: recordings are not read, and need not be there.

    Raises:
        DataError: the table is damaged, lacks a column, or holds no recording where one should be.
        MachineError: the cache folder cannot be written to.
    """
    try:
        yield from _read(path, columns, texts_only)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}. Copy or download it again.") from error


def _read(path: Path, columns: Mapping[str, str], texts_only: bool) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    schema, batches = _open(path)
    found = named_columns(str(path), schema.names, columns)
    if texts_only:
        found["audio"] = []
    held = [place for place in found["audio"] if not _is_text(schema.field(place).type)]
    if held and "audio" not in columns:
        # beside a recording itself, a name is where it came from
        found["audio"] = held
        logger.info(" > %s: the recordings in it are kept as files in %s", path, cache_folder() / "recordings")
    if not found["text"] or not (found["audio"] or texts_only):
        wanted, name = ("", "") if texts_only else ("one of recordings, such as audio, and ", "audio=NAME,")
        raise DataError(
            f"{path} has the columns {', '.join(schema.names)}; expected {wanted}one of texts, such as text. Say "
            f"which it is, for example --columns {name}text=NAME."
        )
    names = {place: _class_names(schema, schema.names[place]) for places in found.values() for place in places}
    number = 0
    for batch in batches:
        recordings: Iterable[Any] = [""] * batch.num_rows
        if not texts_only:
            column = batch.column(found["audio"][0])
            # one at a time, unless they are names
            recordings = map(_plain, column) if held else column.to_pylist()
        values = {
            role: _first_of([_texts(batch.column(place), names[place]) for place in places])
            for role, places in found.items()
            if places and role != "audio"
        }
        for place, recording in enumerate(recordings):
            number += 1
            row = {role: column[place] for role, column in values.items()}
            row["audio"], file = recording, None
            if not isinstance(row["audio"], str | int | float):
                row["audio"], file = _recording(f"{path}, row {number}", row["audio"])
            yield number, row, file


def _texts(column: pa.Array, names: list[str] | None) -> list[Any]:
    """The values of a column; of a column of classes their names. -1 is no class."""
    values = column.to_pylist()
    if names is None:
        return values
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values]


def _first_of(columns: list[list[Any]]) -> list[Any]:
    """Of each row the first value that is not null."""
    if len(columns) == 1:
        return columns[0]
    return [next((value for value in row if value is not None), None) for row in zip(*columns, strict=True)]


def _plain(value: pa.Scalar) -> Any:
    """A value as Python has it, but lists of numbers as arrays."""
    if isinstance(value, pa.StructScalar) and value.is_valid:
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, pa.ListScalar) and value.is_valid:
        nested = pa.types.is_nested(value.type.value_type)
        return np.array(value.as_py()) if nested else value.values.to_numpy(zero_copy_only=False)
    return value.as_py()


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
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """What the numbers in a column of classes stand for, as Hugging Face writes them beside the schema."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    feature = features.get(column)
    return feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _recording(where: str, held: Any) -> tuple[str, str | None]:
    """Name and file of a recording that a cell holds: its bytes, or a struct of them or of samples, and of a path."""
    parts = held if isinstance(held, dict) else {"bytes": held}
    path, content = parts.get("path"), parts.get("bytes")
    samples, rate = parts.get("array"), parts.get("sampling_rate") or parts.get("sample_rate")
    if isinstance(content, bytes) and content:
        file = _extract(content, path or "")
    elif isinstance(samples, np.ndarray) and samples.size and samples.dtype.kind in "iuf" and rate:
        file = _extract(_as_file(samples, int(rate)), "")
    elif isinstance(path, str):
        return path, None
    else:
        raise DataError(
            f"{where} has no recording: {str(held)[:80]}. Expected a file's bytes, its path, or a struct of array and "
            "sampling_rate. Write a table of samples without their rate anew, with datasets.Audio(decode=False)."
        )
    return path or os.path.basename(file), file


def _as_file(samples: npt.NDArray[Any], rate: int) -> bytes:
    """Samples, [frames] or [channels, frames], as a file: of AU, which holds no time and is the same each time."""
    kinds = {"int16": "PCM_16", "int32": "PCM_32"}
    if samples.dtype.name not in kinds:
        samples = samples.astype(np.float32)
    content = io.BytesIO()
    soundfile.write(content, samples.T, rate, format="AU", subtype=kinds.get(samples.dtype.name, "FLOAT"))
    return content.getvalue()


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
