"""Utterances whose audio is DVAE codes already: Arrow files in a folder, mapped into memory and never read whole.

Arrow, because a row here is text, numbers and lists of different lengths, and a process that maps a file shares it with
all loader workers. A folder holds the parts, `set.json` with the digest of each, and the recordings of the voices. A
part counts when `set.json` names it, so a folder whose making was killed can be gone on with.
"""

from __future__ import annotations

import functools
import hashlib
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
from xtts_extend.files import atomic_write, require_creatable

FORMAT_VERSION = 2
INDEX = "set.json"
#: Most likely codes that are kept of the distribution at each place; the others' probability is kept as one number.
TOP_K = 64

_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("language", pa.string()),
        # a recording, from the folder or by its whole path, and the slice of it that conditions the utterance, in
        # samples; without a slice one is drawn anew in each epoch
        ("voice", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("codes", pa.list_(pa.uint16())),
        # where a recording was encoded: its length in samples at the model's rate, the digest of its file, and the
        # token ids of the text
        ("wav_length", pa.int32()),
        ("audio_digest", pa.string()),
        ("ids", pa.list_(pa.int32())),
        # if it is known, the base's distribution at each place and at the end: (codes + 1) × TOP_K, row by row
        ("top_ids", pa.list_(pa.uint16())),
        ("top_log_probs", pa.list_(pa.float16())),
    ]
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The place of an utterance's codes, and what is known of them; cheap to hand to loader workers.

    Attributes:
        file, row: the place.
        wav_length: audio samples that the codes stand for, at the model's rate.
        has_ids: the token ids of the text were kept.
        has_distribution: the base's distributions were kept, of every utterance in the file.
        part_digest: SHA-256 of the file, where what it holds came from no recording.
    """

    file: str
    row: int
    wav_length: int
    has_ids: bool = False
    has_distribution: bool = False
    part_digest: str | None = None

    def codes(self) -> Tensor:
        """DVAE codes, int64 [codes]."""
        return torch.from_numpy(_values(self.file, "codes", self.row).astype(np.int64))

    def ids(self) -> Tensor:
        """Token ids of the text, int32 [tokens], where they were kept."""
        return torch.from_numpy(_values(self.file, "ids", self.row).astype(np.int32))

    def distribution(self) -> tuple[Tensor, Tensor] | None:
        """The base's distribution of each code and of the stop token, if it was kept.

        Returns:
            The most likely ids (int64 [codes + 1, TOP_K]) and their log probabilities (float32, the same shape).
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
    """A row to write; `codes` as int [codes], the others as the columns of the file."""

    text: str
    language: str
    voice: str
    codes: Tensor
    conditioning_slice: tuple[int, int] | None = None
    distribution: tuple[Tensor, Tensor] | None = None
    wav_length: int | None = None
    audio_digest: str | None = None
    ids: Sequence[int] | None = None


