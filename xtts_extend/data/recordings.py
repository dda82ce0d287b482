"""Every recording read once, by threads, and what was found kept in a cache by its path, size and time."""

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
#: Begins every cache file; a file that begins otherwise is not ours to overwrite.
_CACHE_NAME = b"xtts_extend recordings"


def read_recordings(paths: Sequence[str], cache: Path | None, progress: bool) -> dict[str, Recording | str | None]:
    """Each path's recording, or what is wrong with the file, or None where there is none.

    Args:
        paths: of the recordings; one that is named twice is read once.
        cache: file of what was read before; written also when the reading is interrupted.
        progress: show a bar on a terminal, and a line every ten seconds where there is none.

    Raises:
        DataError: the cache is something else, or cannot be read.
    """
    known = {} if cache is None else _load_cache(cache)
    found: dict[str, Recording | str | None] = {}
    stamps: dict[str, tuple[int, int]] = {}
    for path in paths:
        stamp = _stamp(path)
        if stamp is None:
            found[path] = None
            continue
        stamps[path] = stamp
        if path in known and known[path][0] == stamp:
            found[path] = known[path][1]
    unread = [path for path in stamps if path not in found]

    def read(path: str) -> None:
        try:
            found[path] = measure_recording(path)
        except DataError as error:
            found[path] = str(error)

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        # In chunks, so that a million files do not become a million waiting futures.
        chunks = (unread[start : start + _CHUNK_FILES] for start in range(0, len(unread), _CHUNK_FILES))
        done = (result for chunk in chunks for result in pool.map(read, chunk))
        deque(with_progress(done, len(unread), "recordings", progress), maxlen=0)
    finally:
        pool.shutdown(cancel_futures=True)
        if cache is not None and unread:
            for path in unread:
                if isinstance(recording := found.get(path), Recording):
                    known[path] = (stamps[path], recording)
            _save_cache(cache, known)
    return found


def _stamp(path: str) -> tuple[int, int] | None:
    """Size and time of a file, which tell whether it has changed; None where there is no file."""
    try:
        status = os.stat(path)
    # A name with a null character is a ValueError.
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


Cache = dict[str, tuple[tuple[int, int], Recording]]


def _cache_header(body: bytes) -> bytes:
    """First line of a cache file: a digest tells a damaged one, or one of another version."""
    return _CACHE_NAME + f", version 3, {hashlib.sha256(body).hexdigest()}\n".encode()


def _load_cache(path: Path) -> Cache:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"the cache of recordings {path} cannot be read: {error}; name another file") from error
    header, _, body = content.partition(b"\n")
    if content and not header.startswith(_CACHE_NAME):
        raise DataError(f"{path} is no cache of recordings, and would be overwritten; name another file")
    if header + b"\n" != _cache_header(body):
        logger.warning("%s is damaged or of another version: all recordings are read again", path)
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
        logger.warning("The next check reads all recordings again: %s", error)
