"""Find recordings in files and folders, the text that belongs to each, and who speaks."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from xtts_extend.data.audio import content_digest
from xtts_extend.data.containers import begins_like_audio
from xtts_extend.data.locales import read_language
from xtts_extend.data.paths import AUDIO_SUFFIXES
from xtts_extend.data.unspoken import has_surrogate
from xtts_extend.errors import ConfigError, DataError, LanguageError

logger = logging.getLogger("trainer")

#: File extensions of other recordings than those that manifests name: videos, and formats of audiobooks and archives.
_MORE_SUFFIXES = (
    ".m4b", ".m4v", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".vob", ".m2ts", ".mts", ".3g2", ".asf", ".mp2", ".mpga",
    ".aifc", ".ape", ".tta", ".wv", ".tak", ".ac3", ".rm", ".spx",
)  # fmt: skip
RECORDING_SUFFIXES = (*AUDIO_SUFFIXES, *_MORE_SUFFIXES)
#: In the order of preference.
SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".ttml", ".dfxp", ".sbv", ".sub")
TRANSCRIPT_SUFFIX = ".txt"
#: Names, without extension, of text files that are not transcripts.
_NOT_TRANSCRIPTS = re.compile(r"read[ _-]?me|licen[cs]e|copying|notice|credits|changelog|requirements")
#: The beginning of subtitles of any format, whatever the file is called.
_SUBTITLES = re.compile(
    r"\s*WEBVTT|\s*\[Script Info\]|\s*(<\?xml[^>]*>)?\s*<tt[\s>]|\s*\d+\s*\n\s*\d+:\d\d:\d\d[,.]\d+\s*-->"
    r"|\s*\d+:\d\d:\d\d\.\d+,\d+:\d\d:\d\d\.\d+\s*\n|\s*\{\d+\}\{\d+\}"
)
#: What may stand between the name of a recording and the extension of its text: a language, and what kind of subtitles
#: they are.
_TAGS = re.compile(r"((?P<language>[a-z]{2,3}([-_][a-z0-9]+)*)(\.|$))?((forced|sdh|cc|hi|default|auto)(\.|$))*")
_HEAD_BYTES = 4096
#: Speaker of recordings that do not lie in a folder of their own.
DEFAULT_SPEAKER = "speaker"
_LISTED = 10


class TextKind(str, Enum):
    """What the text of a recording is.

    Attributes:
        SUBTITLES: Cues with times.
        TRANSCRIPT: Plain text of this recording.
        BOOK: Plain text of several recordings, of which this one contains a part.
        NONE: There is no text, so a recognizer has to write it.
    """

    SUBTITLES = "subtitles"
    TRANSCRIPT = "transcript"
    BOOK = "book"
    NONE = "none"


class _Text(NamedTuple):
    path: Path | None
    kind: TextKind


_NO_TEXT = _Text(None, TextKind.NONE)


@dataclass(frozen=True, slots=True)
class Source:
    """A recording, its text and its speaker.

    Attributes:
        path: Recording, as the user named it or its folder.
        text_path: File with its text, or None.
        kind: What that text is.
        speaker_name: Who speaks; one speaker per recording is assumed.
    """

    path: Path
    text_path: Path | None
    kind: TextKind
    speaker_name: str


def find_sources(
    paths: Sequence[Path],
    language: str,
    text: Path | None = None,
    speaker: str | None = None,
    transcribed: Sequence[Source] = (),
) -> list[Source]:
    """Find recordings and their texts, in the order of their paths, with numbers in names compared as numbers.

    In folders and their subfolders, recordings are recognized by their file extension or their first bytes. Hidden
    files and folders and the data sets that make-dataset wrote are skipped. The text of a recording is, in this order:

    1. `text`, if it is given
    2. subtitles in the same folder with the same name, such as `name.am.srt` or `name.srt` for `name.mp3`
    3. a transcript with the same name, such as `name.txt`
    4. the only other `.txt` file in the folder: the book that all recordings there without a text are read from

    A text that is marked with a different language than `language` is not used. The speaker is `speaker`, or the name
    of the folder below the given folder, or "speaker". The log lists the speakers, repeated recordings, which are used
    once, and texts that are not used.

    Args:
        paths: Recordings, and folders that contain them.
        language: Language that is spoken.
        text: Text of all the recordings.
        speaker: Speaker of all the recordings.
        transcribed: Recordings whose texts and speakers are known, which come after the others.

    Raises:
        ConfigError: `text` has subtitles, but there is more than one recording.
        DataError: A path does not exist, a folder contains no recordings, or a text cannot be read or is empty.
    """
    found: dict[str, tuple[Path, str]] = {}
    again = []
    for path in paths:
        for recording, folder_speaker in _recordings(path):
            if found.setdefault(os.path.realpath(recording), (recording, folder_speaker))[0] is not recording:
                again.append(recording)
    _warn("Recordings that are given more than once are used once", again)
    candidates = sorted(found.values(), key=lambda entry: _natural_key(entry[0]))
    recordings = [path for path, _ in candidates]
    texts: dict[Path, _Text] = {}
    if text is None:
        for folder, members in _by_folder(recordings).items():
            texts.update(_texts_in(folder, members, language))
    else:
        texts.update(dict.fromkeys(recordings, _shared_text(text, len(recordings))))
    located = [
        Source(path, *texts.get(path, _NO_TEXT), speaker or folder_speaker) for path, folder_speaker in candidates
    ]
    sources = _without_repeated([*located, *transcribed])
    if text is not None and len(sources) > 1 and sources[0].kind is TextKind.SUBTITLES:
        raise ConfigError(
            f"{text} has subtitles, which belong to one recording, but there are {len(sources):,} recordings. Put each "
            "recording's subtitles beside it, with the same name, and omit --text."
        )
    for source in sources:
        _require_writable(source)
    counts = Counter(source.speaker_name for source in sources)
    logger.info(
        " > Each recording is assumed to have one speaker. Recordings by speaker: %s.",
        ", ".join(f"{name} {count:,}" for name, count in counts.items()),
    )
    return sources


def _require_writable(source: Source) -> None:
    """Raise DataError if a manifest cannot represent the recording's path or its speaker."""
    if "|" in source.speaker_name or not source.speaker_name.isprintable() or not source.speaker_name.strip():
        raise DataError(
            f"The speaker of {source.path} would be {source.speaker_name!r}, which a manifest cannot represent. Pass "
            "--speaker NAME, without the character |."
        )
    if has_surrogate(str(source.path)):
        raise DataError(f"The path {str(source.path)!r} has characters that are not valid text. Rename the file.")


