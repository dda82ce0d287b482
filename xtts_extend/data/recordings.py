"""Measure every recording once, in threads, and cache the results by path, size and modification time.

The cache is a file. While recordings are measured, each process appends its results to a journal beside the file; at
the end, the results in the journals move to the file.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import stat
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from xtts_extend.data.audio import Recording, measure_recording
from xtts_extend.data.garbage import garbage_collection_paused
from xtts_extend.data.processes import SINGLE_PROCESS, Processes, is_own
from xtts_extend.errors import ConfigError, DataError, MachineError
from xtts_extend.files import append_lines, atomic_write, read_appended
from xtts_extend.progress import with_progress

logger = logging.getLogger(__name__)
#: Number of recordings whose results are added to the cache at once.
_CHUNK_FILES = 1024
#: The beginning of every cache file; a file that begins differently is never overwritten.
_CACHE_NAME = b"xtts_extend recordings"

#: Size in bytes and modification time in nanoseconds.
_Stamp = tuple[int, int]
#: A recording, an error message if it is unusable, or None if there is no such file.
Result = Recording | str | None


def read_recordings(
    paths: Sequence[str], cache: Path | None, progress: bool, processes: Processes = SINGLE_PROCESS
) -> dict[str, Result]:
    """For each path, return its recording, an error message if it is unusable, or None if there is no such file.

    Args:
        paths: Paths of the recordings; repeated paths are read only once.
        cache: File with the results of earlier calls. It is updated even if the call is interrupted; if the process is
            killed, the last thousand results are lost.
        progress: Show progress on stderr: a progress bar on a terminal, otherwise a line every ten seconds.
        processes: The processes that call this function with the same arguments and divide the recordings.

    Raises:
        ConfigError: There are several processes but no cache.
        DataError: The cache file cannot be read, or is not a recordings cache.
    """
    if cache is None and processes.size > 1:
        raise ConfigError("Several processes exchange their measurements through a cache. Pass a file with --cache.")
    known = None if cache is None else _Cache(cache, processes.rank)
    results: dict[str, Result] = {}
    stamps: dict[str, _Stamp] = {}
    for path in paths:
        stamp = _stamp(path)
        if stamp is None:
            results[path] = None
            continue
        stamps[path] = stamp
        recorded = known and known.recordings.get(path)
        if recorded and recorded[0] == stamp:
            results[path] = recorded[1]
    unread = [path for path in stamps if path not in results]
    # Rank 0 decides, because another run may change the cache while the ranks read it.
    if known is None or not processes.from_main(bool(unread)):
        return results | _measure(unread, stamps, None, progress)
    own = [path for path in unread if is_own(processes, path)]
    try:
        results |= _measure(own, stamps, known, progress and processes.rank == 0)
    finally:
        if processes.size == 1 and unread:
            known.join()
    processes.wait()
    if processes.size > 1:
        results |= {path: result for path, (stamp, result) in known.added().items() if stamps.get(path) == stamp}
        processes.wait()
        if processes.rank == 0:
            known.join()
    # If a rank could not write to the cache, the others do not have its results.
    return results | _measure([path for path in unread if path not in results], stamps, None, progress)


def _measure(
    paths: Sequence[str], stamps: Mapping[str, _Stamp], cache: _Cache | None, progress: bool
) -> dict[str, Result]:
    """Measure recordings in threads, and add the results to a cache."""
    results: dict[str, Result] = {}

    def read(path: str) -> None:
        try:
            results[path] = measure_recording(path)
        except DataError as error:
            results[path] = str(error)

    def read_all() -> Generator[None, None, None]:
        # Chunks limit the number of pending futures, and of results that are lost if the process is killed.
        for start in range(0, len(paths), _CHUNK_FILES):
            chunk = paths[start : start + _CHUNK_FILES]
            pool = ThreadPoolExecutor(max_workers=os.cpu_count())
            try:
                yield from pool.map(read, chunk)
            finally:
                pool.shutdown(cancel_futures=True)
                if cache is not None:
                    cache.add((path, stamps[path], results[path]) for path in chunk if path in results)

    with closing(read_all()) as done:
        deque(with_progress(done, len(paths), "recordings", progress), maxlen=0)
    return results


def _stamp(path: str) -> _Stamp | None:
    """Return the size and modification time of a file, or None if there is no such file."""
    try:
        status = os.stat(path)
    # os.stat raises ValueError for a name with a null character.
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


class _Cache:
    """A cache file and its journals.

    Args:
        path: The cache file.
        rank: Number of this process among those that add results.

    Attributes:
        recordings: Stamp and recording for each path, from the file and from the journals of killed processes.

    Raises:
        DataError: The file cannot be read, or is not a recordings cache.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self._path = path
        name = path.name.removeprefix(".")
        self._journal = path.with_name(f".{name}.{rank:05d}.new")
        self._journals = f".{glob.escape(name)}.*.new"
        self._is_writable = True
        self.recordings = _load(path)
        self._read_journals()

    def add(self, results: Iterable[tuple[str, _Stamp, Result]]) -> None:
        """Append results to this process's journal. If this fails, log a warning once and append nothing."""
        entries = [_entry(*result) for result in results]
        if not entries or not self._is_writable:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self._journal, entries)
        except (OSError, MachineError) as error:
            self._is_writable = False
            _warn_not_saved(error)

    def added(self) -> dict[str, tuple[_Stamp, Recording | str]]:
        """Return the results in the journals of all processes. Unlike the file, they include error messages."""
        return {
            entry["path"]: ((entry["size"], entry["mtime_ns"]), _result(entry))
            for journal in self._path.parent.glob(self._journals)
            for entry in read_appended(journal)
        }

    def join(self) -> None:
        """Write the file with the recordings in the journals, and remove the journals."""
        journals = list(self._path.parent.glob(self._journals))
        self._read_journals()
        body = "".join(
            json.dumps(_entry(path, stamp, recording)) + "\n" for path, (stamp, recording) in self.recordings.items()
        ).encode()
        try:
            with atomic_write(self._path) as file:
                file.write(_header(body))
                file.write(body)
            for journal in journals:
                journal.unlink(missing_ok=True)
        except (OSError, MachineError) as error:
            _warn_not_saved(error)

    def _read_journals(self) -> None:
        for path, (stamp, result) in self.added().items():
            # A recording that could not be read is tried again.
            if isinstance(result, Recording):
                self.recordings[path] = stamp, result


