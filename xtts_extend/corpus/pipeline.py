"""Make a data set from long recordings: prepare each recording, apply edits, and write the data set's files."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from xtts_extend.corpus.clip import Clip, Reason, RecordingSummary, Scores, SetAside
from xtts_extend.corpus.clip_making import measure_clip
from xtts_extend.corpus.dataset_files import WORK_FOLDER, require_own_folder, write_dataset, write_wavs
from xtts_extend.corpus.edits import EDITS_FILE, apply_edits, read_edits
from xtts_extend.corpus.loudness import gain_for
from xtts_extend.corpus.quality import reject_reason
from xtts_extend.corpus.recording_clips import Prepared, RecordingClips, Settings
from xtts_extend.corpus.review_page import write_review
from xtts_extend.corpus.sources import Source, TextKind
from xtts_extend.corpus.transcript import read_transcript, words_of_transcript
from xtts_extend.corpus.validation_blocks import split_clips
from xtts_extend.corpus.words import join_words
from xtts_extend.data.audio_file import Frames
from xtts_extend.errors import DataError, MachineError
from xtts_extend.files import require_creatable
from xtts_extend.run.ranks import Ranks

logger = logging.getLogger("trainer")


@dataclass(frozen=True)
class Summary:
    """What `make_dataset` made.

    Attributes:
        recordings: Number of recordings with clips.
        train, val: Number of clips in the training and the validation set.
        hours: Length of both in hours.
        set_aside: Number of clips, texts, stretches of speech and recordings that were set aside, by reason.
    """

    recordings: int
    train: int
    val: int
    hours: float
    set_aside: dict[str, int]


def make_dataset(
    sources: Sequence[Source],
    output: Path,
    settings: Settings,
    ranks: Ranks | None = None,
    *,
    progress: bool = True,
) -> Summary:
    """Make a data set from recordings. Stages that an earlier, interrupted call finished are not repeated.

    Each process prepares its share of the recordings. Rank 0 then writes the data set.

    Args:
        sources: The recordings with their texts.
        output: Folder of the data set: new, or one that an earlier call wrote.
        settings: How recordings become clips.
        ranks: The processes; by default, there is only this one.
        progress: Whether to show progress.

    Raises:
        ConfigError: The folder holds other files, or the aligner or recognizer fails.
        DataError: None of the recordings can be used, or there is an invalid edit.
        MachineError: A file cannot be written, or another process is writing the data set.
    """
    ranks = ranks or Ranks()
    require_creatable(output)
    require_own_folder(output)
    # A line that cannot be used stops the call here and not after hours.
    read_edits(output / EDITS_FILE)
    work = output / WORK_FOLDER
    try:
        with _writing(work) if ranks.is_main else contextlib.nullcontext():
            _prepare(sources[ranks.rank :: ranks.size], work, settings, progress)
            ranks.wait()
            return _write(sources, output, work, settings, progress) if ranks.is_main else _EMPTY
    except Timeout as error:
        raise MachineError(f"Another process is writing the data set {output}. Wait until it finishes.") from error


@contextlib.contextmanager
def _writing(work: Path) -> Iterator[None]:
    """Hold the lock of a data set; raise Timeout at once if another process has it."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"The folder {work} cannot be created ({error}). Choose a different --output.") from error
    with FileLock(work / ".lock").acquire(timeout=0):
        yield


def _prepare(sources: Sequence[Source], work: Path, settings: Settings, progress: bool) -> None:
    for number, source in enumerate(sources, start=1):
        if progress:
            logger.info(" > Recording %d of %d: %s", number, len(sources), source.path)
        try:
            RecordingClips(source, work, settings, progress).prepare()
        except DataError as error:
            # `_write` reports it.
            logger.debug("%s", error)


_EMPTY = Summary(0, 0, 0, 0.0, {})


