"""Read manifests as samples, using `rows` or a formatter registered with coqui, and write samples as manifests."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from TTS.tts.configs.shared_configs import BaseDatasetConfig, BaseTTSConfig
from TTS.tts.datasets import load_tts_samples

from xtts_extend.data.columns import has_suffix
from xtts_extend.data.garbage import garbage_collection_paused
from xtts_extend.data.locales import is_unknown, read_language
from xtts_extend.data.paths import find_recordings
from xtts_extend.data.rows import Rows, read_rows
from xtts_extend.data.sample import DEFAULT_SPEAKER, Sample
from xtts_extend.data.source_spec import DataSource, parse_source
from xtts_extend.errors import ConfigError, DataError, LanguageError
from xtts_extend.files import atomic_write
from xtts_extend.text.languages import compose_stock, validate_code

logger = logging.getLogger("trainer")

_FORMATS = ("auto", "coqui", "ljspeech", "jsonl")


def read_manifests(
    specs: Sequence[str],
    default_language: str | None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> list[Sample]:
    """Read several manifests into one list.

    Args:
        specs: Strings of the form "PATH" or "PATH:LANG", where PATH may also be a data set (see `read_manifest`).
        default_language: Language of each PATH without a LANG.
        format: Format of all manifests; see `read_manifest`.
        columns: Mapping from role to column for all manifests; see `read_manifest`.

    Returns:
        The samples of all manifests, in order.

    Raises:
        ConfigError, DataError, LanguageError: See `read_manifest`.

    >>> samples = read_manifests(["train.csv", "val.csv:am"], "am")
    >>> len(samples) == len(read_manifest("train.csv", "am")) + len(read_manifest("val.csv", "am"))
    True
    """
    if not specs:
        raise DataError("No manifest was passed. Pass at least one PATH or PATH:LANG.")
    return [sample for spec in specs for sample in read_manifest(spec, default_language, format, columns)]


def read_manifest(
    spec: str,
    default_language: str | None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> list[Sample]:
    """Read one manifest.

    Args:
        spec: "PATH" or "PATH:LANG". The part after the last colon is taken as a language if it looks like a code and
            the part before the colon exists, so file names with colons and Windows drive letters work. PATH may also be
            a data set on the hub, an archive or a folder of Parquet files, as in `source_spec.parse_source`; it is
            downloaded, unpacked or converted first, unless that was done before.
        default_language: Language of a PATH without a LANG. A row's own language overrides both.
        format: "auto" (by content), "coqui", "ljspeech", "jsonl", or the name of a formatter registered with coqui. For
            a formatter, PATH may be its root folder.
        columns: Mapping from role to column, as returned by `columns.parse_columns`. Columns for all other roles are
            detected.

    Returns:
        One sample per row, in order, whether or not its recording exists. In coqui's languages, combining accents are
        composed (NFC).

    Raises:
        ConfigError: `columns` is passed for a coqui formatter.
        DataError: The manifest is missing, empty, not UTF-8 or in an unknown format. The message names the line.
        LanguageError: A language code is malformed.
        MachineError: A data set cannot be downloaded or stored.

    >>> sample = read_manifest("train.csv:am", None)[0]
    >>> sample.language, sample.line, sample.text
    ('am', 2, 'ልጁ ረጅም ደብዳቤ ጻፈ።')
    """
    # A formatter may read a folder of Parquet files itself.
    path, language = (_locate if format in _FORMATS else _split_spec)(spec, default_language)
    if format not in _FORMATS:
        if columns:
            raise ConfigError(
                f"--columns cannot be combined with --manifest-format {format}: a coqui formatter already knows its "
                "columns. Omit one of the two flags."
            )
        return _compose_accents(path, _read_with_formatter(path, language, format))
    if path.is_dir():
        raise DataError(
            f"{path} is a folder without Parquet files. Pass the manifest file in it, or a --manifest-format that "
            "reads folders."
        )
    return _compose_accents(path, _samples(path, read_rows(path, columns or {}, language, format), language))


def write_manifest(samples: Iterable[Sample], path: Path | str) -> None:
    """Write samples in the coqui format or, if the file name ends in .jsonl, as JSON lines with languages.

    Recordings inside the new file's folder are named by relative paths, others by absolute paths. The file is written
    completely or not at all.

    Args:
        samples: Samples, as returned by `read_manifest`.
        path: File to write.

    Raises:
        DataError: There are no samples, the coqui format cannot represent them, or they were read from this file.

    >>> write_manifest(read_manifest("train.csv:am", None)[:3], "first.jsonl")
    >>> len(read_manifest("first.jsonl", None))
    3
    """
    path = Path(path)
    samples = list(samples)
    if not samples:
        raise DataError(f"There are no samples to write to {path}.")
    manifests = {os.path.realpath(manifest) for manifest in {sample.manifest for sample in samples}}
    if os.path.realpath(path) in manifests or str(path.absolute()) in {sample.audio_file for sample in samples}:
        raise DataError(
            f"The samples were read from {path}, so it will not be overwritten. Write them to a different file."
        )
    folder = path.parent.absolute()
    rows = [(_relative_to(folder, sample.audio_file), sample.text, sample.speaker_name) for sample in samples]
    if path.suffix == ".jsonl":
        keys = ("audio_file", "text", "speaker_name")
        objects = [
            {**dict(zip(keys, row, strict=True)), "language": sample.language}
            for row, sample in zip(rows, samples, strict=True)
        ]
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in objects)
    else:
        languages = sorted({sample.language for sample in samples})
        if len(languages) > 1:
            raise DataError(
                f"{path}: The coqui format has no language column, but the samples are in {', '.join(languages)}. Use "
                "a file name ending in .jsonl."
            )
        table = [["audio_file", "text", "speaker_name"], *map(list, rows)]
        for row in table:
            if any(character in value for value in row for character in "|\n\r"):
                raise DataError(f"{path}: The coqui format cannot represent {row}. Use a file name ending in .jsonl.")
        text = "".join("|".join(row) + "\n" for row in table)
    with atomic_write(path) as file:
        file.write(text.encode())


def _locate(spec: str, default_language: str | None) -> tuple[Path, str | None]:
    """Return the manifest and the language of "PATH" or "PATH:LANG", where PATH may be a data set."""
    source, language = split_source(spec)
    if source is None:
        return _split_spec(spec, default_language)
    if language is None and default_language is not None:
        language = validate_code(default_language)
    # Only data sets need the hub's library.
    from xtts_extend.data.data_source import require_manifest, resolve_source

    return require_manifest(source, resolve_source(source)), language


def split_source(spec: str) -> tuple[DataSource | None, str | None]:
    """Return the data set and the language in "PATH" or "PATH:LANG"; the data set is None for any other path.

    Raises:
        ConfigError: A name on the hub or a URL is malformed.
    """
    head, _, tail = spec.rpartition(":")
    if head and _looks_like_code(tail) and (source := parse_source(head)) is not None:
        return source, tail
    return parse_source(spec), None


def _split_spec(spec: str, default_language: str | None) -> tuple[Path, str | None]:
    """Return the path and the language of "PATH" or "PATH:LANG"."""
    if default_language is not None:
        default_language = validate_code(default_language)
    head, _, tail = spec.rpartition(":")
    if head and os.path.exists(head):
        if _looks_like_code(tail):
            return Path(head), tail
        if not os.path.exists(spec):
            raise LanguageError(
                f"{spec!r}: {head!r} exists, but {tail!r} is not a language code. Expected 2 to 8 lowercase letters."
            )
    if not os.path.exists(spec):
        raise DataError(
            f"There is no manifest file {head if head and _looks_like_code(tail) else spec!r}. Expected PATH or "
            "PATH:LANG."
        )
    return Path(spec), default_language


def _looks_like_code(text: str) -> bool:
    try:
        validate_code(text)
    except LanguageError:
        return False
    return True


def _read_with_formatter(path: Path, language: str | None, name: str) -> list[Sample]:
    root, meta_file = (path, "") if path.is_dir() else (path.parent, path.name)
    dataset = BaseDatasetConfig(
        formatter=name,
        dataset_name=path.stem,
        path=str(root.absolute()),
        meta_file_train=meta_file,
        language=language or "",
    )
    try:
        entries, _ = load_tts_samples(BaseTTSConfig(datasets=[dataset]), eval_split=False)
        samples = [_from_formatter(entry, path, language) for entry in entries]
    # Formatters raise any of these for a file in a different format.
    except (AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"Coqui's formatter {name!r} cannot read {path}: {type(error).__name__}: {error}. Check the file's format."
        ) from error
    return samples


def _from_formatter(entry: Mapping[str, object], path: Path, language: str | None) -> Sample:
    """Convert a formatter's dictionary to a sample. Keys that coqui does not define go into `extra`."""
    extra = dict(entry)
    del extra["audio_unique_name"]
    text, speaker = str(extra.pop("text")), extra.pop("speaker_name", None)
    audio_file, root_path = str(extra.pop("audio_file")), str(extra.pop("root_path"))
    own, reference = extra.pop("language"), extra.pop("reference_path", None)
    if not (own or language):
        raise _no_language(str(path))
    return Sample(
        text=text,
        audio_file=os.path.abspath(audio_file),
        language=str(own or language),
        manifest_audio_file=os.path.relpath(audio_file, root_path),
        speaker_name=DEFAULT_SPEAKER if speaker is None else str(speaker),
        manifest=str(path.absolute()),
        root_path=root_path,
        reference_path=None if reference is None else str(reference),
        extra=extra or None,
    )


