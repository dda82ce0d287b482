"""Turn a data set in Parquet, in Hugging Face's layout, into audio files and a manifest of JSON lines."""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtts_extend.data.arrow_tables import (
    Recording,
    cell_values,
    class_names,
    is_text,
    open_table,
    recording_of,
    to_python,
)
from xtts_extend.data.columns import named_columns
from xtts_extend.data.source_spec import choose_split, listed
from xtts_extend.errors import ConfigError, DataError
from xtts_extend.files import atomic_folder, atomic_write
from xtts_extend.progress import with_progress

logger = logging.getLogger("trainer")

MANIFEST, SKIPPED = "metadata.jsonl", "skipped.jsonl"
#: Column of the manifest that names the audio files. It takes precedence over all other names of recordings.
_AUDIO = "audio_file"
_CLIPS, _ROWS = "clips", "rows.jsonl"
#: The number of a file in a split: "-00000-of-00003", "-00000-of-00003-0123abcd", "_0", "0000".
_NUMBER = re.compile(r"(?:^|[-_.])\d+(?:-of-\d+)?(?:-[0-9a-f]{8,})?$")
_KNOWN_SPLIT = re.compile(r"(?:.*[-_.])?(train|validation|valid|val|dev|test)", re.IGNORECASE)
#: Prefix of the folders of data sets of which the hub has converted only the first gigabytes.
PARTIAL = "partial-"
_LISTED = 10


@dataclass(frozen=True)
class ParquetSplit:
    """The files of one split, in order, named as in the repository or the folder."""

    config: str
    split: str
    files: tuple[str, ...]


