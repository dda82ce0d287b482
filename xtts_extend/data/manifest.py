"""Manifests become samples: coqui's csv, LJSpeech, JSON lines, and every formatter that is registered with coqui.

A sample is a dictionary with the keys of coqui's samples (`text`, `audio_file` as an absolute path, `speaker_name`,
`root_path`, `language`, `audio_unique_name`), `manifest_audio_file`, the value exactly as the manifest has it, and, for
the reports, `manifest`, the file it came from, and `line`, its line there (None when a formatter read it).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from TTS.tts.configs.shared_configs import BaseDatasetConfig, BaseTTSConfig
from TTS.tts.datasets import load_tts_samples

from xtts_extend.errors import DataError, LanguageError
from xtts_extend.files import atomic_write
from xtts_extend.text.languages import validate_code

Sample: TypeAlias = dict[str, Any]
Lines: TypeAlias = list[tuple[int, str]]

LJSPEECH_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
JSON_AUDIO_KEYS = ("audio_file", "audio_filepath", "audio")
DEFAULT_SPEAKER = "speaker"


def read_manifests(specs: Sequence[str], default_language: str | None, format: str = "auto") -> list[Sample]:
    """Read several manifests into one list, in their order; see `read_manifest`."""
    if not specs:
        raise DataError("no manifest given; expected at least one PATH or PATH:LANG")
    return [sample for spec in specs for sample in read_manifest(spec, default_language, format)]


def read_manifest(spec: str, default_language: str | None, format: str = "auto") -> list[Sample]:
    """Read one manifest.

    Args:
        spec: "PATH" or "PATH:LANG". What follows the last colon is a language when it looks like a code and the part
            before it exists, so colons in file names and Windows drives do no harm.
        default_language: Language of a bare PATH. A line of a JSON lines file may name its own, which wins over both.
        format: "auto" (by content), "coqui", "ljspeech", "jsonl", or the name of a formatter registered with coqui;
            for the latter PATH may be the folder that the formatter takes as its root.

    Returns:
        One sample per line, in order, whether or not its recording exists.

    Raises:
        DataError: The manifest is missing, empty, not UTF-8 or not in the format; the message names the line.
        LanguageError: A language code is malformed.
    """
    path, language = _split_spec(spec, default_language)
    readers = {"coqui": _read_coqui, "ljspeech": _read_ljspeech, "jsonl": _read_jsonl}
    if format != "auto" and format not in readers:
        return _read_with_formatter(path, language, format)
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the manifest file in it, or a formatter that reads folders")
    lines = _read_lines(path)
    if not lines:
        raise DataError(f"{path} is empty; expected lines of audio_file|text|speaker_name, id|text, or JSON")
    rows = readers[_detect(path, lines) if format == "auto" else format](path, lines)
    if not rows:
        raise DataError(f"{path} has a header and no line below it; expected one line per recording")
    return [_finish(path, row, language) for row in rows]


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
    manifests = {os.path.realpath(manifest) for manifest in {sample.get("manifest", "") for sample in samples}}
    if os.path.realpath(path) in manifests or str(path.absolute()) in {sample["audio_file"] for sample in samples}:
        raise DataError(f"{path} is a file that the samples came from, which stays as it is; write to another name")
    folder = path.parent.absolute()
    rows = [(_relative_to(folder, sample["audio_file"]), sample) for sample in samples]
    if path.suffix == ".jsonl":
        keys = ("text", "speaker_name", "language")
        objects = [{"audio_file": audio_file} | {key: sample[key] for key in keys} for audio_file, sample in rows]
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in objects)
    else:
        languages = sorted({sample["language"] for sample in samples})
        if len(languages) > 1:
            raise DataError(
                f"{path}: the coqui format has no column for the languages {', '.join(languages)}; "
                "give the file a name that ends in .jsonl"
            )
        table = [["audio_file", "text", "speaker_name"]]
        table += [[audio_file, sample["text"], sample["speaker_name"]] for audio_file, sample in rows]
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


def _read_lines(path: Path) -> Lines:
    """The lines that are not blank, with their numbers from 1. Only a line feed ends a line, as in coqui's readers."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.start} (line {content.count(10, 0, error.start) + 1}) is "
            f"0x{content[error.start]:02x}; save it as UTF-8, for example: iconv -f ENCODING -t UTF-8"
        ) from error
    numbered = enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
    return [(number, line.removesuffix("\r")) for number, line in numbered if line.strip()]


def _detect(path: Path, lines: Lines) -> str:
    """Name of the format, from the first line; DataError when it is none that we know."""
    first = lines[0][1]
    if first.lstrip().startswith("{") or path.suffix in (".json", ".jsonl"):
        return "jsonl"
    columns = first.split("|")
    if {column.strip().lower() for column in columns} & {"audio_file", "text", "speaker_name"}:
        return "coqui"
    if len(columns) in (2, 3) and (path.parent / "wavs").is_dir():
        return "ljspeech"
    raise DataError(
        f"{path} has an unknown format: its first line is {first[:80]!r}; expected the header "
        "audio_file|text|speaker_name, or LJSpeech lines id|text with a folder wavs beside the file, or JSON lines; "
        "or name a formatter of coqui"
    )