def _entry(path: str, stamp: _Stamp, result: Result) -> dict[str, Any]:
    recording = vars(result) if isinstance(result, Recording) else result
    return {"path": path, "size": stamp[0], "mtime_ns": stamp[1], "recording": recording}


def _result(entry: Mapping[str, Any]) -> Recording | str:
    recording = entry["recording"]
    return recording if isinstance(recording, str) else Recording(**recording)


def _header(body: bytes) -> bytes:
    """Return the first line of a cache file: its version, and a digest of its body that detects damage."""
    return _CACHE_NAME + f", version 3, {hashlib.sha256(body).hexdigest()}\n".encode()


@garbage_collection_paused()
def _load(path: Path) -> dict[str, tuple[_Stamp, Recording]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"Recordings cache {path} cannot be read ({error}). Choose a different cache file.") from error
    header, _, body = content.partition(b"\n")
    if content and not header.startswith(_CACHE_NAME):
        raise DataError(f"{path} is not a recordings cache and would be overwritten. Choose a different cache file.")
    if header + b"\n" != _header(body):
        logger.warning("%s is damaged or was written by a different version. All recordings will be read again.", path)
        return {}
    entries = (json.loads(line) for line in body.splitlines())
    return {entry["path"]: ((entry["size"], entry["mtime_ns"]), Recording(**entry["recording"])) for entry in entries}


def _warn_not_saved(error: Exception) -> None:
    logger.warning("The recordings cache was not saved (%s). The next check will read all recordings again.", error)
