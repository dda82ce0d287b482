"""Read and write utterances encoded as DVAE codes, in sets of memory-mapped Arrow files.

The folder of a set contains parts (Arrow files), `set.json` with the SHA-256 of each part, and the recordings of the
voices. While a set is being written, each process lists its new parts in a journal of its own, so that a part costs the
same however many there are; `join_parts` then moves the entries to `set.json`. Only listed parts belong to the set, so
if a process is killed, another can pick up where it left off. The format is Arrow because rows contain text, numbers
and lists of different lengths, and because all loader workers share a mapped file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError, DataError, MachineError
from xtts_extend.files import append_lines, atomic_write, file_digest, read_appended, require_creatable

FORMAT_VERSION = 2
INDEX = "set.json"
_JOURNALS = ".parts-*.jsonl"
#: Number of most likely codes to keep from each distribution. All other codes are combined into one value.
TOP_K = 64

_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("language", pa.string()),
        # The recording that conditions the utterance (an absolute path, or one relative to the folder), and the start
        # and end of the slice to use, in samples. Without a start and an end, a slice is drawn in each epoch.
        ("voice", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("codes", pa.list_(pa.uint16())),
        # Only for an encoded recording: its length in samples at the model's rate, the digest of its file, and the
        # token ids of the text.
        ("wav_length", pa.int32()),
        ("audio_digest", pa.string()),
        ("ids", pa.list_(pa.int32())),
        # If known, the base's distribution for each code and the stop token: (codes + 1) × TOP_K values, row by row.
        ("top_ids", pa.list_(pa.uint16())),
        ("top_log_probs", pa.list_(pa.float16())),
    ]
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The location and properties of an utterance's codes. Unlike the codes, they are cheap to copy to loader workers.

    Attributes:
        file, row: Path of the Arrow file, and index of the row in it, starting at 0.
        wav_length: Number of audio samples that the codes represent, at the model's rate.
        has_ids: Whether the row has the token ids of the text.
        has_distribution: Whether every row of the file has the base's distributions.
        part_digest: SHA-256 of the file if it belongs to a replay set, otherwise None.
    """

    file: str
    row: int
    wav_length: int
    has_ids: bool = False
    has_distribution: bool = False
    part_digest: str | None = None

    def codes(self) -> Tensor:
        """Read the DVAE codes, int64 [codes]."""
        return torch.from_numpy(_values(self.file, "codes", self.row).astype(np.int64))

    def ids(self) -> Tensor:
        """Read the token ids of the text, int32 [tokens]. Requires `has_ids`."""
        return torch.from_numpy(_values(self.file, "ids", self.row).astype(np.int32))

    def distribution(self) -> tuple[Tensor, Tensor] | None:
        """Read the base's distribution for each code and the stop token.

        Returns:
            The most likely ids (int64 [codes + 1, TOP_K]) and their log probabilities (float32, same shape), or None if
            the row has no distribution.
        """
        if not _table(self.file)["top_ids"][self.row].is_valid:
            return None
        ids = torch.from_numpy(_values(self.file, "top_ids", self.row).astype(np.int64))
        log_probs = torch.from_numpy(_values(self.file, "top_log_probs", self.row).astype(np.float32))
        return ids.view(-1, TOP_K), log_probs.view(-1, TOP_K)


def _values(file: str, column: str, row: int) -> Any:
    return _table(file)[column][row].values.to_numpy(zero_copy_only=False)


@functools.cache
def _table(file: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(file)).read_all()


@dataclass(frozen=True)
class Utterance:
    """A row to write. `codes` is int [codes], and `distribution` is what `Encoded.distribution` returns."""

    text: str
    language: str
    voice: str
    codes: Tensor
    conditioning_slice: tuple[int, int] | None = None
    distribution: tuple[Tensor, Tensor] | None = None
    wav_length: int | None = None
    audio_digest: str | None = None
    ids: Sequence[int] | None = None


def is_encoded_set(path: Path) -> bool:
    """Return whether a path is the folder of a set of encoded utterances."""
    return (path / INDEX).is_file()


