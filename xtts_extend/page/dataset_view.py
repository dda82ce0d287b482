"""The data set that make-dataset wrote, for the page: counts, and its clips with the edits made since."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pandas as pd

from xtts_extend.corpus.clip import CLIPS_FILE, Clip, Reason, read_clips
from xtts_extend.corpus.dataset_files import REJECTED_FILE, WAVS, WORK_FOLDER
from xtts_extend.corpus.edits import EDITS_FILE, Edit, merge_edits, read_edits
from xtts_extend.data.audio_file import open_audio
from xtts_extend.errors import DataError
from xtts_extend.page.browser_input import inside
from xtts_extend.page.project import DATA, DATASET, Project

#: Names of groups of clips, besides the reasons for setting clips aside.
ALL, ACCEPTED, WAITING = "all", "accepted", "edited since the last run"


@dataclass(frozen=True)
class EditedClip:
    """A clip as the last run wrote it, with the edits made so far.

    Attributes:
        clip: The clip in CLIPS_FILE.
        edit: All of its edits in one; None if there are none.
    """

    clip: Clip
    edit: Edit | None = None

    @property
    def name(self) -> str:
        """The clip's id."""
        return self.clip.id

    @property
    def group(self) -> str:
        """ACCEPTED, or the reason why the last run set the clip aside."""
        return ACCEPTED if self.clip.rejected is None else self.clip.rejected.value

    @property
    def text(self) -> str:
        """Text that the next run uses."""
        return self.clip.text if self.edit is None or self.edit.text is None else self.edit.text

    @property
    def start_s(self) -> float:
        """Start in the recording that the next run uses, in seconds."""
        return self.clip.start_s if self.edit is None or self.edit.start is None else self.edit.start

    @property
    def end_s(self) -> float:
        """End in the recording that the next run uses, in seconds."""
        return self.clip.end_s if self.edit is None or self.edit.end is None else self.edit.end

    @property
    def is_dropped(self) -> bool:
        """Whether the next run drops the clip."""
        return self.edit is not None and bool(self.edit.drop)

    @property
    def is_waiting(self) -> bool:
        """Whether an edit will change the clip in the next run."""
        if self.edit is None:
            return False
        clip = self.clip
        if self.is_dropped or clip.rejected == Reason.DROPPED:
            return self.is_dropped != (clip.rejected == Reason.DROPPED)
        changed = (self.text, self.start_s, self.end_s) != (clip.text, clip.start_s, clip.end_s)
        return changed or not clip.edited

    @property
    def status(self) -> str:
        """What the last run did with the clip, and what the next run changes."""
        rejected = self.clip.rejected
        said = f"accepted ({self.clip.split})" if rejected is None else f"{rejected.meaning}: {self.clip.detail}"
        if not self.is_waiting:
            return said
        return f"{said} → {'dropped' if self.is_dropped else 'accepted as edited'} in the next run"


@dataclass(frozen=True)
class Summary:
    """Counts of a data set.

    Attributes:
        train: Number of accepted clips for training.
        val: Number of accepted clips for validation.
        accepted_s: Length of the accepted clips in seconds.
        set_aside: Meaning of each reason → number of items and their length in seconds.
    """

    train: int
    val: int
    accepted_s: float
    set_aside: dict[str, tuple[int, float]] = field(default_factory=dict)


def dataset_folder(project: Project) -> Path:
    """Return the folder that make-dataset writes, whether or not it exists."""
    return project.folder / DATA / DATASET


def version_of(project: Project) -> tuple[int, ...]:
    """Return numbers that change whenever a run or an edit changes what `edited_clips` returns."""
    folder = dataset_folder(project)
    return (*_version(folder / CLIPS_FILE), *_version(folder / EDITS_FILE))


def edited_clips(project: Project) -> tuple[EditedClip, ...]:
    """Return the clips with their edits, the lowest score first; none if make-dataset has not finished yet.

    Raises:
        DataError: A file is damaged.
    """
    folder = dataset_folder(project)
    if not (folder / CLIPS_FILE).exists():
        return ()
    return _edited_clips(folder, version_of(project))