def _samples(path: Path, rows: Rows, language: str | None) -> list[Sample]:
    folder = os.path.dirname(os.path.join(os.getcwd(), path))
    manifest = os.path.join(folder, path.name)
    languages = _languages(path, rows, language)
    has_wavs = os.path.isdir(os.path.join(folder, "wavs"))
    samples = []
    embedded = any(file is not None for file in rows.files)
    locations = [None] * len(rows.audio) if embedded else find_recordings(rows.audio, path)
    columns = (rows.lines, rows.audio, locations, rows.files, rows.text, rows.speaker, languages)
    with garbage_collection_paused():
        for line, name, location, file, text, speaker, code in zip(*columns, strict=True):
            if location is None:
                # A bare id means `wavs/ID.wav`, as in LJSpeech.
                bare = has_wavs and name and not has_suffix(name) and "/" not in name
                location = os.path.join("wavs", name + ".wav") if bare else name
            code = code or language
            if not code:
                raise _no_language(f"{path}, line {line}")
            samples.append(
                Sample(
                    text=text,
                    audio_file=file or (location if os.path.isabs(location) else f"{folder}/{location}"),
                    language=code,
                    manifest_audio_file=name,
                    speaker_name=speaker or DEFAULT_SPEAKER,
                    manifest=manifest,
                    line=line,
                    root_path=folder,
                )
            )
    return samples


