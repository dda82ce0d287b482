"""The data set's page for people: what was made, what was set aside and why, and players, lowest scores first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from xtts_extend.corpus.clip import CLIPS_FILE, Clip, Reason, RecordingSummary, SetAside
from xtts_extend.corpus.dataset_files import REJECTED_FILE
from xtts_extend.corpus.edits import EDITS_FILE
from xtts_extend.files import atomic_write
from xtts_extend.html_page import Html, escape, page, table

REPORT_FILE = "report.html"
#: Maximum number of players on the page. With many thousands, browsers take minutes to open it.
MAX_PLAYERS = 500
#: Maximum number of rows for text without speech and speech without text.
_MAX_PARTS = 500
_BINS = 20
_ACCEPTED_COLOR, _SET_ASIDE_COLOR = "#3a7", "#c98"
_BAR_PX, _PLOT_HEIGHT_PX, _AXIS_PX = 36, 160, 24


def write_review(
    output: Path, recordings: Sequence[RecordingSummary], clips: Sequence[Clip], set_aside: Sequence[SetAside]
) -> None:
    """Write `report.html`. Its players play the WAV files of the data set, so it works only in the data set's folder.

    Args:
        output: Folder of the data set.
        recordings: All recordings.
        clips: All clips with their files and split, accepted and set aside.
        set_aside: Text without speech and speech without text.

    Raises:
        MachineError: The page cannot be written.
    """
    groups = _groups(clips)
    shown = dict(zip(groups, share_rows([len(group) for group in groups.values()], MAX_PLAYERS), strict=True))
    sections = [
        _summary(clips, set_aside),
        _heading("Recordings", _recordings(recordings, clips, set_aside)),
        _heading("Set aside", _reasons(clips, set_aside)),
        _heading("Scores", _histogram(clips)),
        *(
            _heading("Accepted" if reason is None else f"Set aside: {reason.meaning}", _players(group, shown[reason]))
            for reason, group in groups.items()
        ),
        _heading("Parts that are in no clip", _parts(set_aside)),
    ]
    with atomic_write(output / REPORT_FILE) as file:
        file.write(page(f"Data set: {output.absolute().name}", str(output.absolute()), "\n".join(sections)))


def share_rows(sizes: Sequence[int], total: int) -> list[int]:
    """Return how many rows of each section to show: all if they fit, or else an equal share and what others leave.

    >>> share_rows([9000, 20, 700], 500)
    [240, 20, 240]
    """
    shares = [0] * len(sizes)
    for done, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[index] = min(sizes[index], (total - sum(shares)) // (len(sizes) - done))
    return shares


def _groups(clips: Iterable[Clip]) -> dict[Reason | None, list[Clip]]:
    """Return accepted clips (None) and then those of each reason, lowest scores first."""
    found: dict[Reason | None, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: (clip.scores.score, clip.id)):
        found[clip.rejected].append(clip)
    return {reason: found[reason] for reason in (None, *Reason) if reason in found}


def _heading(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _summary(clips: Sequence[Clip], set_aside: Sequence[SetAside]) -> str:
    kinds = {
        "training clips": [clip for clip in clips if clip.split == "train"],
        "validation clips": [clip for clip in clips if clip.split == "val"],
        "clips set aside": [clip for clip in clips if clip.rejected is not None],
    }
    rows = [(kind, len(found), _hours(sum(clip.duration_s for clip in found))) for kind, found in kinds.items()]
    parts_s = sum(
        item.end_s - item.start_s for item in set_aside if item.start_s is not None and item.end_s is not None
    )
    example = '{"clip": "ID", "text": "corrected text", "start": 12.3, "end": 15.6}'
    return "\n".join(
        [
            table(("", "number", "length"), [*rows, ("parts that are in no clip", len(set_aside), _hours(parts_s))]),
            f"<p>To correct a clip, add a line to {EDITS_FILE}, such as <code>{escape(example)}</code>, and run "
            "make-dataset again. Times are seconds in the recording. <code>&quot;drop&quot;: true</code> drops a clip, "
            "and <code>&quot;drop&quot;: false</code> accepts one that was set aside.</p>",
        ]
    )


def _recordings(recordings: Sequence[RecordingSummary], clips: Sequence[Clip], set_aside: Sequence[SetAside]) -> str:
    accepted: Counter[str] = Counter()
    accepted_s: dict[str, float] = defaultdict(float)
    reasons: dict[str, Counter[Reason]] = defaultdict(Counter)
    for clip in clips:
        if clip.rejected is None:
            accepted[clip.recording_id] += 1
            accepted_s[clip.recording_id] += clip.duration_s
        else:
            reasons[clip.recording_id][clip.rejected] += 1
    for item in set_aside:
        reasons[item.recording_id][item.reason] += 1
    rows = [
        (
            recording.recording,
            _hours(recording.duration_s),
            _hours(recording.speech_s),
            accepted[recording.id],
            _hours(accepted_s[recording.id]),
            "; ".join(f"{reason.meaning}: {count:,}" for reason, count in reasons[recording.id].most_common()),
        )
        for recording in recordings
    ]
    return table(("recording", "length", "speech", "clips", "length", "set aside"), rows)


def _reasons(clips: Sequence[Clip], set_aside: Sequence[SetAside]) -> str:
    counts = Counter(clip.rejected for clip in clips)
    parts = Counter(item.reason for item in set_aside)
    rows = [
        (reason.meaning, reason.value, counts[reason], parts[reason])
        for reason in Reason
        if counts[reason] or parts[reason]
    ]
    if not rows:
        return "<p>Nothing was set aside.</p>"
    head = ("reason", f"in {REJECTED_FILE}", "clips", "parts that are in no clip")
    return table(head, rows)


def _histogram(clips: Sequence[Clip]) -> str:
    """Return an inline SVG with the number of accepted clips and clips set aside for each range of scores."""
    if not clips:
        return "<p>There are no clips.</p>"
    bins = Counter((min(int(clip.scores.score * _BINS), _BINS - 1), clip.rejected is None) for clip in clips)
    scale = _PLOT_HEIGHT_PX / max(bins[number, True] + bins[number, False] for number in range(_BINS))
    bars = []
    for number in range(_BINS):
        top = float(_PLOT_HEIGHT_PX)
        for is_accepted, color, name in ((True, _ACCEPTED_COLOR, "accepted"), (False, _SET_ASIDE_COLOR, "set aside")):
            count = bins[number, is_accepted]
            top -= count * scale
            title = f"{number / _BINS:.2f} to {(number + 1) / _BINS:.2f}, {name}: {count:,}"
            bars.append(
                f'<rect x="{number * _BAR_PX + 1}" y="{top:.1f}" width="{_BAR_PX - 2}" height="{count * scale:.1f}" '
                f'fill="{color}"><title>{title}</title></rect>'
            )
    labels = [
        f'<text x="{number * _BAR_PX}" y="{_PLOT_HEIGHT_PX + 16}" font-size="12">{number / _BINS:.1f}</text>'
        for number in range(0, _BINS, 2)
    ]
    width, height = _BINS * _BAR_PX, _PLOT_HEIGHT_PX + _AXIS_PX
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="Scores">'
        f"{''.join(bars)}{''.join(labels)}</svg>\n"
        f'<p>Number of clips by score. <span style="color:{_ACCEPTED_COLOR}">■</span> Accepted. '
        f'<span style="color:{_SET_ASIDE_COLOR}">■</span> Set aside.</p>'
    )


def _players(clips: Sequence[Clip], count: int) -> str:
    """Return a table with players for the first clips, and a line that says how many are omitted."""
    rows = [
        (
            Html(f'<audio controls preload="none" src="{quote(clip.audio_file)}"></audio>'),
            f"{clip.scores.score:.2f}",
            clip.text,
            clip.detail or _measurements(clip),
            f"{clip.start_s:.2f}–{clip.end_s:.2f} s",
            clip.id + (" (edited)" if clip.edited else ""),
        )
        for clip in clips[:count]
    ]
    shown = "all" if count == len(clips) else f"the {count:,} with the lowest scores"
    omitted = "" if count == len(clips) else f" The other {len(clips) - count:,} are listed in {CLIPS_FILE}."
    head = ("", "score", "text", "details", "position", "clip")
    return f'<p class="quiet">Clips: {len(clips):,}; {shown} are shown.{omitted}</p>\n{table(head, rows)}'


def _measurements(clip: Clip) -> str:
    scores = clip.scores
    values = [
        f"letters per second: {scores.characters_per_second:.1f}",
        f"silence: {scores.silence_before_s:.2f} s and {scores.silence_after_s:.2f} s",
    ]
    if scores.error_rate is not None:
        values.insert(0, f"error rate: {scores.error_rate:.2f}")
    if scores.signal_to_noise_db is not None:
        values.append(f"signal to noise: {scores.signal_to_noise_db:.0f} dB")
    if scores.clipped_samples:
        values.append(f"clipped samples: {scores.clipped_samples:,}")
    return ", ".join(values)


def _parts(set_aside: Sequence[SetAside]) -> str:
    if not set_aside:
        return "<p>All text and all speech are in a clip.</p>"
    longest_first = sorted(
        set_aside, key=lambda item: (-len(item.text), (item.start_s or 0.0) - (item.end_s or 0.0), item.recording)
    )
    rows = [
        (item.reason.meaning, item.recording, _position(item), item.text, item.detail)
        for item in longest_first[:_MAX_PARTS]
    ]
    omitted = len(set_aside) - len(rows)
    note = f" The longest {len(rows):,} are shown; {REJECTED_FILE} lists all." if omitted else ""
    head = ("reason", "recording", "position", "text", "details")
    return f'<p class="quiet">Parts: {len(set_aside):,}.{note}</p>\n{table(head, rows)}'


def _position(item: SetAside) -> str:
    if item.start_s is None or item.end_s is None:
        return ""
    return f"{item.start_s:.2f}–{item.end_s:.2f} s"


def _hours(seconds: float) -> str:
    """Return a length as hours, minutes and seconds.

    >>> _hours(3725.4)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
