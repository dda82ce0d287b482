"""Corrections to manifests (edited texts and recordings left out): where they are stored, and how they are applied.

`data/corrections.jsonl` has one line per correction. If a recording has several lines, the last one wins. The manifests
are never changed; `apply` writes corrected copies for the jobs that read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from xtts_extend.data.manifest import read_manifest, write_manifest
from xtts_extend.data.paths import FOLDERS
from xtts_extend.data.sample import Sample
from xtts_extend.errors import DataError, MachineError
from xtts_extend.files import append_line
from xtts_extend.page.project import CORRECTIONS, DATA, PREPARED, Project

#: Language of a row if neither it nor the project has one; `read_manifest` treats it as unknown.
_UNKNOWN = "und"


@dataclass(frozen=True)
class Correction:
    """A decision about a recording.

    Attributes:
        text: The new text; None if the text is unchanged.
        is_dropped: Whether the recording is left out.
        time: Time of the decision, in ISO format.
    """

    text: str | None = None
    is_dropped: bool = False
    time: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a manifest as the page shows it.

    Attributes:
        number: Position in the manifest, counted from 0.
        audio_file: Name of the recording, as in the manifest.
        path: Path of the recording, whether or not it exists.
        text: Text after its correction.
        original: Text in the manifest.
        is_dropped: Whether the recording is left out.
    """

    number: int
    audio_file: str
    path: Path
    text: str
    original: str
    is_dropped: bool

    @property
    def is_corrected(self) -> bool:
        """Whether the row differs from the manifest."""
        return self.is_dropped or self.text != self.original


@dataclass(frozen=True)
class Applied:
    """A manifest for a job.

    Attributes:
        manifest: The corrected copy, or the original if nothing is corrected.
        edited: Number of texts that were replaced.
        dropped: Number of recordings that were left out.
        unmatched: Names of recordings that have corrections but are no longer in the manifest.
    """

    manifest: Path
    edited: int = 0
    dropped: int = 0
    unmatched: Sequence[str] = field(default_factory=tuple)

    def describe(self) -> str:
        """Return a summary for the page."""
        if not (self.edited or self.dropped or self.unmatched):
            return f"{self.manifest.name} is used without changes."
        said = f"{self.manifest.name}: texts edited: {self.edited:,}, recordings left out: {self.dropped:,}."
        if self.unmatched:
            names = ", ".join(self.unmatched[:10])
            said += f" Corrections that no longer match a row ({len(self.unmatched):,}): {names}."
        return said


def add_correction(
    project: Project, manifest: Path, audio_file: str, *, text: str | None = None, drop: bool = False
) -> None:
    """Append a correction. Without `text` and `drop`, it restores the row to what the manifest says.

    Args:
        project: The project.
        manifest: A manifest of the project.
        audio_file: Name of the recording, as in the manifest.
        text: The new text. Line breaks become spaces.
        drop: Whether to leave the recording out.

    Raises:
        DataError: The text is empty or is not valid Unicode.
        MachineError: The file cannot be written.
    """
    line: dict[str, object] = {"manifest": _key(project, manifest), "audio_file": audio_file}
    if text is not None:
        line["text"] = " ".join(text.split())
        if not line["text"]:
            raise DataError(f"The new text for {audio_file} is empty. Type some text, or leave the recording out.")
    if drop:
        line["drop"] = True
    line["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        content = json.dumps(line, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The text for {audio_file!r} contains an invalid character (an unpaired surrogate). Type it again."
        ) from error
    append_line(project.folder / DATA / CORRECTIONS, content)