def find_splits(names: Iterable[str]) -> list[ParquetSplit]:
    """Return the splits that Parquet files belong to, judging by their paths.

    The layouts are `CONFIG/SPLIT/0000.parquet`, `CONFIG/SPLIT-00000-of-00003.parquet` and `CONFIG/SPLIT.parquet`. A
    folder `data` does not count, and CONFIG may be missing.

    >>> find_splits(["am/train/0000.parquet", "data/test-00000-of-00001.parquet"])
    [ParquetSplit(config='', split='test', files=('data/test-00000-of-00001.parquet',)),
     ParquetSplit(config='am', split='train', files=('am/train/0000.parquet',))]
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(names):
        *folders, file = name.split("/")
        split = _NUMBER.sub("", file.removesuffix(".parquet"))
        if not split:
            split = folders.pop() if folders else "train"
        split = split.removeprefix(PARTIAL)
        known = _KNOWN_SPLIT.fullmatch(split)
        config = "/".join(folder for folder in folders if folder != "data")
        found[config, known[1] if known else split].append(name)
    return [ParquetSplit(config, split, tuple(files)) for (config, split), files in sorted(found.items())]


def choose_parquet_split(splits: Sequence[ParquetSplit], config: str, split: str, where: str) -> ParquetSplit:
    """Return the split that was asked for, or the one for training.

    Args:
        splits: All splits.
        config: Name of the configuration; "" for the only or the default one.
        split: Name of the split; "" for the default.
        where: The data set as the user spelled it, for messages.

    Raises:
        ConfigError: There is no such configuration or split, or there are several configurations.
    """
    configs = sorted({item.config for item in splits})
    if not config and len(configs) > 1 and not {"", "default"} & set(configs):
        raise ConfigError(
            f"{where} has several configurations: {listed(configs)}. Choose one: append its name after a slash, as in "
            f"hf:USER/NAME/{configs[0]}, or pass its folder."
        )
    name = config or next((item for item in ("default", "") if item in configs), configs[0])
    if name not in configs:
        # The last folder is enough, as in am_et for parquet/am_et.
        name = next((item for item in configs if item.split("/")[-1] == name), name)
    if name not in configs:
        raise ConfigError(f"{where} has no configuration {name!r}. Its configurations are: {listed(configs)}.")
    by_split = {item.split: item for item in splits if item.config == name}
    return choose_split(by_split, split, f"{where}{f' ({name})' if name and not config else ''}")


def convert_parquet(
    names: Sequence[str],
    fetch: Callable[[str], Path],
    done: Callable[[Path], None],
    folder: Path,
    progress: bool = True,
) -> None:
    """Write the recordings of Parquet files to audio files, and everything else to a manifest.

    The bytes of the recordings are written as they are. Each Parquet file has a folder of its own, which appears when
    it is complete, so an interrupted conversion continues with the next file. Rows without a recording are listed in
    `skipped.jsonl` with their reason; the data check reports those without a text.

    Args:
        names: Names of the Parquet files.
        fetch: Returns the path of a Parquet file, given its name. It is called only for files that are not converted.
        done: Called with the path of each converted file.
        folder: Folder for `metadata.jsonl`, which is written last, and the audio files.
        progress: Whether to show progress.

    Raises:
        DataError: A file is damaged or has no recordings.
        MachineError: A file cannot be written.
    """
    folders = [folder / _CLIPS / f"{number:04d}-{Path(name).stem}" for number, name in enumerate(names)]
    for name, target in zip(names, folders, strict=True):
        if target.is_dir():
            continue
        path = fetch(name)
        try:
            with atomic_folder(target) as partial:
                _convert(path, name, partial, f"{_CLIPS}/{target.name}", progress)
        except (pa.ArrowException, ValueError) as error:
            raise _damaged(path, error) from error
        done(path)
    for name in (SKIPPED, MANIFEST):
        source = _ROWS if name == MANIFEST else SKIPPED
        with atomic_write(folder / name) as file:
            for target in folders:
                file.write((target / source).read_bytes())
    if not (folder / MANIFEST).stat().st_size:
        raise DataError(f"There is no recording in {listed(names)}. The reasons are in {folder / SKIPPED}.")


def warn_of_skipped(folder: Path) -> None:
    """Log a warning with the rows of a data set that are not in its manifest, and why."""
    file = folder / SKIPPED
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if not lines:
        return
    rows = [json.loads(line) for line in lines[:_LISTED]]
    named = "; ".join(f"{row['file']}, row {row['row']}: {row['reason']}" for row in rows)
    more = f"; and {len(lines) - _LISTED:,} more, listed in {file}" if len(lines) > _LISTED else ""
    logger.warning(" ! Rows without a recording are skipped: %s%s.", named, more)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as Parquet: {error}. Copy or download it again.")


def _convert(path: Path, name: str, folder: Path, clips: str, progress: bool) -> None:
    """Write the recordings and rows of one Parquet file to a folder.

    Args:
        path: The file.
        name: Its name, for messages.
        folder: Existing folder to write to.
        clips: Name of the folder in the manifest.
        progress: Whether to show progress.
    """
    try:
        total = pq.read_metadata(path).num_rows
        schema, batches = open_table(path)
    except OSError as error:
        raise _damaged(path, error) from error
    audio, kept = _audio_column(schema, name), _kept_columns(schema)
    with (
        (folder / _ROWS).open("w", encoding="utf-8") as rows,
        (folder / SKIPPED).open("w", encoding="utf-8") as skipped,
    ):
        numbered = enumerate(_rows(path, batches, audio, kept), start=1)
        for number, (cell, values) in with_progress(numbered, total, f"rows of {Path(name).name}", progress):
            recording = recording_of(cell)
            if recording is None or recording.content is None:
                entry: dict[str, Any] = {"file": name, "row": number, "reason": _reason(cell, recording)}
                skipped.write(json.dumps(entry, ensure_ascii=False) + "\n")
                continue
            file = f"{number:06d}{recording.suffix}"
            (folder / file).write_bytes(recording.content)
            rows.write(json.dumps({_AUDIO: f"{clips}/{file}", **values}, ensure_ascii=False) + "\n")


def _reason(cell: Any, recording: Recording | None) -> str:
    if recording is not None:
        return f"there is only the name of a recording, {recording.name!r}, without its bytes"
    return "there is no recording" if cell is None else f"there is no recording in {str(cell)[:60]!r}"


def _audio_column(schema: pa.Schema, name: str) -> int:
    """Return the number of the column with the recordings: by its name, or by its type, a struct with bytes."""
    named = [index for index in named_columns(name, schema.names, {})["audio"] if not is_text(schema.field(index).type)]
    structs = [index for index, field in enumerate(schema) if pa.types.is_struct(field.type)]
    found = named + [index for index in structs if schema.field(index).type.get_field_index("bytes") >= 0]
    if not found:
        raise DataError(
            f"{name} has no recordings: its columns are {', '.join(schema.names)}. Expected a column such as audio "
            "that contains the bytes of audio files."
        )
    return found[0]


def _kept_columns(schema: pa.Schema) -> dict[int, list[str] | None]:
    """Return the numbers of the columns for the manifest, each with its class labels if it has any."""
    return {
        index: class_names(schema, field.name)
        for index, field in enumerate(schema)
        if is_text(field.type) and field.name != _AUDIO
    }


def _rows(
    path: Path, batches: Iterable[pa.RecordBatch], audio: int, kept: Mapping[int, list[str] | None]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the recording's cell and the other values of each row."""
    try:
        for batch in batches:
            columns = {batch.schema.names[index]: cell_values(batch.column(index), kept[index]) for index in kept}
            # One by one, so that only one recording is in memory at a time.
            for index, cell in enumerate(map(to_python, batch.column(audio))):
                yield cell, {name: _plain(column[index]) for name, column in columns.items()}
    except OSError as error:
        raise _damaged(path, error) from error


def _plain(value: Any) -> str | int | float | bool | None:
    """Return a value that JSON can represent."""
    if isinstance(value, float) and value != value:
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
