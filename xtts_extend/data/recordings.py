"""Measure every recording once, in threads, and cache the results by path, size and modification time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from xtts_extend.data.audio import Recording, measure_recording
from xtts_extend.errors import DataError, MachineError
from xtts_extend.files import atomic_write
from xtts_extend.progress import with_progress

logger = logging.getLogger(__name__)
_CHUNK_FILES = 1024
#: The beginning of every cache file; a file that begins differently is never overwritten.
_CACHE_NAME = b"xtts_extend recordings"


def read_recordings(paths: Sequence[str], cache: Path | None, progress: bool) -> dict[str, Recording | str | None]:
    """For each path, return its recording, an error message if it is unusable, or None if there is no such file.

    Args:
        paths: Paths of the recordings; repeated paths are read only once.
        cache: File with the results of earlier calls; it is updated even if the call is interrupted.
        progress: Show progress on stderr: a progress bar on a terminal, otherwise a line every ten seconds.

    Raises:
        DataError: The cache file cannot be read, or is not a recordings cache.
    """
    known = {} if cache is None else _load_cache(cache)
    results: dict[str, Recording | str | None] = {}
    stamps: dict[str, tuple[int, int]] = {}
    for path in paths:
        stamp = _stamp(path)
        if stamp is None:
            results[path] = None
            continue
        stamps[path] = stamp
        if path in known and known[path][0] == stamp:
            results[path] = known[path][1]
    unread = [path for path in stamps if path not in results]

    def read(path: str) -> None:
        try:
            results[path] = measure_recording(path)
        except DataError as error:
            results[path] = str(error)

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        # Chunks limit the number of pending futures.
        chunks = (unread[start : start + _CHUNK_FILES] for start in range(0, len(unread), _CHUNK_FILES))
        done = (result for chunk in chunks for result in pool.map(read, chunk))
        deque(with_progress(done, len(unread), "recordings", progress), maxlen=0)
    finally:
        pool.shutdown(cancel_futures=True)
        if cache is not None and unread:
            for path in unread:
                if isinstance(recording := results.get(path), Recording):
                    known[path] = (stamps[path], recording)
            _save_cache(cache, known)
    return results


def _stamp(path: str) -> tuple[int, int] | None:
    """Return the size and modification time of a file, or None if there is no such file."""
    try:
        status = os.stat(path)
    # os.stat raises ValueError for a name with a null character.
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


Cache = dict[str, tuple[tuple[int, int], Recording]]


def _cache_header(body: bytes) -> bytes:
    """Return the first line of a cache file: its version, and a digest of its body that detects damage."""
    return _CACHE_NAME + f", version 3, {hashlib.sha256(body).hexdigest()}\n".encode()


def _load_cache(path: Path) -> Cache:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"Recordings cache {path} cannot be read ({error}). Choose a different cache file.") from error
    header, _, body = content.partition(b"\n")
    if content and not header.startswith(_CACHE_NAME):
        raise DataError(f"{path} is not a recordings cache and would be overwritten. Choose a different cache file.")
    if header + b"\n" != _cache_header(body):
        logger.warning("%s is damaged or was written by a different version. All recordings will be read again.", path)
        return {}
    entries = (json.loads(line) for line in body.splitlines())
    return {entry["path"]: ((entry["size"], entry["mtime_ns"]), Recording(**entry["recording"])) for entry in entries}


def _save_cache(path: Path, known: Cache) -> None:
    entries = (
        {"path": name, "size": size, "mtime_ns": mtime_ns, "recording": asdict(recording)}
        for name, ((size, mtime_ns), recording) in known.items()
    )
    body = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    try:
        with atomic_write(path) as file:
            file.write(_cache_header(body) + body)
    except MachineError as error:
        logger.warning("The recordings cache was not saved (%s). The next check will read all recordings again.", error)