def read_index(folder: Path) -> dict[str, Any]:
    """Return the contents of a set's `set.json`, with the parts in its journals.

    Raises:
        DataError: The file is missing or damaged, or has a different version.
    """
    file = folder / INDEX
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        version = index["version"]
        is_known = isinstance(index["parts"], list)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Pass a folder written by make-replay.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged. Delete its folder and create the set again.") from error
    if version != FORMAT_VERSION or not is_known:
        raise DataError(
            f"{file} is version {version}, but this release reads version {FORMAT_VERSION}. Delete its folder and "
            "create the set again."
        )
    # A process that is killed while it joins the parts leaves journals with parts that are in the index.
    listed = {part["file"] for part in index["parts"]}
    entries = {part["file"]: part for journal in folder.glob(_JOURNALS) for part in read_appended(journal)}
    added = [entries[file] for file in sorted(entries.keys() - listed, key=lambda file: (len(file), file))]
    for part in added:
        index.update(part.pop("totals", {}))
    return {**index, "parts": index["parts"] + added}


def require_free(folder: Path) -> None:
    """Raise ConfigError unless a folder is a set or can become one.

    Raises:
        ConfigError: The path is a file, or the folder contains something else.
    """
    require_creatable(folder)
    # Hidden files belong to the set: the lock, the cache of measured recordings, and an index that was being written
    # when the process was killed.
    if folder.exists() and not is_encoded_set(folder) and any(entry.name[0] != "." for entry in folder.iterdir()):
        raise ConfigError(
            f"{folder} exists but is not a set of encoded utterances, because it has no {INDEX}. Choose a different "
            "folder, or remove this one."
        )


