"""Checkpoints as the page shows them: what each file is, what resuming from it would do, and the doctor's verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_extend.checkpoint.inspect import CheckpointInfo, describe, load_pickled
from xtts_extend.checkpoint.names import named_checkpoints, parse_name
from xtts_extend.errors import XttsExtendError
from xtts_extend.page.run_view import RunView, view_run
from xtts_extend.run.recorded import TrainingCheckpoint

if TYPE_CHECKING:
    from xtts_extend.page.jobs import Job


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint as the page shows it.

    Attributes:
        path: The checkpoint file.
        step: Recorded step, or the step in the file's name if the file is damaged.
        epoch: Recorded epoch, counted from 0.
        kind: "training", "base" (weights only), or "damaged".
        written_by: "xtts_extend", "stock Trainer", "another tool", or empty if it is damaged.
        size_bytes: Size of the file.
        problem: What is wrong with a damaged file.
        resuming: What resuming from the checkpoint would do.
    """

    path: Path
    step: int | None
    epoch: int | None
    kind: str
    written_by: str
    size_bytes: int
    problem: str
    resuming: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.name

    @property
    def is_intact(self) -> bool:
        """Whether its header can be read."""
        return not self.problem


@dataclass(frozen=True)
class _Header:
    """The contents of a file's header.

    Attributes:
        info: Description of the checkpoint; None if the file is damaged.
        done: Number of finished batches, as our runs count them; None if the run cannot resume from it.
        problem: What is wrong with a damaged file.
    """

    info: CheckpointInfo | None
    done: int | None = None
    problem: str = ""

    @property
    def written_by(self) -> str:
        """The program that wrote the file."""
        if self.info is None:
            return ""
        if self.info.written_by == "xtts_extend":
            return "xtts_extend"
        return "stock Trainer" if self.info.kind == "training" else "another tool"


def view_checkpoints(run: Path) -> list[CheckpointView]:
    """Return the checkpoints of a run in order of step, as described by their headers."""
    view = view_run(run)
    try:
        named = sorted(named_checkpoints(run), key=lambda named: (named[1].step, named[0].name))
    except OSError:
        return []
    headers = {path: _header(path) for path, _ in named}
    return [_view(path, header, headers, view) for path, header in headers.items()]


def verdict(checkpoint: Path, jobs: Iterable[Job]) -> dict[str, Any] | None:
    """Return the doctor's verdict on a checkpoint, as `Diagnosis.to_dict` returns it; None if there is none.

    A verdict is valid until the file changes.

    Args:
        checkpoint: The file.
        jobs: Jobs of the project; those of the kind "inspect" contain verdicts.
    """
    try:
        changed = checkpoint.stat().st_mtime
    except OSError:
        return None
    asked = [job for job in jobs if job.kind == "inspect" and str(checkpoint) in job.arguments]
    for job in sorted(asked, key=lambda job: job.name, reverse=True):
        try:
            if datetime.fromisoformat(job.created).timestamp() < changed:
                continue
        except ValueError:
            continue
        found = job.result()
        if found is not None and "verdict" in found:
            return found
    return None


def _view(path: Path, header: _Header, all_headers: Mapping[Path, _Header], run: RunView) -> CheckpointView:
    info, name = header.info, parse_name(path)
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    step = info.step if info else (name.step if name else None)
    return CheckpointView(
        path=path,
        step=step,
        epoch=info.epoch if info else None,
        kind=info.kind if info else "damaged",
        written_by=header.written_by,
        size_bytes=size,
        problem=header.problem,
        resuming=_resuming(path, header, all_headers, run),
    )


def _resuming(path: Path, header: _Header, all_headers: Mapping[Path, _Header], run: RunView) -> str:
    """Return what resuming from a checkpoint would do."""
    info, done = header.info, header.done
    if info is None:
        intact = [other for other, its in all_headers.items() if its.done is not None]
        instead = max(intact, key=lambda other: (all_headers[other].done or 0, other.name), default=None)
        if instead is None:
            return "The run cannot be resumed from this checkpoint or any other."
        return f"Cannot be used. The run will resume from {instead.name} (step {all_headers[instead].done or 0:,})."
    if done is None:
        if info.kind == "training":
            return f"Cannot be resumed: {header.problem}"
        if info.has_optimizer:
            return (
                f"Cannot be resumed: it does not record its {info.missing_position}. "
                "Its weights can start a new run at step 0."
            )
        return "Starts a new run at step 0: it has weights but no training state."
    if run.is_live:
        return "The run is training. Stop it first."
    following = f"step {done + 1:,}"
    if header.written_by != "xtts_extend":
        return f"Continues at {following} in a new run folder. This folder is not changed."
    later = [other.name for other in all_headers if (named := parse_name(other)) and named.step > done]
    said = f"Continues in this folder at {following}."
    if later:
        names = ", ".join(later[:10]) + (f" and {len(later) - 10:,} more" if len(later) > 10 else "")
        said += f" {names} will be moved to set-aside."
    elif run.phase == "finished":
        said += " The run is finished: give it more steps or epochs."
    return said


def _header(path: Path) -> _Header:
    """Return the contents of a file's header. It is read again if the file's size or modification time has changed."""
    try:
        status = path.stat()
    except OSError as error:
        return _Header(None, problem=f"{path} cannot be read: {error.strerror}.")
    return _read_header(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=512)
def _read_header(path: Path, size: int, time_ns: int) -> _Header:
    try:
        content = load_pickled(path, map_location="meta")
        info = describe(content, path)
    # A damaged file can contain anything where a number or a table is expected.
    except (XttsExtendError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        return _Header(None, problem=str(error))
    if info.kind != "training":
        return _Header(info)
    try:
        return _Header(info, TrainingCheckpoint.of(content, info).position.step)
    except (XttsExtendError, OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        return _Header(info, problem=str(error) or type(error).__name__)