def _recordings(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the recordings in a folder, or the one that is named, each with the speaker that the folders name."""
    if path.is_file():
        yield path, DEFAULT_SPEAKER
        return
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Check the path.")
    count = 0
    for folder, names in _folders(path):
        parts = folder.relative_to(path).parts
        # Manifests separate columns with "|".
        speaker = re.sub(r"[|\s]+", " ", unicodedata.normalize("NFC", parts[0])) if parts else DEFAULT_SPEAKER
        for name in names:
            if _is_recording(folder / name):
                count += 1
                yield folder / name, speaker
    if not count:
        made = "It is a data set that make-dataset wrote. " if _is_dataset(path) else ""
        raise DataError(
            f"{path} contains no recordings. {made}Pass a folder with audio or video files; their names usually end in "
            f"{', '.join(AUDIO_SUFFIXES[:6])} or .mp4."
        )


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and its subfolders, with the names of their visible files. Symbolic links are followed once."""
    visited = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "__MACOSX")
        real = os.path.realpath(folder)
        if real in visited or _is_dataset(Path(folder)):
            subfolders.clear()
            continue
        visited.add(real)
        # The names of resource forks of macOS begin with "._".
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _is_dataset(folder: Path) -> bool:
    """Return whether make-dataset wrote this folder; its clips are not recordings to cut again."""
    return (folder / "clips.jsonl").exists() or (folder / ".work").is_dir()


def _is_recording(path: Path) -> bool:
    if path.suffix.lower() in RECORDING_SUFFIXES:
        return path.is_file()
    if path.suffix.lower() in (*SUBTITLE_SUFFIXES, TRANSCRIPT_SUFFIX):
        return False
    try:
        with open(path, "rb") as file:
            return begins_like_audio(file.read(_HEAD_BYTES))
    except OSError:
        # A broken link, or a file of somebody else, that may be anything.
        return False


