"""Encode each recording as DVAE codes only once, and store the codes in a set with one row per utterance.

Rows are looked up by the digest of the recording, so a changed file is encoded again, but a renamed one is not. If only
the text or the vocabulary has changed, the codes are copied. All codes in a set come from the same DVAE. Rows that
are no longer used by any manifest stay in the set.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from xtts_extend.data.audio import load_audio
from xtts_extend.data.encoded import (
    Encoded,
    Utterance,
    add_part,
    encoded_rows,
    is_encoded_set,
    is_intact,
    join_parts,
    open_set,
    read_index,
    require_settings,
    write_part,
)
from xtts_extend.data.garbage import garbage_collection_paused
from xtts_extend.data.processes import SINGLE_PROCESS, Processes, is_own
from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import SampleTable
from xtts_extend.errors import DataError
from xtts_extend.files import locked_folder
from xtts_extend.progress import with_progress

logger = logging.getLogger("trainer")

#: Number of utterances per file in the set. If the process is killed, at most this many are lost.
_ROWS_IN_PART = 256
#: Number of recordings to read ahead of the encoder.
_READ_AHEAD = 16

#: The recording's digest, the language and the text.
_Key = tuple[str, str, str]
_DAMAGED = " > %s is damaged. Encoding its utterances again (%d in total)."
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
    processes: Processes = SINGLE_PROCESS,
) -> tuple[SampleTable, int]:
    """Encode the samples that a set does not contain yet, and add their codes, token ids and lengths to the set.

    If a process is interrupted or killed, call this function again to continue, with any number of processes.

    Args:
        samples: Usable samples from `check_samples`, with `audio_digest` filled in. Samples that are already encoded
            are returned unchanged.
        encode: Function that maps audio of shape (1, samples) to codes of shape (codes,).
        tokenize: Function that maps a text and its language to token ids.
        folder: Folder of the set. It is created if it does not exist.
        codec_digest: Digest of the DVAE.
        text_digest: Digest of the vocabulary and the text cleaning. If a row has a different digest, its text is
            tokenized again.
        sample_rate: Sample rate of the audio in Hz.
        progress: Show progress on stderr.
        processes: The processes that call this function with the same arguments and divide the recordings by digest.

    Returns:
        The samples with `encoded` filled in, and the number of recordings that all processes together encoded.

    Raises:
        ConfigError: The folder contains something other than a set, or codes of a different DVAE.
        DataError: A recording cannot be read.
        MachineError: The disk is full, or the folder is not writable.
    """
    settings = {"codec_digest": codec_digest, "sample_rate": sample_rate}
    rows = _Rows(folder, settings, text_digest)
    made = 0
    # Rank 0 decides, because another run may change the set while the ranks read it.
    if processes.from_main(bool(rows.missing(samples))):
        waiting = f"Another process is adding codes to {folder}. Waiting for it to finish."
        with locked_folder(folder, waiting) if processes.rank == 0 else nullcontext():
            if processes.rank == 0:
                open_set(folder, settings, _SETTINGS, {})
                # Another run may have added these samples while this one waited.
                rows.update()
                for part in rows.damaged:
                    logger.warning(_DAMAGED, folder / part["file"], part["rows"])
                join_parts(folder, [part["file"] for part in rows.damaged])
            processes.wait()
            rows.update()
            missing = rows.missing(samples)
            made = len(missing.keys() - rows.recorded.keys())
            own = {digest: group for digest, group in missing.items() if is_own(processes, digest)}
            added = _encode_missing(own, rows.recorded, encode, tokenize, sample_rate)
            shown = progress and processes.rank == 0
            _write(with_progress(added, len(own), "recordings encoded", shown), folder, text_digest, processes)
            processes.wait()
            if processes.rank == 0:
                join_parts(folder)
            processes.wait()
            rows.update()
    return SampleTable(samples, (sample.encoded or rows.known[_key(sample)] for sample in samples)), made


def _key(sample: Sample) -> _Key:
    if sample.audio_digest is None:
        raise DataError(
            f"{sample.audio_file} has not been checked. Pass the usable samples that check_samples returns."
        )
    return sample.audio_digest, sample.language, sample.text


class _Rows:
    """The intact rows of a set, or none if the set does not exist.

    Args:
        folder: Folder of the set.
        settings: Settings that the set must have been created with.
        text_digest: Digest of the current vocabulary and text cleaning.

    Attributes:
        known: Rows with up-to-date token ids, keyed by recording, language and text.
        recorded: Rows keyed by recording, regardless of their text and token ids.
        damaged: Entries of the parts that are damaged or missing.

    Raises:
        ConfigError: The set was created with different settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], text_digest: str) -> None:
        self.known: dict[_Key, Encoded] = {}
        self.recorded: dict[str, Encoded] = {}
        self.damaged: list[Mapping[str, Any]] = []
        self._folder, self._settings, self._text_digest = folder, settings, text_digest
        self._read: set[str] = set()
        self.update()

    @garbage_collection_paused()
    def update(self) -> None:
        """Read the parts that have been added to the set. Each part is hashed only once."""
        if not is_encoded_set(self._folder):
            return
        require_settings(self._folder, self._settings, _SETTINGS)
        self.damaged = []
        columns = ("audio_digest", "language", "text", "wav_length")
        for part in read_index(self._folder)["parts"]:
            if part["file"] in self._read:
                continue
            if not is_intact(self._folder, part):
                self.damaged.append(part)
                continue
            self._read.add(part["file"])
            for file, number, row in encoded_rows(self._folder, part, columns):
                encoded = Encoded(file, number, row["wav_length"], has_ids=True)
                self.recorded[row["audio_digest"]] = encoded
                if part["text_digest"] == self._text_digest:
                    self.known[row["audio_digest"], row["language"], row["text"]] = encoded

    def missing(self, samples: Sequence[Sample]) -> dict[str, dict[_Key, Sample]]:
        """Return the samples without a row, grouped by recording, with each pair of language and text listed once."""
        missing: dict[str, dict[_Key, Sample]] = defaultdict(dict)
        for sample in samples:
            if sample.encoded is None and (key := _key(sample)) not in self.known:
                missing[key[0]][key] = sample
        return missing


def _encode_missing(
    missing: Mapping[str, Mapping[_Key, Sample]],
    recorded: Mapping[str, Encoded],
    encode: Callable[[Tensor], Tensor],
    tokenize: Callable[[str, str], Sequence[int]],
    sample_rate: int,
) -> Generator[list[Utterance], None, None]:
    """Yield the missing utterances of each recording, encoding only recordings that are not in the set."""
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


def _write(groups: Iterable[list[Utterance]], folder: Path, text_digest: str, processes: Processes) -> None:
    """Add utterances to a set, part by part. If interrupted, add the utterances that are ready."""
    pending: list[Utterance] = []
    # The numbers must also differ from those of parts that are no longer in the index.
    used = (int(file.stem.removeprefix("part-")) for file in folder.glob("part-*.arrow"))
    number = processes.from_main(1 + max(used, default=-1)) + processes.rank

    def flush() -> None:
        nonlocal number
        # A part that an interruption leaves pending after it was listed is written again under the same number.
        part = write_part(folder, number, pending)
        add_part(folder, processes.rank, part | {"text_digest": text_digest})
        pending.clear()
        number += processes.size

    try:
        for group in groups:
            pending += group
            if len(pending) >= _ROWS_IN_PART:
                flush()
    finally:
        if pending:
            flush()


def _read_ahead(paths: Sequence[str], sample_rate: int) -> Generator[Tensor, None, None]:
    """Yield recordings in order, reading ahead in threads while the encoder works."""
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
