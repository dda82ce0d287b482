"""Steps become files: a checkpoint is written aside, flushed to the disk and renamed, so that its name is never a lie.

Temporary files begin with a dot: coqui's own retention globs `checkpoint_*`.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from xtts_extend.checkpoint.inspect import RECORD_KEY, CheckpointInfo, describe, load_pickled
from xtts_extend.checkpoint.names import BEST_MODEL, named_checkpoints, parse_name
from xtts_extend.errors import CheckFailed, CheckpointError, ConfigError, DiskFullError, MachineError
from xtts_extend.files import atomic_path, atomic_write, require_creatable

logger = logging.getLogger("trainer")

#: Version of what `RECORD_KEY` holds.
FORMAT_VERSION = 3
_LOCK_TIMEOUT_S = 15


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint dict atomically.

    Raises:
        MachineError: it could not be written; no partial file is left.
    """
    if not path.parent.is_dir():
        raise MachineError(f"The run folder {path.parent} has vanished; {path.name} was not written.")
    with atomic_write(path) as file:
        torch.save({**state, "date": datetime.date.today().strftime("%B %d, %Y")}, file)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], CheckpointInfo]:
    """A checkpoint's content (tensors mapped from the file, on the CPU) and its description; runs no code.

    Raises:
        CheckpointError: see `inspect.load_pickled`.
    """
    content = load_pickled(path, map_location="cpu")
    return content, describe(content, path)


def make_run_folder(output_dir: Path, run_name: str) -> Path:
    """A new folder, named by the time of the start, that no other run shares even when both start in one second.

    Raises:
        ConfigError: a file has the name of one of its parents.
        MachineError: the folder cannot be made.
    """
    require_creatable(output_dir)
    name = f"{run_name}-{datetime.datetime.now().strftime('%Y-%m-%d_%H-%M-%S')}"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = output_dir / (name if number == 1 else f"{name}_{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise MachineError(
            f"No run folder can be made in {output_dir}: {error.strerror}. Give another --output-dir."
        ) from error
    raise MachineError(f"{output_dir} already holds a thousand runs called {name}. Give another --output-dir.")


def lock_run(run: Path) -> FileLock:
    """Hold a run folder for this process; released by `release`, or when the process ends, however it ends.

    Raises:
        ConfigError: another process trains in it. One that was killed may have loader processes that live for some
            seconds more; they are waited for.
    """
    lock = FileLock(run / ".lock", timeout=_LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"Another process trains in {run} and writes its files. Wait until it ends, stop it, or continue in a new "
            "folder with --new-run."
        ) from error
    return lock


def remove_leftovers(run: Path) -> None:
    """Remove the temporary files that a killed run left behind."""
    for file in run.iterdir():
        if re.fullmatch(r"\..+\.tmp", file.name):
            file.unlink(missing_ok=True)


def move_later_checkpoints(run: Path, step: int) -> None:
    """Move checkpoints of later steps, from which the run does not continue, into a folder `set-aside`.

    They would take the place of the new ones: as the newest of the run, and in the retention.
    """
    for file, name in sorted(named_checkpoints(run), key=lambda named: named[0]):
        if name.step > step:
            folder = run / "set-aside"
            folder.mkdir(exist_ok=True)
            best = run / BEST_MODEL
            if best.exists() and best.samefile(file):
                best.unlink()
            target, number = folder / file.name, 1
            while target.exists():
                number += 1
                target = folder / f"{file.stem}_{number}.pth"
            file.replace(target)
            logger.warning(
                " > %s is later than step %d, where the run continues: moved to %s.", file.name, step, folder
            )