def _natural_key(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts "chapter 2" before "chapter 10"."""
    parts = re.findall(r"\d+|[^\d]+", unicodedata.normalize("NFC", str(path)).casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _kind_of_text(path: Path) -> TextKind:
    """Return whether a file has subtitles or plain text, judging by its content unless its name says subtitles."""
    if not path.is_file():
        raise DataError(f"{path}: no such text file. Check the path.")
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions and the disk.") from error
    if not head.strip():
        raise DataError(f"{path} is empty. Add the text of the recording, or delete the file to use a recognizer.")
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    has_cues = path.suffix.lower() in SUBTITLE_SUFFIXES or _SUBTITLES.match(head.decode(encoding, "ignore"))
    return TextKind.SUBTITLES if has_cues else TextKind.TRANSCRIPT


def _shared_text(path: Path, recordings: int) -> _Text:
    """Return a text that belongs to this number of recordings."""
    kind = _kind_of_text(path)
    return _Text(path, TextKind.BOOK if kind is TextKind.TRANSCRIPT and recordings > 1 else kind)


def _by_folder(recordings: Sequence[Path]) -> dict[Path, list[Path]]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for recording in recordings:
        folders[recording.parent].append(recording)
    return folders


def _texts_in(folder: Path, recordings: Sequence[Path], language: str) -> dict[Path, _Text]:
    """Return the texts of recordings that lie in the same folder."""
    suffixes = (*SUBTITLE_SUFFIXES, TRANSCRIPT_SUFFIX)
    visible = [file for file in sorted(folder.iterdir(), key=_natural_key) if not file.name.startswith(".")]
    files = [file for file in visible if file.suffix.lower() in suffixes and file.is_file()]
    # The text of a recording that was not asked for is nobody else's.
    neighbors = {*recordings, *filter(_is_recording, visible)}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for neighbor in neighbors:
        by_name[_folded(neighbor.name)].append(neighbor)
        by_name[_folded(neighbor.stem)].append(neighbor)
    # Several texts may match: subtitles in the language first, then without a language, then transcripts.
    matches: dict[Path, list[tuple[bool, bool, int, Path]]] = defaultdict(list)
    unmatched, foreign = [], []
    for file in files:
        owners = _owners(file, by_name)
        own = {recording: tag for recording, tag in owners.items() if not tag or _is_language(tag, language)}
        for recording, tag in own.items():
            order = suffixes.index(file.suffix.lower())
            matches[recording].append((file.suffix.lower() == TRANSCRIPT_SUFFIX, not tag, order, file))
        if not owners:
            unmatched.append(file)
        elif not own:
            foreign.append(file)
    texts = {}
    for recording in recordings:
        if recording in matches:
            file = min(matches[recording])[-1]
            texts[recording] = _Text(file, _kind_of_text(file))
    without = [recording for recording in recordings if recording not in texts]
    books = [
        file
        for file in unmatched
        if file.suffix.lower() == TRANSCRIPT_SUFFIX and not _NOT_TRANSCRIPTS.match(file.stem.lower())
    ]
    if len(books) == 1 and without:
        texts.update(dict.fromkeys(without, _shared_text(books[0], len(neighbors - matches.keys()))))
        unmatched.remove(books[0])
    _warn(f"Texts in a language other than {language!r} are not used", foreign)
    _warn(
        "Texts that match no recording are not used (name them like their recording, or pass one with --text)",
        [file for file in unmatched if not _NOT_TRANSCRIPTS.match(file.stem.lower())] if without else [],
    )
    return texts


def _owners(text: Path, by_name: Mapping[str, Sequence[Path]]) -> dict[Path, str]:
    """Return the recordings that a text belongs to by its name, each with the language in the name, or "".

    The recording's own extension may be part of the name: `name.mp3.am.srt`.

    Args:
        text: File with the text.
        by_name: Recordings by folded name, with and without extension.
    """
    parts = _folded(text.stem).split(".")
    owners: dict[Path, str] = {}
    # The longest name first: the "wav" of `name.wav.srt` is not a language.
    for count in range(len(parts), 0, -1):
        match = _TAGS.fullmatch(".".join(parts[count:]))
        for recording in by_name.get(".".join(parts[:count]), ()) if match else ():
            owners.setdefault(recording, (match and match["language"]) or "")
    return owners


def _is_language(tag: str, language: str) -> bool:
    try:
        return read_language(tag, expected=language) == language
    except LanguageError:
        return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _without_repeated(sources: Sequence[Source]) -> list[Source]:
    """Omit recordings with the same content as one before them; of two, one with a text is kept."""
    by_size: dict[int, list[Source]] = defaultdict(list)
    for source in sources:
        by_size[source.path.stat().st_size].append(source)
    kept: dict[tuple[int, str], Source] = {}
    repeated = []
    for size, group in by_size.items():
        for source in group:
            # Only files of the same size can have the same content; reading others would take minutes.
            key = (size, content_digest(source.path) if len(group) > 1 and size else str(source.path))
            first = kept.setdefault(key, source)
            if first is source:
                continue
            if first.text_path is None and source.text_path is not None:
                kept[key] = source
                first, source = source, first
            repeated.append(f"{source.path} (the same as {first.path})")
    _warn("Recordings with the same content are used once", repeated)
    chosen = {source.path for source in kept.values()}
    return [source for source in sources if source.path in chosen]


def _warn(what: str, items: Sequence[object]) -> None:
    if items:
        more = f" and {len(items) - _LISTED:,} more" if len(items) > _LISTED else ""
        logger.warning(" ! %s: %s%s.", what, ", ".join(map(str, items[:_LISTED])), more)
