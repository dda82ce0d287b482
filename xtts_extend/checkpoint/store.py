"""Write checkpoints atomically: to a temporary file, which is flushed to disk and then renamed.

The names of temporary files start with a dot because coqui deletes old checkpoints that match `checkpoint_*`.
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

#: Format version of the record stored under `RECORD_KEY`.
FORMAT_VERSION = 3
_LOCK_TIMEOUT_S = 15


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint dict atomically.

    Args:
        state: The checkpoint, without its `date`, which is added here.
        path: The file to write.

    Raises:
        MachineError: The checkpoint could not be written. No partial file is left behind.
    """
    if not path.parent.is_dir():
        raise MachineError(f"{path.name} was not written, because its run folder {path.parent} no longer exists.")
    with atomic_write(path) as file:
        torch.save({**state, "date": datetime.date.today().strftime("%B %d, %Y")}, file)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], CheckpointInfo]:
    """Load a checkpoint without running code.

    Args:
        path: The file.

    Returns:
        The content, with tensors memory-mapped on the CPU, and a description of the file.

    Raises:
        CheckpointError: The file is missing, damaged or not an XTTS checkpoint, or would run code.

    >>> content, info = load_checkpoint(Path("runs/RUN/checkpoint_4.pth"))
    >>> content["step"], info.kind
    (4, 'training')
    >>> content["model"]["xtts.gpt.text_embedding.weight"].shape[0] == info.vocab_size
    True
    """
    content = load_pickled(path, map_location="cpu")
    return content, describe(content, path)


def make_run_folder(output_dir: Path, run_name: str) -> Path:
    """Create a new run folder, named after the run and the current time.

    Runs that start in the same second get different folders.

    Args:
        output_dir: The folder for all runs; created if missing.
        run_name: Prefix of the folder's name.

    Raises:
        ConfigError: One of the folder's parents is a file.
        MachineError: The folder cannot be created.
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
            f"Could not create a run folder in {output_dir}: {error.strerror}. Use a different --output-dir."
        ) from error
    raise MachineError(f"{output_dir} already has 999 runs named {name}. Use a different --output-dir.")


def lock_run(run: Path) -> FileLock:
    """Lock a run folder so that only this process trains in it.

    This waits up to 15 s, because data loader processes may outlive a killed run by a few seconds.

    Returns:
        The lock. It is released by `release` or when the process ends.

    Raises:
        ConfigError: Another process is training in the folder.
    """
    lock = FileLock(run / ".lock", timeout=_LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"Another process is training in {run}. Wait for it to finish, stop it, or continue in a new folder with "
            "--new-run."
        ) from error
    return lock


def remove_leftovers(run: Path) -> None:
    """Remove the temporary files that a killed run left behind."""
    for file in run.iterdir():
        if re.fullmatch(r"\..+\.tmp", file.name):
            file.unlink(missing_ok=True)


def move_later_checkpoints(run: Path, step: int) -> None:
    """Move checkpoints later than the step to resume from into a folder named `set-aside`.

    Otherwise, they would count as the run's newest checkpoints, and new checkpoints would be deleted in their place.

    Args:
        run: The run folder.
        step: The step to resume from.
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
            logger.warning(" > Resuming at step %s: moved the later file %s to %s.", f"{step:,}", file.name, folder)


