"""Read the recordings of data sets that come with transcripts, such as Common Voice or FLEURS, for make-dataset."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from xtts_extend.corpus.dataset_files import WORK_FOLDER, require_own_folder
from xtts_extend.corpus.sources import RECORDING_SUFFIXES, Source, TextKind
from xtts_extend.data.data_source import resolve_source
from xtts_extend.data.manifest import read_manifest
from xtts_extend.data.sample import Sample
from xtts_extend.data.source_spec import DataSource, SourceKind, listed, parse_source
from xtts_extend.errors import ConfigError, DataError
from xtts_extend.files import atomic_folder, require_creatable

logger = logging.getLogger("trainer")

_SOURCES, _TEXTS = "sources", "texts"


def locate_recordings(
    given: Sequence[str], language: str, output: Path, speaker: str | None = None
) -> tuple[list[Path], list[Source]]:
    """Return the paths and the transcribed recordings that a user's arguments stand for.

    Data sets are downloaded, unpacked or converted to the work folder of the output, unless that was done before. An
    archive without a table of texts is a folder of recordings.

    Args:
        given: Paths of recordings or folders, and data sets as in `source_spec.parse_source`.
        language: Language that is spoken.
        output: Folder of the data set that is made.
        speaker: Speaker of all recordings; None for the speakers that the data sets name.

    Returns:
        Paths for `find_sources`, and recordings with their texts.

    Raises:
        ConfigError: The output holds other files, a folder has both Parquet files and recordings, or there is no such
            configuration or split.
        DataError: A data set does not exist, is damaged, or has no usable recordings.
        MachineError: There is no connection, or a file cannot be written.
    """
    paths, transcribed = [], []
    for argument in given:
        source = parse_source(argument)
        if source is None:
            paths.append(Path(argument))
            continue
        require_creatable(output)
        require_own_folder(output)
        _require_no_recordings(source)
        found = _read_data_set(source, language, output / WORK_FOLDER / _SOURCES, speaker)
        if isinstance(found, Path):
            paths.append(found)
        else:
            transcribed += found
    return paths, transcribed


def _require_no_recordings(source: DataSource) -> None:
    """Raise ConfigError if a folder of Parquet files contains recordings too, which would not be used."""
    for folder, _, names in os.walk(source.location) if source.kind is SourceKind.PARQUET else ():
        for name in names:
            if os.path.splitext(name)[1].lower() in RECORDING_SUFFIXES:
                raise ConfigError(
                    f"{source.location} contains Parquet files and recordings, such as {os.path.join(folder, name)}. "
                    "Put them in different folders, and pass both."
                )


def _read_data_set(source: DataSource, language: str, cache: Path, speaker: str | None) -> Path | list[Source]:
    """Return the recordings of a data set with their transcripts, or its folder if it has no table of texts."""
    local = resolve_source(source, cache)
    if local.manifest is None:
        return local.folder
    samples = _usable(read_manifest(str(local.manifest), language), language, source)
    digest = hashlib.sha256("\0".join(sample.text for sample in samples).encode()).hexdigest()
    # Not among the data, where a transcript would count as a recording's text if its folder were passed.
    texts = local.folder.with_name(f"{_TEXTS}-{digest[:12]}")
    if not texts.is_dir():
        with atomic_folder(texts) as folder:
            for number, sample in enumerate(samples):
                (folder / f"{number:06d}.txt").write_text(sample.text, encoding="utf-8")
    return [
        Source(
            Path(sample.audio_file),
            texts / f"{number:06d}.txt",
            TextKind.TRANSCRIPT,
            # Manifests separate columns with "|".
            speaker or re.sub(r"[|\s]+", " ", sample.speaker_name).strip(),
        )
        for number, sample in enumerate(samples)
    ]


def _usable(samples: Sequence[Sample], language: str, source: DataSource) -> list[Sample]:
    """Return the samples with a recording and a text in the language, and log the others with the reason.

    Raises:
        DataError: There are none.
    """
    usable, others = [], defaultdict(list)
    for sample in samples:
        if sample.language != language:
            reason = f"are in {sample.language}, not in {language}"
        elif not os.path.isfile(sample.audio_file):
            reason = "are missing"
        elif not sample.text.strip():
            reason = "have no text"
        else:
            usable.append(sample)
            continue
        others[reason].append(f"{sample.manifest_audio_file} (line {sample.line})")
    for reason, names in others.items():
        logger.warning(" ! %s: Recordings that %s are skipped: %s.", source, reason, listed(names))
    if not usable:
        raise DataError(
            f"{source} has no recording with a text in {language!r}; the reasons are listed above. Check --language, "
            "and that the data set is the right one."
        )
    return usable