def adapter_tensors(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of the adapter that a checkpoint holds beside its weights; none in a base's file."""
    tensors: dict[str, torch.Tensor] = (content.get(RECORD_KEY) or {}).get("adapter", {}).get("tensors", {})
    return tensors


def keep_newest(run: Path, count: int) -> int:
    """Remove all `checkpoint_N.pth` but the `count` with the most steps (by name: these are our own files).

    Returns:
        How many were removed.
    """
    files = [(name.step, file) for file, name in named_checkpoints(run) if name.kind == "checkpoint"]
    for _, file in sorted(files)[:-count]:
        file.unlink()
    return len(files[count:])


def save_step(state: Mapping[str, Any], run: Path, name: str, keep: int) -> None:
    """Write a state as `checkpoint_N.pth` or `best_model_N.pth`, then remove the files that it replaces.

    When the disk is full, all but the newest two earlier checkpoints are given up for one more try.

    Args:
        state: the checkpoint.
        run: the run folder.
        name: of the file.
        keep: how many `checkpoint_N.pth` to keep.

    Raises:
        MachineError: it could not be written; what was there before is as it was, but for what was given up.
        CheckFailed: a weight is not finite.
    """
    broken = [
        key for key, tensor in {**state["model"], **adapter_tensors(state)}.items() if not torch.isfinite(tensor).all()
    ]
    if broken:
        raise CheckFailed(
            f"{len(broken)} weights are not finite at step {state['step']} (the first: {broken[0]}): no checkpoint is "
            "written, and the earlier ones are as they were. Continue one with a lower learning rate or --grad-clip 1."
        )
    path = run / name
    try:
        write_checkpoint(state, path)
    except DiskFullError:
        removed = keep_newest(run, 2)
        if not removed:
            raise
        logger.warning(" > The disk is full: %d of the older checkpoints were removed, for one more try.", removed)
        write_checkpoint(state, path)
    written = parse_name(path)
    if written and written.kind == "best_model":
        _link(path, run / BEST_MODEL)
        for file, other in list(named_checkpoints(run)):
            if other.kind == "best_model" and file != path:
                file.unlink()
    keep_newest(run, keep)


def save_second_name(run: Path, name: str, checkpoint: str, keep: int) -> None:
    """Give a file that was just written a second name, `checkpoint_N.pth`; then as `save_step`."""
    _link(run / name, run / checkpoint)
    keep_newest(run, keep)


def require_space(run: Path, size: int, keep: int) -> None:
    """Compare the room on the disk with what a run needs at its worst, and say both.

    That is `keep` checkpoints, one being written, the old and the new best model.

    Raises:
        MachineError: the room does not suffice.
    """
    sizes = {(status := file.stat()).st_ino: status.st_size for file in run.glob("*.pth")}
    needed = max(0, (keep + 3) * size - sum(sizes.values()))
    free = shutil.disk_usage(run).free
    numbers = (
        f"{free / 1e9:.1f} GB are free for {run}, and the run may need {needed / 1e9:.1f} GB more: {keep} checkpoints "
        f"of {size / 1e9:.1f} GB, one being written, the old and the new best model"
    )
    if free < needed:
        raise MachineError(f"{numbers}. Make room, give another --output-dir, or keep fewer with --keep-checkpoints.")
    logger.info(" > disk: %s", numbers)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, atomically: a hard link, or a copy on file systems without them."""
    link = target.with_name(f".{target.name}.link.tmp")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(source)
    except OSError as error:
        logger.info("No hard links in %s (%s): %s is a copy.", target.parent, error.strerror, target.name)
        with atomic_path(target) as copy:
            shutil.copyfile(source, copy)
    else:
        link.replace(target)


def require_fit(expected: set[str], found: set[str], what: str) -> None:
    """Compare the names in a saved state with the names that it must have.

    Raises:
        CheckpointError: a name is missing or left over; each is listed.
    """
    problems = []
    for label, names in (("missing", expected - found), ("left over", found - expected)):
        if names:
            listed = ", ".join(sorted(names)[:10]) + (", …" if len(names) > 10 else "")
            problems.append(f"{len(names)} {label}: {listed}")
    if problems:
        raise CheckpointError(
            f"The {what} does not fit this model ({'; '.join(problems)}). It was written for another architecture or "
            "another version; give the files that belong together."
        )
