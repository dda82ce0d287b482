"""Manifests become samples: what `rows` reads, and every formatter that is registered with coqui."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from TTS.tts.configs.shared_configs import BaseDatasetConfig, BaseTTSConfig
from TTS.tts.datasets import load_tts_samples

from xtts_extend.data.columns import has_suffix
from xtts_extend.data.locales import is_unknown, read_language
from xtts_extend.data.paths import find_recordings
from xtts_extend.data.rows import Rows, read_rows
from xtts_extend.data.sample import DEFAULT_SPEAKER, Sample
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
    """Read several manifests into one list, in their order; see `read_manifest`."""
    if not specs:
        raise DataError("no manifest given; expected at least one PATH or PATH:LANG")
    return [sample for spec in specs for sample in read_manifest(spec, default_language, format, columns)]


def read_manifest(
    spec: str,
    default_language: str | None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> list[Sample]:
    """Read one manifest.

    Args:
        spec: "PATH" or "PATH:LANG". What follows the last colon is a language when it looks like a code and the part
            before it exists, so colons in file names and Windows drives do no harm.
        default_language: Language of a bare PATH. A row may name its own, which wins over both.
        format: "auto" (by content), "coqui", "ljspeech", "jsonl", or the name of a formatter registered with coqui;
            for the latter PATH may be the folder that the formatter takes as its root.
        columns: Role → column, as `columns.parse_columns` gives them; the others are recognised.

    Returns:
        One sample per line, in order, whether or not its recording exists. Texts of coqui's own languages are composed.

    Raises:
        ConfigError: `columns` for a formatter of coqui.
        DataError: The manifest is missing, empty, not UTF-8 or in no format that we know; the message names the line.
        LanguageError: A language code is malformed.
    """
    path, language = _split_spec(spec, default_language)
    if format not in _FORMATS:
        if columns:
            raise ConfigError(
                f"--columns and --manifest-format {format}: a formatter of coqui knows its columns. Omit one."
            )
        return _composed(path, _read_with_formatter(path, language, format))
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the manifest file in it, or a formatter that reads folders")
    return _composed(path, _samples(path, read_rows(path, columns or {}, language, format), language))


def write_manifest(samples: Iterable[Sample], path: Path | str) -> None:
    """Write samples in the coqui format, or as JSON lines when the name ends in .jsonl (which keeps the languages).

    Recordings below the new file's folder are named relative to it, others by their absolute path. The file appears
    whole or not at all.

    Raises:
        DataError: There are no samples, the coqui format cannot hold them, or the file is one that they came from.
    """
    path = Path(path)
    samples = list(samples)
    if not samples:
        raise DataError(f"no sample to write to {path}")
    manifests = {os.path.realpath(manifest) for manifest in {sample.manifest for sample in samples}}
    if os.path.realpath(path) in manifests or str(path.absolute()) in {sample.audio_file for sample in samples}:
        raise DataError(f"{path} is a file that the samples came from, which stays as it is; write to another name")
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
                f"{path}: the coqui format has no column for the languages {', '.join(languages)}; "
                "give the file a name that ends in .jsonl"
            )
        table = [["audio_file", "text", "speaker_name"], *map(list, rows)]
        for row in table:
            if any(character in value for value in row for character in "|\n\r"):
                raise DataError(f"{path}: the coqui format cannot hold {row}; give the file a name that ends in .jsonl")
        text = "".join("|".join(row) + "\n" for row in table)
    with atomic_write(path) as file:
        file.write(text.encode())


def _split_spec(spec: str, default_language: str | None) -> tuple[Path, str | None]:
    """Path and language of "PATH" or "PATH:LANG"."""
    if default_language is not None:
        default_language = validate_code(default_language)
    head, _, tail = spec.rpartition(":")
    if head and os.path.exists(head):
        if _looks_like_code(tail):
            return Path(head), tail
        if not os.path.exists(spec):
            raise LanguageError(
                f"{spec!r}: {head!r} exists, but {tail!r} is not a language code; expected 2 to 8 lower-case letters"
            )
    if not os.path.exists(spec):
        raise DataError(
            f"no manifest {head if head and _looks_like_code(tail) else spec!r}; expected PATH or PATH:LANG"
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
        found, _ = load_tts_samples(BaseTTSConfig(datasets=[dataset]), eval_split=False)
        samples = [_from_formatter(entry, path, language) for entry in found]
    # What formatters raise for files that they do not understand, for want of anything better.
    except (AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"coqui's formatter {name!r} cannot read {path}: {type(error).__name__}: {error}; is this its format?"
        ) from error
    return samples


def _from_formatter(entry: Mapping[str, object], path: Path, language: str | None) -> Sample:
    """The sample of a formatter's dictionary; keys that are not coqui's are kept as they are."""
    rest = dict(entry)
    del rest["audio_unique_name"]
    text, speaker = str(rest.pop("text")), rest.pop("speaker_name", None)
    audio_file, root_path = str(rest.pop("audio_file")), str(rest.pop("root_path"))
    own, reference = rest.pop("language"), rest.pop("reference_path", None)
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
        extra=rest or None,
    )


def _samples(path: Path, rows: Rows, language: str | None) -> list[Sample]:
    folder = os.path.dirname(os.path.join(os.getcwd(), path))
    manifest = os.path.join(folder, path.name)
    languages = _languages(path, rows, language)
    has_wavs = os.path.isdir(os.path.join(folder, "wavs"))
    samples = []
    inside = any(file is not None for file in rows.files)
    locations = [None] * len(rows.audio) if inside else find_recordings(rows.audio, path)
    columns = (rows.lines, rows.audio, locations, rows.files, rows.text, rows.speaker, languages)
    with _without_collections():
        for line, name, location, file, text, speaker, spoken in zip(*columns, strict=True):
            if location is None:
                # a bare id is LJSpeech's
                bare = has_wavs and name and not has_suffix(name) and "/" not in name
                location = os.path.join("wavs", name + ".wav") if bare else name
            spoken = spoken or language
            if not spoken:
                raise _no_language(f"{path}, line {line}")
            samples.append(
                Sample(
                    text=text,
                    audio_file=file or (location if os.path.isabs(location) else f"{folder}/{location}"),
                    language=spoken,
                    manifest_audio_file=name,
                    speaker_name=speaker or DEFAULT_SPEAKER,
                    manifest=manifest,
                    line=line,
                    root_path=folder,
                )
            )
    return samples


@contextmanager
def _without_collections() -> Iterator[None]:
    """Samples are no garbage: looking for garbage among half a million of them takes as long as making them."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _languages(path: Path, rows: Rows, language: str | None) -> list[str | None]:
    """The codes of the languages that the rows name; a spelling that is not the code is said once, with a count."""
    codes: dict[str | None, str | None] = {None: None}
    for spelled, count in Counter(rows.language).items():
        line = rows.lines[rows.language.index(spelled)]
        if spelled is None or not spelled.strip() or (is_unknown(spelled) and spelled != language):
            if (spelled or "").strip() and language is None:
                raise LanguageError(
                    f"{path}, line {line}: the language is {spelled!r}, in {count} rows. Expected a code or a name; or "
                    "give the language of such rows as PATH:LANG, or with --language."
                )
            codes[spelled] = language
            continue
        try:
            codes[spelled] = read_language(spelled, language)
        except LanguageError as error:
            raise LanguageError(f"{path}, line {line}: {error}") from error
    for spelled, count in Counter(rows.language).items():
        if (spelled or "").strip() and codes[spelled] != spelled:
            logger.info(" > %s: the language %r is read as %r in %d rows", path, spelled, codes[spelled], count)
    return [codes[spelled] for spelled in rows.language]


def _composed(path: Path, samples: list[Sample]) -> list[Sample]:
    """Accents of coqui's own languages in their letters, said once; see `languages.compose_stock`."""
    counts: Counter[str] = Counter()
    for place, sample in enumerate(samples):
        composed = compose_stock(sample.text, sample.language)
        if composed != sample.text:
            counts[sample.language] += 1
            samples[place] = replace(sample, text=composed)
    for code, count in sorted(counts.items()):
        logger.info(" > %s: the accents of %d texts in '%s' were separate (NFD): composed", path, count, code)
    return samples


def _no_language(where: str) -> DataError:
    return DataError(f"{where} has no language; give one for all manifests, or write PATH:LANG")


def _relative_to(folder: Path, audio_file: str) -> str:
    path = Path(audio_file)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else audio_file
