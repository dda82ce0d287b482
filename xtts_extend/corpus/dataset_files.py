"""Write a data set: WAV files, `train.csv`, `val.csv`, `rejected.csv` and `clips.jsonl`.

The name of a WAV file depends on everything that its samples depend on. So a file with the right name is never written
again, and no file that a manifest refers to ever changes: the new files are written, then the manifests are replaced,
then the files that no manifest needs are removed. A process that is killed leaves manifests whose files all exist.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xtts_extend.corpus.clip import CLIPS_FILE, Clip, RecordingSummary, SetAside
from xtts_extend.data.audio import save_wav
from xtts_extend.data.manifest import write_manifest
from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError
from xtts_extend.files import atomic_path
from xtts_extend.progress import with_progress

TRAIN_FILE, VALIDATION_FILE, REJECTED_FILE = "train.csv", "val.csv", "rejected.csv"
#: The folder with the stages of each recording, from which the data set is made.
WORK_FOLDER = ".work"
WAVS = "wavs"
_REJECTED_COLUMNS = ("recording", "start", "end", "text", "reason", "detail")
_RECORDING_ID = re.compile(r".*-[0-9a-f]{8}")
_WAV_NAME = re.compile(r"\d{8,}-[0-9a-f]{8}\.wav")
# What `atomic_path` leaves of a WAV file if the process is killed.
_PARTIAL_WAV = re.compile(rf"\.{_WAV_NAME.pattern}\.\d+\.tmp")

#: Returns the samples of a clip, float32 [samples] with the gain applied, and their sample rate in Hz.
ReadAudio = Callable[[Clip], tuple[npt.NDArray[np.float32], int]]


def require_own_folder(output: Path) -> None:
    """Raise an error if the folder has a manifest that make-dataset did not write.

    Raises:
        ConfigError: Writing the data set would replace a file of the user's.
    """
    if (output / CLIPS_FILE).exists() or (output / WORK_FOLDER).exists():
        return
    for name in (TRAIN_FILE, VALIDATION_FILE, REJECTED_FILE):
        if (output / name).exists():
            raise ConfigError(
                f"{output / name} exists, but was not written by make-dataset, because {CLIPS_FILE} is missing. Choose "
                "a different --output."
            )


def write_wavs(
    output: Path, clips: Sequence[Clip], recordings: Iterable[RecordingSummary], audio: ReadAudio
) -> list[Clip]:
    """Write the WAV files of clips, accepted or set aside, that do not exist yet, as 16-bit mono.

    Args:
        output: Folder of the data set.
        clips: The clips.
        recordings: The recordings of the clips.
        audio: Returns the samples of a clip. It is called only for files that do not exist.

    Returns:
        The clips with the names of their files.

    Raises:
        MachineError: A file cannot be written.
        DataError: Raised by `audio`, or the samples are empty or not finite.
    """
    keys = {recording.id: recording.audio_key for recording in recordings}
    named = [replace(clip, audio_file=_audio_file(clip, keys[clip.recording_id])) for clip in clips]
    missing = [clip for clip in named if not (output / clip.audio_file).exists()]
    for clip in with_progress(missing, len(missing), "clips"):
        samples, sample_rate = audio(clip)
        with atomic_path(output / clip.audio_file) as temporary:
            save_wav(temporary, samples, sample_rate)
    return named


def write_dataset(output: Path, clips: Iterable[Clip], set_aside: Iterable[SetAside]) -> None:
    """Write the manifests, `rejected.csv` and `clips.jsonl`, then remove WAV files of clips that no longer exist.

    The files are complete before the first of them replaces an older one, so a full disk leaves the older data set. The
    same clips give the same bytes, in whatever order they come. A manifest without clips is removed.

    Args:
        output: Folder of the data set.
        clips: All clips with their files and split, accepted and set aside.
        set_aside: Text without speech and speech without text.

    Raises:
        DataError: The clips are in several languages, or a speaker's name cannot be written to a manifest.
        MachineError: A file cannot be written.
    """
    clips = sorted(clips, key=lambda clip: (clip.recording_id, clip.start_s, clip.id))
    manifests: Mapping[str, list[Clip]] = {
        name: [clip for clip in clips if clip.split == split]
        for name, split in ((VALIDATION_FILE, "val"), (TRAIN_FILE, "train"))
    }
    with ExitStack() as files:
        # The last one that is entered is renamed first: then `require_own_folder` knows the others as ours.
        for name, rows in manifests.items():
            if rows:
                temporary = files.enter_context(atomic_path(output / name))
                write_manifest([_sample(output, clip) for clip in rows], temporary)
        _write_rejected(files.enter_context(atomic_path(output / REJECTED_FILE)), clips, set_aside)
        with files.enter_context(atomic_path(output / CLIPS_FILE)).open("wb") as file:
            for clip in clips:
                file.write(json.dumps(clip.to_json(), ensure_ascii=False).encode() + b"\n")
    for name, rows in manifests.items():
        if not rows:
            (output / name).unlink(missing_ok=True)
    _remove_stale(output, {clip.audio_file for clip in clips})


def _audio_file(clip: Clip, audio_key: str) -> str:
    """Return the path of a clip's WAV file, relative to the data set."""
    content = json.dumps([clip.start_s, clip.end_s, audio_key])
    digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
    return f"{WAVS}/{clip.recording_id}/{clip.id.removeprefix(f'{clip.recording_id}-')}-{digest}.wav"


def _sample(output: Path, clip: Clip) -> Sample:
    return Sample(
        text=clip.text,
        audio_file=str(output.absolute() / clip.audio_file),
        language=clip.language,
        manifest_audio_file=clip.audio_file,
        speaker_name=clip.speaker_name,
    )


def _write_rejected(path: Path, clips: Iterable[Clip], set_aside: Iterable[SetAside]) -> None:
    """Write everything that is set aside as a table with a header, ordered by recording and start."""
    rejected = [
        SetAside(clip.recording_id, clip.recording, clip.start_s, clip.end_s, clip.text, clip.rejected, clip.detail)
        for clip in clips
        if clip.rejected is not None
    ]
    items = sorted(
        [*rejected, *set_aside],
        key=lambda item: (item.recording, item.start_s is None, item.start_s or 0.0, item.text, item.reason.value),
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="|", lineterminator="\n")
        writer.writerow(_REJECTED_COLUMNS)
        for item in items:
            times = (_seconds(item.start_s), _seconds(item.end_s))
            writer.writerow((item.recording, *times, item.text, item.reason.value, item.detail))


def _seconds(time_s: float | None) -> str:
    return "" if time_s is None else f"{time_s:.3f}"


def _remove_stale(output: Path, needed: set[str]) -> None:
    """Remove WAV files that no clip needs and partial ones, but no file whose name is not one of ours."""
    for folder in sorted((output / WAVS).glob("*")):
        if folder.is_symlink() or not folder.is_dir() or not _RECORDING_ID.fullmatch(folder.name):
            continue
        for file in folder.iterdir():
            is_ours = _WAV_NAME.fullmatch(file.name) or _PARTIAL_WAV.fullmatch(file.name)
            if is_ours and f"{WAVS}/{folder.name}/{file.name}" not in needed:
                file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