def _write(sources: Sequence[Source], output: Path, work: Path, settings: Settings, progress: bool) -> Summary:
    prepared: dict[str, tuple[RecordingClips, Prepared]] = {}
    failed: list[SetAside] = []
    for source in sources:
        try:
            recording = RecordingClips(source, work, settings, progress=False)
            prepared[recording.id] = recording, recording.prepare()
        except DataError as error:
            failed.append(SetAside("", str(source.path), None, None, "", Reason.UNUSABLE_RECORDING, str(error)))
            logger.warning(" ! %s", error)
    if not prepared:
        raise DataError("\n".join(["None of the recordings can be used.", *(item.detail for item in failed)]))
    results = [result for _, result in prepared.values()]
    clips = [_judged(clip, settings.min_score) for result in results for clip in result.clips]
    durations = {result.id: result.info.duration_s for result in results}

    def measure(clip: Clip) -> Scores:
        recording, result = prepared[clip.recording_id]
        span = clip.start_s, clip.end_s
        return measure_clip(recording.flac, result.info, result.level, result.speech, span, clip.text, None, None)

    clips, _ = apply_edits(clips, read_edits(output / EDITS_FILE), durations, measure)
    summaries = [_summary(prepared[result.id][0], result) for result in results]
    clips = split_clips(clips, summaries)
    set_aside = failed + [item for result in results for item in result.set_aside]
    found = {recording.path: result.found for recording, result in prepared.values()}
    set_aside += _unread_texts(sources, found, settings)

    def read(clip: Clip) -> tuple[Frames, int]:
        recording, result = prepared[clip.recording_id]
        rate = result.info.sample_rate
        return recording.read(clip.start_s, clip.end_s, rate) * gain_for(result.level), rate

    clips = write_wavs(output, clips, summaries, read)
    write_dataset(output, clips, set_aside)
    write_review(output, summaries, clips, set_aside)
    return _counted(clips, set_aside)


def _unread_texts(
    sources: Sequence[Source], found: Mapping[str, tuple[int, int]], settings: Settings
) -> Iterator[SetAside]:
    """Yield the parts of books that are in none of the recordings."""
    ranges: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for source in sources:
        if source.kind is TextKind.BOOK and source.text_path is not None:
            ranges[source.text_path] += [found[str(source.path)]] if str(source.path) in found else []
    for book, parts in ranges.items():
        words = words_of_transcript(read_transcript(book, settings.language), settings.language)
        end = 0
        for first, last in [*sorted(parts), (len(words), len(words))]:
            if text := join_words(words[end:first]):
                detail = "This part of the text is in none of the recordings."
                yield SetAside("", str(book), None, None, text, Reason.TEXT_WITHOUT_SPEECH, detail)
            end = max(end, last)


def _judged(clip: Clip, min_score: float) -> Clip:
    reason = reject_reason(clip, min_score)
    return clip if reason is None else replace(clip, rejected=reason[0], detail=reason[1])


def _summary(recording: RecordingClips, result: Prepared) -> RecordingSummary:
    return RecordingSummary(
        id=result.id,
        recording=recording.path,
        digest=result.info.digest,
        duration_s=result.info.duration_s,
        speech_s=sum(span.duration_s for span in result.speech),
        audio_key=f"{gain_for(result.level):.6g} {result.info.sample_rate}",
    )


def _counted(clips: Sequence[Clip], set_aside: Sequence[SetAside]) -> Summary:
    accepted = [clip for clip in clips if clip.split is not None]
    reasons = [clip.rejected for clip in clips if clip.rejected] + [item.reason for item in set_aside]
    return Summary(
        recordings=len({clip.recording_id for clip in accepted}),
        train=sum(clip.split == "train" for clip in accepted),
        val=sum(clip.split == "val" for clip in accepted),
        hours=round(sum(clip.duration_s for clip in accepted) / 3600, 3),
        set_aside={reason.value: count for reason, count in Counter(reasons).most_common()},
    )
