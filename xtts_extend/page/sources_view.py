"""The long recordings in a project, and the text that make-dataset uses for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xtts_extend.corpus.sources import SUBTITLE_SUFFIXES, TRANSCRIPT_SUFFIX, Source, find_sources
from xtts_extend.errors import DataError
from xtts_extend.page.listings import Listing, list_folder
from xtts_extend.page.project import RECORDINGS, Project

#: File extensions of texts that belong to recordings.
TEXT_SUFFIXES = (*SUBTITLE_SUFFIXES, TRANSCRIPT_SUFFIX)
#: Language of subtitles if the project has none yet: undetermined.
_UNKNOWN = "und"


@dataclass(frozen=True)
class Sources:
    """What the project's folder of recordings contains.

    Attributes:
        recordings: Recordings, as make-dataset would use them.
        texts: Subtitles and transcripts: name relative to the folder → path.
        problems: Why recordings or other files cannot be used, or are not used.
    """

    recordings: list[Source] = field(default_factory=list)
    texts: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def list_sources(project: Project) -> Sources:
    """Return the recordings, each with the text that belongs to it, and the texts."""
    folder = project.folder / RECORDINGS
    found = Sources()
    files: dict[str, Path] = {}
    for listing in _folders(folder, "", set()):
        found.problems.extend(listing.skipped)
        files.update({entry.name: entry.path for entry in listing if entry.path.is_file()})
    if not files:
        return found
    found.texts.update({name: path for name, path in files.items() if path.suffix.lower() in TEXT_SUFFIXES})
    try:
        found.recordings.extend(find_sources([folder], project.settings.language or _UNKNOWN))
    except DataError as error:
        found.problems.append(str(error))
        return found
    used = {path for source in found.recordings for path in (source.path, source.text_path)}
    found.problems.extend(
        f"{name} is not used: it matches no recording, or repeats one."
        for name, path in files.items()
        if path not in used
    )
    return found


def _folders(folder: Path, prefix: str, seen: set[Path]) -> Iterator[Listing]:
    """Yield the listings of a folder and of all folders below it, except those that were listed before."""
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    listing = list_folder(folder, lambda path: "" if path.exists() else None, prefix)
    yield listing
    for entry in listing:
        if entry.path.is_dir():
            yield from _folders(entry.path, f"{entry.name}/", seen)