def require_settings(folder: Path, settings: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Raise ConfigError unless a set was created with these settings.

    Args:
        folder: Folder of the set.
        settings: Settings that apply to the whole set.
        names: Names of the settings in messages, keyed by setting. Only these settings are compared.

    Raises:
        ConfigError: The set was created with different settings.
    """
    recorded = read_index(folder)
    changed = [name for key, name in names.items() if recorded.get(key) != settings[key]]
    if changed:
        raise ConfigError(
            f"{folder} contains a set that was created with different settings: {', '.join(changed)} changed. To add "
            "to this set, use the same settings. Otherwise, choose a different folder."
        )


def open_set(folder: Path, settings: Mapping[str, Any], names: Mapping[str, str], start: Mapping[str, Any]) -> None:
    """Create the folder for a set, or check that an existing set has the same settings.

    Args:
        folder: Folder of the set.
        settings: Settings that apply to the whole set. They are recorded in its index.
        names: Names of the settings in messages, keyed by setting. Only these settings are compared.
        start: Additional entries for the index of a new set.

    Raises:
        ConfigError: The folder contains something other than a set, or a set with different settings.
        MachineError: The folder cannot be created.
    """
    if is_encoded_set(folder):
        require_settings(folder, settings, names)
        return
    require_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{folder} cannot be created: {error.strerror}. Choose a different --output.") from error
    write_index(folder, {**settings, "parts": [], **start})


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write a set's `set.json` atomically.

    Args:
        folder: Folder of the set.
        index: Contents of the index, without the version.
    """
    with atomic_write(folder / INDEX) as file:
        file.write(json.dumps({"version": FORMAT_VERSION, **index}, ensure_ascii=False, indent=1).encode())


def write_part(folder: Path, number: int, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Write one part of a set.

    Args:
        folder: Folder of the set.
        number: Number of the part.
        utterances: Rows of the part.

    Returns:
        The entry of the part for the index or for `add_part`. Before that, the part does not belong to the set.

    Raises:
        MachineError: The disk is full, or the folder is not writable.
    """
    path = folder / f"part-{number:05d}.arrow"
    write_rows(path, utterances)
    return {"file": path.name, "rows": len(utterances), "sha256": file_digest(path)}


def write_rows(path: Path, utterances: Sequence[Utterance]) -> None:
    """Write utterances to an Arrow file, which appears completely or not at all.

    Raises:
        MachineError: The disk is full, or the folder is not writable.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for utterance in utterances:
        start, end = utterance.conditioning_slice or (None, None)
        ids, log_probs = utterance.distribution or (None, None)
        row: dict[str, Any] = {"text": utterance.text, "language": utterance.language, "voice": utterance.voice}
        row |= {"start": start, "end": end, "codes": utterance.codes.numpy().astype(np.uint16)}
        row |= {"wav_length": utterance.wav_length, "audio_digest": utterance.audio_digest, "ids": utterance.ids}
        row["top_ids"] = None if ids is None else ids.numpy().astype(np.uint16).ravel()
        row["top_log_probs"] = None if log_probs is None else log_probs.numpy().astype(np.float16).ravel()
        for name, value in row.items():
            columns[name].append(value)
    try:
        with atomic_write(path) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
            writer.write_table(pa.table(columns, schema=_SCHEMA))
    except pa.ArrowException as error:
        raise MachineError(
            f"{path} cannot be written: {error}. Free up disk space and run the command again."
        ) from error


def add_part(folder: Path, rank: int, part: Mapping[str, Any], totals: Mapping[str, Any] | None = None) -> None:
    """Add a part to a set by listing it in the journal of this process.

    Args:
        folder: Folder of the set.
        rank: Number of this process among those that add to the set.
        part: Entry of the part, as `write_part` returns it. It may have more values.
        totals: Entries of the index that change with this part.

    Raises:
        MachineError: The disk is full, or the folder is not writable.
    """
    append_lines(folder / f".parts-{rank:05d}.jsonl", [part if totals is None else {**part, "totals": totals}])


def join_parts(folder: Path, damaged: Sequence[str] = ()) -> None:
    """List the parts in the journals in `set.json`, and remove the journals. No process may be adding parts.

    Args:
        folder: Folder of the set.
        damaged: Files of the parts to leave out of `set.json`.

    Raises:
        MachineError: The disk is full, or the folder is not writable.
    """
    journals, index = list(folder.glob(_JOURNALS)), read_index(folder)
    if journals or damaged:
        write_index(folder, index | {"parts": [part for part in index["parts"] if part["file"] not in damaged]})
    for journal in journals:
        journal.unlink()


def encoded_rows(
    folder: Path, part: Mapping[str, Any], columns: Sequence[str]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """For each row of a part, yield the file, the row number (see `Encoded`) and the values.

    Args:
        folder: Folder of the set.
        part: Entry of the part in the index.
        columns: Columns to read. The values also include `count`, the number of codes.
    """
    path = str((folder / part["file"]).absolute())
    table = _table(path)
    counts = pc.list_value_length(table["codes"]).to_pylist()
    values = zip(*(table[name].to_pylist() for name in columns), strict=True)
    for number, (count, row) in enumerate(zip(counts, values, strict=True)):
        yield path, number, {"count": count, **dict(zip(columns, row, strict=True))}


def is_intact(folder: Path, part: Mapping[str, Any]) -> bool:
    """Return whether a part exists and has the digest recorded in the index."""
    path = folder / part["file"]
    return path.is_file() and file_digest(path) == part["sha256"]


def read_encoded(folder: Path, code_samples: int, sample_rate: int) -> list[Sample]:
    """Read a replay set as samples, with codes in `encoded` and the conditioning recording in `audio_file`.

    Args:
        folder: Folder that `make_replay` wrote. It may be incomplete.
        code_samples: Number of audio samples that a code represents.
        sample_rate: The model's sample rate in Hz.

    Raises:
        ConfigError: The folder contains codes of recordings, which must be read with their manifest.
        DataError: The set is damaged or empty. The message names the damaged part.
    """
    samples: list[Sample] = []
    index = read_index(folder)
    if "codec_digest" in index:
        raise ConfigError(
            f"{folder} contains the cached codes of recordings, not a replay set. Pass it with --codes, and pass the "
            "manifest of the recordings here instead."
        )
    for part in index["parts"]:
        if not is_intact(folder, part):
            raise DataError(
                f"{folder / part['file']} is missing or damaged. Create the set again in a different folder."
            )
        has_distribution = _table(str((folder / part["file"]).absolute()))["top_ids"].null_count == 0
        for file, number, row in encoded_rows(folder, part, ("text", "language", "voice", "start", "end")):
            encoded = Encoded(
                file,
                number,
                wav_length=row["count"] * code_samples,
                has_distribution=has_distribution,
                part_digest=part["sha256"],
            )
            samples.append(
                Sample(
                    text=row["text"],
                    audio_file=str((folder / row["voice"]).absolute()),
                    language=row["language"],
                    manifest_audio_file=f"{part['file']}#{number}",
                    speaker_name=Path(row["voice"]).stem,
                    manifest=str((folder / INDEX).absolute()),
                    root_path=str(folder.absolute()),
                    conditioning_slice=None if row["start"] is None else (row["start"], row["end"]),
                    encoded=encoded,
                    duration_s=encoded.wav_length / sample_rate,
                )
            )
    if not samples:
        raise DataError(f"{folder} contains no utterances yet. Wait for make-replay to finish.")
    return samples