def adapter_tensors(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of the adapter in a checkpoint, or an empty dict if it has none."""
    tensors: dict[str, torch.Tensor] = (content.get(RECORD_KEY) or {}).get("adapter", {}).get("tensors", {})
    return tensors


def keep_newest(run: Path, count: int) -> int:
    """Remove all `checkpoint_N.pth` files except the newest, judged by the steps in their names.

    Args:
        run: The run folder.
        count: Number of files to keep.

    Returns:
        Number of files removed.
    """
    files = [(name.step, file) for file, name in named_checkpoints(run) if name.kind == "checkpoint"]
    for _, file in sorted(files)[:-count]:
        file.unlink()
    return len(files[count:])


def save_step(state: Mapping[str, Any], run: Path, name: str, keep: int) -> None:
    """Write a state as `checkpoint_N.pth` or `best_model_N.pth`, then remove the files it replaces.

    If the disk is full, all earlier checkpoints except the newest two are removed, and the write is retried once.

    Args:
        state: The checkpoint.
        run: The run folder.
        name: Name of the file to write.
        keep: Number of `checkpoint_N.pth` files to keep.

    Raises:
        MachineError: The checkpoint could not be written. Other files are unchanged, except for checkpoints removed to
            make space.
        CheckFailed: A weight is not finite.
    """
    broken = [
        key for key, tensor in {**state["model"], **adapter_tensors(state)}.items() if not torch.isfinite(tensor).all()
    ]
    if broken:
        raise CheckFailed(
            f"At step {state['step']:,}, some weights are NaN or infinite (tensors affected: {len(broken)}; first: "
            f"{broken[0]}). No checkpoint was written, and earlier checkpoints are unchanged. Resume from one of them "
            "with a lower --learning-rate or --grad-clip 1."
        )
    path = run / name
    try:
        write_checkpoint(state, path)
    except DiskFullError:
        removed = keep_newest(run, 2)
        if not removed:
            raise
        logger.warning(" > The disk is full. Number of older checkpoints removed: %d. Retrying once.", removed)
        write_checkpoint(state, path)
    written = parse_name(path)
    if written and written.kind == "best_model":
        _link(path, run / BEST_MODEL)
        for file, other in list(named_checkpoints(run)):
            if other.kind == "best_model" and file != path:
                file.unlink()
    keep_newest(run, keep)


def save_second_name(run: Path, name: str, checkpoint: str, keep: int) -> None:
    """Give the file that was just written a second name, then remove old checkpoints.

    Args:
        run: The run folder.
        name: Name of the file.
        checkpoint: The second name, `checkpoint_N.pth`.
        keep: Number of `checkpoint_N.pth` files to keep.
    """
    _link(run / name, run / checkpoint)
    keep_newest(run, keep)


def require_space(run: Path, size: int, keep: int) -> None:
    """Log the free disk space and the maximum that a run may need, and raise if there is too little.

    A run needs space for up to `keep` checkpoints, for one that is being written, and for the old and new best
    models.

    Args:
        run: The run folder. Checkpoints that are already in it reduce the space needed.
        size: Size of a checkpoint in bytes.
        keep: Number of checkpoints to keep.

    Raises:
        MachineError: There is not enough space.
    """
    sizes = {(status := file.stat()).st_ino: status.st_size for file in run.glob("*.pth")}
    needed = max(0, (keep + 3) * size - sum(sizes.values()))
    free = shutil.disk_usage(run).free
    numbers = (
        f"{free / 1e9:.1f} GB of disk space is free for {run}, and the run may need {needed / 1e9:.1f} GB more: {keep} "
        f"checkpoints of {size / 1e9:.1f} GB each, one more that is being written, and the old and new best models."
    )
    if free < needed:
        raise MachineError(f"{numbers} Free up some space, use a different --output-dir, or lower --keep-checkpoints.")
    logger.info(" > Disk space: %s", numbers)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name atomically: a hard link, or a copy if the file system does not support one."""
    link = target.with_name(f".{target.name}.link.tmp")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(source)
    except OSError as error:
        logger.info(
            " > Could not create a hard link in %s (%s), so %s is a copy.", target.parent, error.strerror, target.name
        )
        with atomic_path(target) as copy:
            shutil.copyfile(source, copy)
    else:
        link.replace(target)


def require_fit(expected: set[str], found: set[str], what: str) -> None:
    """Raise unless a saved state has exactly the expected names.

    Args:
        expected: The names it must have.
        found: The names it has.
        what: Name of the state, for the message ("The … does not match this model").

    Raises:
        CheckpointError: Names are missing or unexpected. The message lists up to ten of each.
    """
    problems = []
    for label, names in (("missing", expected - found), ("unexpected", found - expected)):
        if names:
            listed = ", ".join(sorted(names)[:10]) + (", …" if len(names) > 10 else "")
            problems.append(f"{len(names)} {label}: {listed}")
    if problems:
        raise CheckpointError(
            f"The {what} does not match this model ({'; '.join(problems)}). It was written for a different "
            "architecture or version. Pass files that belong together."
        )
