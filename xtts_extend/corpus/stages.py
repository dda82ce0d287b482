"""Results of work that is done once: a file for each stage, with a digest of what it was computed from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from xtts_extend.errors import DataError
from xtts_extend.files import append_line, atomic_write

Json: TypeAlias = Any

#: Increased whenever a stage's code changes its result, so that results of an older release are not used.
_VERSION = 2


class Stages:
    """The finished stages of one recording.

    Args:
        folder: Folder for the results, created when the first stage is finished.
        source: What the stages are computed from: the recording's digest.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self._source = folder, source

    def run(self, name: str, inputs: Json, compute: Callable[[], Json]) -> Json:
        """Return the result of a stage: from its file, if it was computed from the same inputs, or else computed now.

        Args:
            name: Name of the stage. Its file is NAME.json.
            inputs: Everything besides the recording that the result depends on, as JSON values.
            compute: Computes the result, as JSON values.

        Raises:
            MachineError: The result cannot be written.
        """
        path = self.folder / f"{name}.json"
        key = digest_of([_VERSION, self._source, name, inputs])
        try:
            stored = json.loads(path.read_bytes())
            if stored["key"] == key:
                return stored["result"]
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}). Remove the file, and run make-dataset again.") from error
        result = compute()
        with atomic_write(path) as file:
            file.write(json.dumps({"key": key, "result": result}, ensure_ascii=False).encode())
        return result

    def forget(self, name: str) -> None:
        """Remove the result of a stage, because a file that belongs to it is missing."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def run_each(self, name: str, inputs: Json, count: int, compute: Callable[[int], Json]) -> Iterator[Json]:
        """Yield the results of a stage of many slow steps, each of which is kept as soon as it is computed.

        Args:
            name: Name of the stage. Its file is NAME.jsonl.
            inputs: See `run`.
            count: Number of steps.
            compute: Computes the result of a step from its number, as JSON values.

        Raises:
            DataError: The file is damaged.
            MachineError: A result cannot be written.
        """
        path = self.folder / f"{name}.jsonl"
        header = {"key": digest_of([_VERSION, self._source, name, inputs])}
        known = _read_lines(path, header)
        if known is None:
            path.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            append_line(path, json.dumps(header).encode())
            known = []
        for number in range(count):
            if number >= len(known):
                known.append(compute(number))
                append_line(path, json.dumps(known[-1], ensure_ascii=False).encode())
            yield known[number]


def _read_lines(path: Path, header: Json) -> list[Json] | None:
    """Return the finished results in a file, or None if there are none with this header."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    if rest:
        # A kill left a line unfinished. `append_line` would end it.
        with path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
    try:
        found = [json.loads(line) for line in lines]
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}). Remove the file, and run make-dataset again.") from error
    return found[1:] if found and found[0] == header else None


def digest_of(values: Json) -> str:
    """Return a digest of JSON values, 32 hexadecimal digits.

    >>> digest_of([1, "a"]) == digest_of([1, "a"])
    True
    """
    encoded = json.dumps(values, ensure_ascii=False, sort_keys=True).encode()
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()