def _languages(path: Path, rows: Rows, language: str | None) -> list[str | None]:
    """Return each row's language code, or None if it has none. Log each spelling that is not a code, but only once."""
    codes: dict[str | None, str | None] = {None: None}
    for spelled, count in Counter(rows.language).items():
        line = rows.lines[rows.language.index(spelled)]
        if spelled is None or not spelled.strip() or (is_unknown(spelled) and spelled != language):
            if (spelled or "").strip() and language is None:
                raise LanguageError(
                    f"{path}, line {line}: The language is {spelled!r} (number of rows: {count}). Expected a language "
                    "code or name. Correct these rows, or pass their language as PATH:LANG or with --language."
                )
            codes[spelled] = language
            continue
        try:
            codes[spelled] = read_language(spelled, language)
        except LanguageError as error:
            raise LanguageError(f"{path}, line {line}: {error}") from error
    for spelled, count in Counter(rows.language).items():
        if (spelled or "").strip() and codes[spelled] != spelled:
            logger.info(
                " > %s: Interpreting the language %r as %r (number of rows: %d).", path, spelled, codes[spelled], count
            )
    return [codes[spelled] for spelled in rows.language]


def _compose_accents(path: Path, samples: list[Sample]) -> list[Sample]:
    """Compose combining accents in coqui's languages in place, as `languages.compose_stock` does, and log counts."""
    counts: Counter[str] = Counter()
    for index, sample in enumerate(samples):
        composed = compose_stock(sample.text, sample.language)
        if composed != sample.text:
            counts[sample.language] += 1
            samples[index] = replace(sample, text=composed)
    for code, count in sorted(counts.items()):
        logger.info(
            " > %s: Composed combining accents (NFD to NFC) in texts with language '%s': %d.", path, code, count
        )
    return samples


def _no_language(where: str) -> DataError:
    return DataError(
        f"{where} has no language. Pass --language to set one for all manifests, or PATH:LANG to set it for one "
        "manifest."
    )


def _relative_to(folder: Path, audio_file: str) -> str:
    path = Path(audio_file)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else audio_file
