"""Codes once: the recordings of manifests become an encoded set, a row for each utterance.

What is in a set already is not made again. Codes are known by the digest of their recording, so that a changed file is
encoded again, a renamed one is not, and another text or vocabulary costs a copy; a set belongs to one DVAE. A row that
no manifest names any more stays, and nobody reads it.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from xtts_extend.data.audio import load_audio
from xtts_extend.data.encoded import (
    Encoded,
    Utterance,
    encoded_rows,
    is_encoded_set,
    is_intact,
    open_set,
    read_index,
    require_settings,
    write_index,
    write_part,
)
from xtts_extend.data.sample import Sample
from xtts_extend.errors import DataError, MachineError
from xtts_extend.files import require_creatable
from xtts_extend.progress import with_progress

logger = logging.getLogger("trainer")

#: Utterances in a file of the set: what a kill can cost at most.
_ROWS_IN_PART = 256
#: Recordings that are read ahead of the encoder.
_READ_AHEAD = 16

#: Digest of the recording, language, text.
_Key = tuple[str, str, str]
_SETTINGS = {"codec_digest": "the DVAE", "sample_rate": "the sample rate"}


def encode_samples(
    samples: Sequence[Sample],
    encode: Callable[[Tensor], Tensor],
    tokenize: Callable[[str, str], Sequence[int]],
    folder: Path,
    *,
    codec_digest: str,
    text_digest: str,
    sample_rate: int,
    progress: bool = True,
) -> tuple[list[Sample], int]:
    """Bring every sample's codes, token ids and lengths into a set, as far as they are not there.

    Interrupted or killed, the same call goes on.

    Args:
        samples: usable ones of `check_samples`, with `audio_digest`; those that are encoded already stay as they are.
        encode: audio (1, samples) → codes (codes,).
        tokenize: text and language → token ids.
        folder: of the set; it is made where it is missing.
        codec_digest: of what makes codes.
        text_digest: of what makes token ids; where it has changed, they are made again.
        sample_rate: of the audio, in Hz.
        progress: show a bar.

    Returns:
        The samples with `encoded`, and how many recordings were encoded.

    Raises:
        ConfigError: the folder holds something else, or codes of another DVAE.
        DataError: a recording cannot be read.
        MachineError: the disk is full, or the folder cannot be written to.
    """
    settings = {"codec_digest": codec_digest, "sample_rate": sample_rate}
    rows = _Rows(folder, settings, text_digest)
    made = 0
    if rows.missing(samples):
        with _lock_set(folder):
            open_set(folder, settings, _SETTINGS, {})
            _drop_damaged_parts(folder)
            # another process may have made them meanwhile
            rows = _Rows(folder, settings, text_digest)
            if missing := rows.missing(samples):
                added = _encoded(missing, rows.recorded, encode, tokenize, sample_rate)
                _write(with_progress(added, len(missing), "recordings encoded", progress), folder, text_digest)
                made = len(missing.keys() - rows.recorded.keys())
                rows = _Rows(folder, settings, text_digest)
    return [sample if sample.encoded else replace(sample, encoded=rows.known[_key(sample)]) for sample in samples], made


@contextmanager
def _lock_set(folder: Path) -> Iterator[None]:
    """One process at a time; the next one finds what the first has made."""
    require_creatable(folder)
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(" > another process encodes into %s: waiting for it", folder)
            lock.acquire()
    except OSError as error:
        raise MachineError(f"{folder} cannot be written to: {error.strerror}. Give another folder.") from error
    try:
        yield
    finally:
        lock.release()


def _key(sample: Sample) -> _Key:
    if sample.audio_digest is None:
        raise DataError(f"{sample.audio_file} was not read yet. Encode the usable samples of check_samples.")
    return sample.audio_digest, sample.language, sample.text


def _drop_damaged_parts(folder: Path) -> None:
    index = read_index(folder)
    sound = [part for part in index["parts"] if is_intact(folder, part)]
    for part in index["parts"]:
        if part not in sound:
            logger.warning(" > %s is damaged: its %d utterances are encoded again", folder / part["file"], part["rows"])
    if len(sound) < len(index["parts"]):
        write_index(folder, {**index, "parts": sound})


class _Rows:
    """What is in a set; nothing where there is none yet.

    Args:
        folder: of the set.
        settings: what it has to be made with.
        text_digest: of what makes token ids.

    Attributes:
        known: by recording, language and text.
        recorded: by recording, whatever text a row has.

    Raises:
        ConfigError: other settings made it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], text_digest: str) -> None:
        self.known: dict[_Key, Encoded] = {}
        self.recorded: dict[str, Encoded] = {}
        if not is_encoded_set(folder):
            return
        require_settings(folder, settings, _SETTINGS)
        for part in read_index(folder)["parts"]:
            if not is_intact(folder, part):
                continue
            for file, number, row in encoded_rows(folder, part, ("audio_digest", "language", "text", "wav_length")):
                found = Encoded(file, number, row["wav_length"], has_ids=True)
                self.recorded[row["audio_digest"]] = found
                if part["text_digest"] == text_digest:
                    self.known[row["audio_digest"], row["language"], row["text"]] = found

    def missing(self, samples: Sequence[Sample]) -> dict[str, dict[_Key, Sample]]:
        """Samples that have no row, by recording, each language and text once."""
        missing: dict[str, dict[_Key, Sample]] = defaultdict(dict)
        for sample in samples:
            if sample.encoded is None and (key := _key(sample)) not in self.known:
                missing[key[0]][key] = sample
        return missing


def _encoded(
    missing: Mapping[str, Mapping[_Key, Sample]],
    recorded: Mapping[str, Encoded],
    encode: Callable[[Tensor], Tensor],
    tokenize: Callable[[str, str], Sequence[int]],
    sample_rate: int,
) -> Generator[list[Utterance], None, None]:
    """Of each recording the utterances that are missing; one that is in the set with another text is not encoded."""
    unread = [next(iter(group.values())).audio_file for digest, group in missing.items() if digest not in recorded]
    with closing(_read_ahead(unread, sample_rate)) as wavs:
        for digest, group in missing.items():
            if digest in recorded:
                codes, wav_length = recorded[digest].codes(), recorded[digest].wav_length
            else:
                wav = next(wavs)
                codes, wav_length = encode(wav), wav.shape[-1]
            yield [
                Utterance(
                    sample.text,
                    sample.language,
                    sample.audio_file,
                    codes,
                    wav_length=wav_length,
                    audio_digest=digest,
                    ids=tokenize(sample.text, sample.language),
                )
                for sample in group.values()
            ]


def _write(groups: Iterable[list[Utterance]], folder: Path, text_digest: str) -> None:
    """Add utterances to a set, part by part; what is there when they are interrupted is added as well."""
    pending: list[Utterance] = []

    def keep() -> None:
        index = read_index(folder)
        # a number that no part has, not even one that was dropped
        number = 1 + max((int(file.stem.removeprefix("part-")) for file in folder.glob("part-*.arrow")), default=-1)
        part = write_part(folder, number, pending) | {"text_digest": text_digest}
        write_index(folder, {**index, "parts": [*index["parts"], part]})
        pending.clear()

    try:
        for group in groups:
            pending += group
            if len(pending) >= _ROWS_IN_PART:
                keep()
    finally:
        if pending:
            keep()


def _read_ahead(paths: Sequence[str], sample_rate: int) -> Generator[Tensor, None, None]:
    """The recordings in their order, read by threads while the encoder works."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[Future[Tensor]] = deque()
        try:
            for path in paths:
                waiting.append(pool.submit(load_audio, path, sample_rate))
                if len(waiting) == _READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