def corrections_of(project: Project, manifest: Path) -> dict[str, Correction]:
    """Return the corrections of a manifest by recording name.

    Raises:
        MachineError: The file cannot be read.
    """
    file = project.folder / DATA / CORRECTIONS
    try:
        status = file.stat()
        found = _read_corrections(file, status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise MachineError(f"{file} cannot be read: {error.strerror}. Make it readable, then try again.") from error
    return found.get(_key(project, manifest), {})


def rows(project: Project, manifest: Path, start: int = 0, count: int = 50) -> tuple[list[Row], int]:
    """Return some rows of a manifest with their corrections, and the total number of rows.

    Args:
        project: The project.
        manifest: A manifest of the project.
        start: Number of the first row, counted from 0.
        count: Number of rows.

    Raises:
        DataError, LanguageError: The manifest cannot be read.
        MachineError: The corrections cannot be read.
    """
    samples, corrections = _samples(project, manifest), corrections_of(project, manifest)
    start = max(0, start)
    shown = samples[start : start + max(0, count)]
    return [_row(number, sample, corrections) for number, sample in enumerate(shown, start)], len(samples)


def row(project: Project, manifest: Path, number: int) -> Row:
    """Return a row by its number, counted from 0.

    Raises:
        DataError: The manifest cannot be read, or has no such row.
        MachineError: The corrections cannot be read.
    """
    found, total = rows(project, manifest, number, 1)
    if number < 0 or not found:
        raise DataError(f"{manifest.name} has no row {number + 1:,}. Number of rows: {total:,}. Reload the manifest.")
    return found[0]


def apply(project: Project, manifest: Path) -> Applied:
    """Write a corrected copy of a manifest if it has corrections.

    The copy is `prepared/NAME.csv` in the coqui format, or `NAME.jsonl` if that format cannot represent the rows. It
    names the recordings by absolute paths.

    Raises:
        DataError: The manifest cannot be read, or all of its recordings are left out.
        MachineError: The copy cannot be written.
    """
    corrections = corrections_of(project, manifest)
    if not corrections:
        return Applied(manifest)
    samples = _samples(project, manifest)
    kept: list[Sample] = []
    edited = dropped = 0
    for sample in samples:
        correction = corrections.get(sample.manifest_audio_file, Correction())
        dropped += correction.is_dropped
        if not correction.is_dropped:
            text = sample.text if correction.text is None else correction.text
            edited += text != sample.text
            kept.append(replace(sample, text=text))
    unmatched = tuple(sorted(corrections.keys() - {sample.manifest_audio_file for sample in samples}))
    if not (edited or dropped):
        return Applied(manifest, unmatched=unmatched)
    if not kept:
        raise DataError(
            f"All recordings in {manifest.name} are left out ({dropped:,}). Restore some of them on the page."
        )
    name = _key(project, manifest).replace("/", " - ")
    copy = project.folder / PREPARED / f"{name.removesuffix('.csv')}.csv"
    is_plain = all(not set("|\n\r") & {*one.audio_file, *one.text, *one.speaker_name} for one in kept)
    if not is_plain or {sample.language for sample in kept} != {_language(project)}:
        copy = copy.with_suffix(".jsonl")
    try:
        write_manifest(kept, copy)
    except UnicodeEncodeError as error:
        raise DataError(
            f"{manifest} has a text with an unpaired surrogate: {error}. Edit that text, or leave out its recording."
        ) from error
    return Applied(copy, edited, dropped, unmatched)


def _row(number: int, sample: Sample, corrections: Mapping[str, Correction]) -> Row:
    correction = corrections.get(sample.manifest_audio_file, Correction())
    text = sample.text if correction.text is None else correction.text
    audio = Path(sample.audio_file)
    return Row(number, sample.manifest_audio_file, audio, text, sample.text, correction.is_dropped)


def _key(project: Project, manifest: Path) -> str:
    """Return the name of a manifest in `data`."""
    data = project.folder / DATA
    return manifest.relative_to(data).as_posix() if manifest.is_relative_to(data) else manifest.name


def _language(project: Project) -> str:
    return project.settings.language or _UNKNOWN


def _samples(project: Project, manifest: Path) -> tuple[Sample, ...]:
    """Return the rows of a manifest, which are read again if it or a folder with its recordings has changed."""
    try:
        status = manifest.stat()
        folders = tuple(folder.stat().st_mtime_ns for name in FOLDERS if (folder := manifest.parent / name).is_dir())
    except OSError as error:
        raise DataError(f"{manifest} cannot be read: {error.strerror}. Choose a different manifest.") from error
    return _read_samples(manifest, _language(project), status.st_size, status.st_mtime_ns, folders)


@lru_cache(maxsize=4)
def _read_samples(
    manifest: Path, language: str, size: int, time_ns: int, folders: tuple[int, ...]
) -> tuple[Sample, ...]:
    return tuple(read_manifest(f"{manifest}:{language}", None))


@lru_cache(maxsize=4)
def _read_corrections(file: Path, size: int, time_ns: int) -> Mapping[str, dict[str, Correction]]:
    """Return {manifest: {recording: correction}}. The last line for a recording wins; damaged lines are skipped."""
    found: dict[str, dict[str, Correction]] = {}
    for line in file.read_bytes().splitlines():
        try:
            values = json.loads(line)
            manifest, name, text = values["manifest"], values["audio_file"], values.get("text")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
        if not isinstance(manifest, str) or not isinstance(name, str):
            continue
        text = text if isinstance(text, str) and text.strip() else None
        corrections = found.setdefault(manifest, {})
        if text is None and values.get("drop") is not True:
            corrections.pop(name, None)
        else:
            corrections[name] = Correction(text, values.get("drop") is True, str(values.get("time", "")))
    return found