def _read_coqui(path: Path, lines: Lines) -> list[Sample]:
    header = [column.strip() for column in lines[0][1].split("|")]
    if not {"audio_file", "text"} <= set(header) or len(header) != len(set(header)):
        raise DataError(
            f"{path}: the header has the columns {', '.join(header)}; expected audio_file|text or "
            "audio_file|text|speaker_name, each once"
        )
    rows = []
    for number, columns in _split_columns(path, lines[1:], len(header)):
        row = dict(zip(header, columns, strict=True))
        rows.append(_row(path, number, row["audio_file"], row["text"], row.get("speaker_name")))
    return rows


def _read_ljspeech(path: Path, lines: Lines) -> list[Sample]:
    count = lines[0][1].count("|") + 1
    if count not in (2, 3):
        raise DataError(f"{path}: line {lines[0][0]} has {count} columns; LJSpeech has id|text or id|text|normalised")
    rows = []
    for number, columns in _split_columns(path, lines, count):
        candidates = [os.path.join("wavs", columns[0] + suffix) for suffix in LJSPEECH_SUFFIXES]
        location = next((file for file in candidates if os.path.isfile(path.parent / file)), candidates[0])
        rows.append(_row(path, number, columns[0], columns[-1], None, location))
    return rows


def _split_columns(path: Path, lines: Lines, count: int) -> list[tuple[int, list[str]]]:
    """Split the lines at `|`; there is no quoting, so a quotation mark is a character like any other."""
    rows = [(number, line.split("|")) for number, line in lines]
    wrong = [f"line {number} has {len(columns)}" for number, columns in rows if len(columns) != count]
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise DataError(f"{path}: expected {count} columns separated by |, but {', '.join(wrong[:10])}{more}")
    return rows


def _read_jsonl(path: Path, lines: Lines) -> list[Sample]:
    rows = []
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {error}; expected one object per line") from error
        if not isinstance(entry, dict):
            raise DataError(f"{where} is a JSON {type(entry).__name__}; expected one object per line")
        key = next((key for key in JSON_AUDIO_KEYS if key in entry), None)
        if key is None or "text" not in entry:
            raise DataError(f"{where} has the keys {', '.join(entry)}; expected audio_file and text")
        for name in (key, "text"):
            if not isinstance(entry[name], str):
                raise DataError(f"{where}: {name} is {entry[name]!r}; expected a string")
        row = _row(path, number, entry[key], entry["text"], entry.get("speaker_name"))
        if entry.get("language") is not None:
            try:
                row["language"] = validate_code(str(entry["language"]))
            except LanguageError as error:
                raise LanguageError(f"{where}: {error}") from error
        rows.append(row)
    return rows


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
        samples, _ = load_tts_samples(BaseTTSConfig(datasets=[dataset]), eval_split=False)
    # What formatters raise for files that they do not understand, for want of anything better.
    except (AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"coqui's formatter {name!r} cannot read {path}: {type(error).__name__}: {error}; is this its format?"
        ) from error
    for sample in samples:
        relative = os.path.relpath(sample["audio_file"], sample["root_path"])
        sample |= {"manifest_audio_file": relative, "manifest": str(path.absolute()), "line": None}
        sample |= {"audio_file": os.path.abspath(sample["audio_file"]), "text": str(sample["text"])}
    return [_finish(path, sample, language) for sample in samples]


def _row(path: Path, number: int, audio_file: str, text: str, speaker_name: Any, location: str | None = None) -> Sample:
    """A sample without its language; `location` is the recording's path, seen from the manifest's folder."""
    folder = os.path.dirname(os.path.join(os.getcwd(), path))
    location = audio_file if location is None else location
    return {
        "text": text,
        "audio_file": os.path.join(folder, location),
        "speaker_name": DEFAULT_SPEAKER if speaker_name is None else str(speaker_name),
        "root_path": folder,
        "audio_unique_name": f"{path.stem}#{os.path.splitext(location)[0]}",
        "manifest_audio_file": audio_file,
        "manifest": os.path.join(folder, path.name),
        "line": number,
    }


def _finish(path: Path, row: Sample, language: str | None) -> Sample:
    language = row.get("language") or language
    if not language:
        where = path if row["line"] is None else f"{path}, line {row['line']}"
        raise DataError(f"{where} has no language; give one for all manifests, or write PATH:LANG")
    return row | {"language": language}


def _relative_to(folder: Path, audio_file: str) -> str:
    path = Path(audio_file)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else audio_file
