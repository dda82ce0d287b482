"""Corrections of clips by hand: lines of `edits.jsonl`, which every run applies and no run changes.

Each line is a JSON object with a clip's id and what to change: `{"clip": ID, "text": …, "start": …, "end": …, "drop":
…}`. A later line for the same clip overrides the values that it has. A clip is dropped if the last line for it says
`"drop": true`; otherwise it is accepted, even if it was set aside.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xtts_extend.corpus.clip import LONGEST_CLIP_S, Clip, Reason, Scores, parse_line
from xtts_extend.data.unspoken import has_surrogate
from xtts_extend.errors import DataError
from xtts_extend.files import append_line

logger = logging.getLogger("trainer")

#: The file with the edits in the output folder.
EDITS_FILE = "edits.jsonl"
_KEYS = ("clip", "text", "start", "end", "drop")
_MAX_LISTED = 10
_LONGEST_RECORDING_S = 1e7
# People type times in milliseconds.
_ROUNDING_S = 0.001


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to a clip. Values that are None stay as they are.

    Attributes:
        clip: Id of the clip.
        text: The new text.
        start: The new start in the recording, in seconds.
        end: The new end in the recording, in seconds.
        drop: Whether to drop the clip; False accepts it.
        line: Line number in the file, starting at 1; None if the edit was not read from a file.
    """

    clip: str
    text: str | None = None
    start: float | None = None
    end: float | None = None
    drop: bool | None = None
    line: int | None = field(default=None, compare=False)


def append_edit(path: Path, edit: Edit) -> None:
    """Append an edit to `edits.jsonl` and flush it to disk.

    Raises:
        DataError: The edit changes nothing, or a value cannot be used.
        MachineError: The file cannot be written.
    """
    edit = _checked(edit)
    values = {key: value for key in _KEYS if (value := getattr(edit, key)) is not None}
    append_line(path, json.dumps(values, ensure_ascii=False).encode())


def read_edits(path: Path) -> list[Edit]:
    """Read `edits.jsonl`, in order. Without the file, there are no edits.

    Raises:
        DataError: The file cannot be read, or has lines that are not edits. The message names the lines.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Make it readable, then try again.") from error
    edits, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            edits.append(_parse(parse_line(line, where), where, number))
        except DataError as error:
            problems.append(str(error))
    _raise_all(problems)
    return edits


def apply_edits(
    clips: Sequence[Clip],
    edits: Iterable[Edit],
    durations_s: Mapping[str, float],
    measure: Callable[[Clip], Scores],
) -> tuple[list[Clip], list[str]]:
    """Return the clips with the edits applied, and the ids in edits that no clip has, which are also logged.

    Args:
        clips: Accepted clips and clips that are set aside.
        edits: Edits in the order of the file.
        durations_s: Length of each recording in seconds, by recording id.
        measure: Measures a clip whose text, start or end was changed.

    Raises:
        DataError: A clip's new start and end cannot be used. The message names the clips and lines.
    """
    merged: dict[str, Edit] = {}
    for edit in edits:
        merged[edit.clip] = merge_edits(merged.get(edit.clip), edit)
    unmatched = sorted(merged.keys() - {clip.id for clip in clips})
    if unmatched:
        logger.warning(
            " ! %s has edits of clips that do not exist (%d), which are ignored: %s. Other texts or recordings give "
            "other clips.",
            *(EDITS_FILE, len(unmatched), _listed(unmatched)),
        )
    edited, problems = [], []
    for clip in clips:
        if clip.id in merged:
            try:
                new = apply_edit(clip, merged[clip.id], durations_s[clip.recording_id])
            except DataError as error:
                problems.append(str(error))
                continue
            is_changed = (new.text, new.start_s, new.end_s) != (clip.text, clip.start_s, clip.end_s)
            clip = replace(new, scores=measure(new)) if is_changed else new
        edited.append(clip)
    _raise_all(problems)
    return edited, unmatched


def merge_edits(earlier: Edit | None, later: Edit) -> Edit:
    """Return what a clip's earlier edits and a later one ask for together."""
    if earlier is None:
        return replace(later, drop=bool(later.drop))
    return Edit(
        later.clip,
        earlier.text if later.text is None else later.text,
        earlier.start if later.start is None else later.start,
        earlier.end if later.end is None else later.end,
        bool(later.drop),
        later.line,
    )