@lru_cache(maxsize=2)
def _edited_clips(folder: Path, version: tuple[int, ...]) -> tuple[EditedClip, ...]:
    edits: dict[str, Edit] = {}
    for edit in read_edits(folder / EDITS_FILE):
        edits[edit.clip] = merge_edits(edits.get(edit.clip), edit)
    clips = sorted(read_clips(folder / CLIPS_FILE), key=lambda clip: (clip.scores.score, clip.id))
    return tuple(EditedClip(clip, edits.get(clip.id)) for clip in clips)


def groups(clips: Sequence[EditedClip]) -> dict[str, int]:
    """Return the names of all groups of clips that are not empty, with their sizes."""
    sizes = Counter(one.group for one in clips)
    waiting = sum(one.is_waiting for one in clips)
    found = {ACCEPTED: sizes.pop(ACCEPTED, 0), WAITING: waiting, **dict(sizes.most_common()), ALL: len(clips)}
    return {name: size for name, size in found.items() if size}


def in_group(clips: Sequence[EditedClip], group: str) -> list[EditedClip]:
    """Return the clips of a group."""
    if group == ALL:
        return list(clips)
    return [one for one in clips if (one.is_waiting if group == WAITING else one.group == group)]


def summarize(project: Project) -> Summary | None:
    """Return the counts of the data set; None if make-dataset has not finished yet.

    Raises:
        DataError: A file is damaged.
    """
    folder = dataset_folder(project)
    accepted = [one.clip for one in edited_clips(project) if one.clip.rejected is None]
    if not (folder / CLIPS_FILE).exists():
        return None
    val = sum(clip.split == "val" for clip in accepted)
    return Summary(
        train=len(accepted) - val,
        val=val,
        accepted_s=sum(clip.duration_s for clip in accepted),
        set_aside=_set_aside(folder / REJECTED_FILE, _version(folder / REJECTED_FILE)),
    )


@lru_cache(maxsize=2)
def _set_aside(file: Path, version: tuple[int, ...]) -> dict[str, tuple[int, float]]:
    """Return what a table of rejected items lists, by reason, the most frequent first."""
    try:
        table = pd.read_csv(file, sep="|", usecols=["start", "end", "reason"])
        seconds = (table["end"].astype(float) - table["start"].astype(float)).fillna(0.0)
        counts = table["reason"].value_counts()
        return {
            Reason(reason).meaning: (int(count), float(seconds[table["reason"] == reason].sum()))
            for reason, count in counts.items()
        }
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged or cannot be read: {error}. Run make-dataset again.") from error


def audio_of(project: Project, clip: Clip) -> Path | None:
    """Return the path of a clip's recording; None if it has none.

    Raises:
        DataError: The path is not in the folder for clips.
    """
    parts = PurePosixPath(clip.audio_file).parts
    if not parts:
        return None
    if parts[0] != WAVS or ".." in parts:
        raise DataError(
            f"{CLIPS_FILE} names a recording outside {WAVS} for {clip.id}: {clip.audio_file}. Run make-dataset again."
        )
    return dataset_folder(project).joinpath(*parts)


def working_copy(project: Project, clip: Clip) -> Path | None:
    """Return the path of the working copy of a clip's recording; None if it does not exist.

    Raises:
        ConfigError: The recording's id cannot be the name of a folder.
    """
    file = inside(dataset_folder(project) / WORK_FOLDER, clip.recording_id) / "audio.flac"
    return file if file.is_file() else None


def duration_s(project: Project, clip: Clip) -> float:
    """Return the length of a clip's recording in seconds; infinity if there is no working copy to measure.

    Raises:
        ConfigError: The recording's id cannot be the name of a folder.
        DataError: The working copy is damaged.
    """
    file = working_copy(project, clip)
    if file is None:
        return math.inf
    with open_audio(file) as audio:
        return math.inf if audio.frames is None else audio.frames / audio.sample_rate


def _version(file: Path) -> tuple[int, int]:
    """Return the size and modification time of a file; zeros if there is none."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