def file_digest(path: Path) -> str:
    """SHA-256 of a file; a file that has not changed since is not read again in the same process.

    Raises:
        DataError: it cannot be read.
    """
    try:
        found = path.stat()
        return _digest(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, *identity: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_encoded_set(path: Path) -> bool:
    """Whether a path is a folder of encoded utterances."""
    return (path / INDEX).is_file()


def read_index(folder: Path) -> dict[str, Any]:
    """The content of `set.json`.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    file = folder / INDEX
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        version = index["version"]
        known = isinstance(index["parts"], list)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Give a folder that make-replay wrote.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged. Remove its folder, and make the set again.") from error
    if version != FORMAT_VERSION or not known:
        raise DataError(
            f"{file} has version {version}; this release reads {FORMAT_VERSION}. Remove its folder, and make the set "
            "again."
        )
    return dict(index)


def require_free(folder: Path) -> None:
    """See that a folder is a set, or can become one.

    Raises:
        ConfigError: it is a file, or holds something else.
    """
    require_creatable(folder)
    # hidden files are ours: a lock, what was read of recordings, what a kill left of the index
    if folder.exists() and not is_encoded_set(folder) and any(entry.name[0] != "." for entry in folder.iterdir()):
        raise ConfigError(
            f"{folder} exists and is no set of encoded utterances, for it has no {INDEX}. Give another folder, or "
            "remove it."
        )


def require_settings(folder: Path, settings: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """See that a set was made with these settings.

    Args:
        folder: of the set.
        settings: what all of a set is made with.
        names: what the settings are called in messages.

    Raises:
        ConfigError: other settings made it.
    """
    before = read_index(folder)
    changed = [name for key, name in names.items() if before.get(key) != settings[key]]
    if changed:
        raise ConfigError(
            f"{folder} holds a set that was made with other settings: {', '.join(changed)} changed. Give the same ones "
            "to go on with it, or another folder."
        )


def open_set(folder: Path, settings: Mapping[str, Any], names: Mapping[str, str], start: Mapping[str, Any]) -> None:
    """Make the folder of a set, or see that the set in it was made with the same settings.

    Args:
        folder: of the set.
        settings: what all of a set is made with; kept in its index.
        names: what the settings are called in messages.
        start: what else the index of a new set holds.

    Raises:
        ConfigError: the folder holds something else, or other settings made it.
        MachineError: it cannot be made.
    """
    if is_encoded_set(folder):
        require_settings(folder, settings, names)
        return
    require_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{folder} cannot be made: {error.strerror}. Give another --output.") from error
    write_index(folder, {**settings, "parts": [], **start})


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write `set.json` whole or not at all."""
    with atomic_write(folder / INDEX) as file:
        file.write(json.dumps({"version": FORMAT_VERSION, **index}, ensure_ascii=False, indent=1).encode())


def write_part(folder: Path, number: int, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Write one part; it counts when its entry, which this returns, is in the index.

    Raises:
        MachineError: the disk is full or cannot be written to.
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
    path = folder / f"part-{number:05d}.arrow"
    try:
        with atomic_write(path) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
            writer.write_table(pa.table(columns, schema=_SCHEMA))
    except pa.ArrowException as error:
        raise MachineError(f"{path} cannot be written: {error}. Make room, and give the same command again.") from error
    return {"file": path.name, "rows": len(utterances), "sha256": file_digest(path)}


def encoded_rows(
    folder: Path, part: Mapping[str, Any], columns: Sequence[str]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The rows of a part: file and row as in `Encoded`, these columns, and `count`, the number of codes."""
    path = str((folder / part["file"]).absolute())
    table = _table(path)
    counts = pc.list_value_length(table["codes"]).to_pylist()
    values = zip(*(table[name].to_pylist() for name in columns), strict=True)
    for number, (count, row) in enumerate(zip(counts, values, strict=True)):
        yield path, number, {"count": count, **dict(zip(columns, row, strict=True))}


def is_intact(folder: Path, part: Mapping[str, Any]) -> bool:
    """Whether a part is there, and what was written."""
    path = folder / part["file"]
    return path.is_file() and file_digest(path) == part["sha256"]


def read_encoded(folder: Path, code_samples: int, sample_rate: int) -> list[Sample]:
    """The utterances of a replay set as samples: their codes are `encoded`, `audio_file` is what conditions them.

    Args:
        folder: what `make_replay` wrote, whole or as far as it came.
        code_samples: audio samples that a code stands for.
        sample_rate: of the model, in Hz.

    Raises:
        ConfigError: the folder holds codes of recordings, which are no samples by themselves.
        DataError: the folder is damaged or empty; the part is named.
    """
    samples: list[Sample] = []
    index = read_index(folder)
    if "codec_digest" in index:
        raise ConfigError(
            f"{folder} holds the codes of recordings. Give it as --codes, and the manifest of the recordings here."
        )
    for part in index["parts"]:
        if not is_intact(folder, part):
            raise DataError(f"{folder / part['file']} is missing or damaged. Make the set again in another folder.")
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
        raise DataError(f"{folder} holds no utterance yet. Let make-replay finish.")
    return samples