def apply_edit(clip: Clip, edit: Edit, duration_s: float) -> Clip:
    """Return a clip with an edit applied. Its scores are unchanged, even if they no longer fit.

    Args:
        clip: The clip, as it is without edits.
        edit: All edits of the clip, merged.
        duration_s: Length of the recording in seconds.

    Raises:
        DataError: A value cannot be used, the end is not after the start, the clip would be outside the recording, or
            it would be longer than XTTS accepts.
    """
    edit = _checked(edit)
    start = clip.start_s if edit.start is None else float(edit.start)
    end = clip.end_s if edit.end is None else float(edit.end)
    where = _where(edit)
    if duration_s < end <= duration_s + _ROUNDING_S:
        end = duration_s
    if start >= end:
        raise DataError(f"{where}: The clip would start at {start:g} s and end at {end:g} s. Correct start or end.")
    if start < 0 or end > duration_s:
        raise DataError(
            f"{where}: The clip would be from {start:g} to {end:g} s, but the recording is from 0 to {duration_s:g} s. "
            "Correct start or end."
        )
    if end - start > LONGEST_CLIP_S + _ROUNDING_S:
        raise DataError(
            f"{where}: The clip would be {end - start:.3f} s long, but XTTS accepts at most {LONGEST_CLIP_S} s. "
            "Correct start or end."
        )
    return replace(
        clip,
        text=clip.text if edit.text is None else edit.text,
        start_s=start,
        end_s=end,
        rejected=Reason.DROPPED if edit.drop else None,
        detail=f"Dropped by {EDITS_FILE}{'' if edit.line is None else f', line {edit.line}'}." if edit.drop else "",
        edited=True,
    )


def _parse(values: object, where: str, line: int) -> Edit:
    """Return the edit that a line of JSON describes."""
    if not isinstance(values, dict) or not isinstance(values.get("clip"), str):
        raise DataError(f'{where}: Expected an object with a clip, such as {{"clip": "ID", "drop": true}}. Correct it.')
    if unknown := [key for key in values if key not in _KEYS]:
        raise DataError(f"{where}: Unknown key {unknown[0]!r}. Expected {', '.join(_KEYS[:-1])} and {_KEYS[-1]}.")
    kinds = {"text": (str, "a string"), "start": (int | float, "a number"), "end": (int | float, "a number")}
    for key, (kind, expected) in {**kinds, "drop": (bool, "true or false")}.items():
        value = values.get(key)
        # JSON's true and false are integers to Python.
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise DataError(f"{where}: Expected {key} to be {expected}, got {value!r:.80}. Correct it.")
    return _checked(Edit(**values, line=line), where)


def _checked(edit: Edit, where: str = "") -> Edit:
    """Return an edit with normalized text, or raise DataError if a value cannot be used for any clip."""
    where = where or _where(edit)
    if (edit.text, edit.start, edit.end, edit.drop) == (None, None, None, None):
        raise DataError(f"{where}: Nothing is changed. Add text, start, end or drop, or delete this line.")
    for key, value in (("start", edit.start), ("end", edit.end)):
        # False for NaN as well.
        if value is not None and not abs(value) < _LONGEST_RECORDING_S:
            raise DataError(f"{where}: The {key} is {str(value)[:40]}. Expected seconds.")
    if has_surrogate(edit.clip + (edit.text or "")):
        raise DataError(
            f"{where}: The clip or text contains an invalid character (an unpaired surrogate). Type it again."
        )
    if edit.text is None:
        return edit
    text = " ".join(unicodedata.normalize("NFC", edit.text).split())
    if not any(map(str.isalnum, text)):
        raise DataError(f"{where}: The text {text!r} has no letters. Type what is spoken, or drop the clip.")
    if "|" in text:
        raise DataError(f"{where}: The text contains |, which separates columns in manifests. Remove it.")
    return replace(edit, text=text)


def _where(edit: Edit) -> str:
    clip = ascii(edit.clip)[1:-1] if has_surrogate(edit.clip) else edit.clip
    return f"Edit of {clip}" if edit.line is None else f"{EDITS_FILE}, line {edit.line} ({clip})"


def _listed(items: Sequence[str]) -> str:
    listed = ", ".join(items[:_MAX_LISTED])
    return listed if len(items) <= _MAX_LISTED else f"{listed} and {len(items) - _MAX_LISTED} more"


def _raise_all(problems: Sequence[str]) -> None:
    """Raise one DataError with the first ten problems and their number."""
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError("\n".join([f"Edits that cannot be used: {len(problems):,}.", *problems[:_MAX_LISTED]]))
