"""Determine what a given path contains, and whether a new run starts from it or an existing run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from xtts_extend.checkpoint.inspect import CheckpointInfo, inspect_checkpoint, run_checkpoints
from xtts_extend.checkpoint.names import parse_name
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.pack.model_folder import open_spec
from xtts_extend.run.config import read_json
from xtts_extend.run.history import resumed_from
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.recorded import TrainingCheckpoint, not_a_run_error
from xtts_extend.setup.flags import Flags

logger = logging.getLogger("trainer")


class Mode(Enum):
    """How a run uses a path."""

    #: Start from a base model's weights, at step 0.
    START = "start"
    #: Start from a training checkpoint's weights, at step 0.
    START_FRESH = "start fresh"
    #: Restart a run that ended before its first checkpoint, in the same folder and with the same settings.
    START_AGAIN = "start again"
    #: Resume from a training checkpoint, at the next batch.
    RESUME = "resume"


@dataclass(frozen=True)
class Start:
    """A checkpoint and how a run uses it.

    Attributes:
        mode: How the run uses the checkpoint.
        info: Header of the checkpoint file.
        training: Content of a training checkpoint; None for a base model.
        run_folder: Folder of the run to restart; None unless the mode is `Mode.START_AGAIN`.
        settings: Configuration recorded in `run_folder`; otherwise empty.
    """

    mode: Mode
    info: CheckpointInfo
    training: TrainingCheckpoint | None = None
    run_folder: Path | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Path of the checkpoint file."""
        return Path(self.info.path)

    @property
    def checkpoint(self) -> TrainingCheckpoint:
        """Content of the training checkpoint.

        Raises:
            CheckpointError: The file is a base model.
        """
        if self.training is None:
            raise not_a_run_error(self.path)
        return self.training

    @property
    def resumed(self) -> TrainingCheckpoint | None:
        """Content of the training checkpoint if the run resumes from it, otherwise None."""
        return self.training if self.mode is Mode.RESUME else None


def open_checkpoint(flags: Flags, ranks: Ranks) -> Start:
    """Open `--checkpoint` (default: the base's `model.pth`) and decide from its content how the run uses it.

    For a run folder, this is the newest intact checkpoint. Only rank 0 verifies checksums; it sends the path to the
    other ranks.

    Raises:
        CheckpointError: There is no intact checkpoint, or it does not record the run's position.
        ConfigError: Neither `--checkpoint` nor `--base-dir` is given, or `--start-from` is given with `--checkpoint`.
    """
    start_from = str(flags.values.get("start_from") or "")
    if start_from and flags.checkpoint is not None:
        raise ConfigError(
            "--start-from starts a run from a language pack, but --checkpoint names a different file to start or "
            "resume from. Omit one of the two flags."
        )
    if start_from:
        target = open_spec(start_from)[0].model
    elif flags.checkpoint is not None:
        target = Path(flags.checkpoint).expanduser()
    elif flags.base_dir:
        target = Path(flags.base_dir).expanduser() / "model.pth"
    else:
        raise ConfigError(
            "Neither --base-dir nor --checkpoint is set. Pass --base-dir to start from a base model, or --checkpoint "
            "to start or resume from a checkpoint."
        )
    if _stopped_before_first_checkpoint(target):
        return _restart_run(target)
    file = Path(ranks.from_main(inspect_checkpoint(target, verify=True).path if ranks.is_main else ""))
    start = _open(file)
    info = start.info
    if start.training is None:
        if info.has_optimizer and flags.checkpoint is not None and not flags.start_fresh:
            raise CheckpointError(
                f"{file} has optimizer state but no {info.missing_position}, so the position of its run is unknown and "
                "it cannot be resumed. Use a checkpoint that records the position, or start at step 0 from these "
                "weights with --start-fresh."
            )
        _log_base(start)
        return start
    action = "Using only its weights (--start-fresh)" if flags.start_fresh else "Resuming the run"
    logger.info(" > %s is a training checkpoint (step %s, epoch %s). %s.", file, info.step, info.epoch, action)
    if flags.start_fresh:
        return start
    start.training.require_config()
    return Start(Mode.RESUME, info, start.training)


def start_from(path: Path) -> Start:
    """Open a file so that a run can start from its weights, even if it is a training checkpoint.

    Args:
        path: A file, a run folder or a base directory.

    Raises:
        CheckpointError: There is no intact checkpoint.
    """
    return _open(Path(inspect_checkpoint(path, verify=True).path))


def _open(file: Path) -> Start:
    """Open a file that is known to be intact."""
    content, info = load_checkpoint(file)
    if info.kind == "base":
        return Start(Mode.START, info)
    return Start(Mode.START_FRESH, info, TrainingCheckpoint.of(content, info))


def _stopped_before_first_checkpoint(target: Path) -> bool:
    """Return whether this is the folder of a run that ended before its first checkpoint.

    Raises:
        CheckpointError: The run was resuming from a checkpoint in a different folder.
    """
    if not target.is_dir() or run_checkpoints(target):
        return False
    if source := resumed_from(target):
        raise CheckpointError(
            f"{target} has no checkpoint yet, because its run resumed from {source} and stopped before saving one. "
            f"Pass {source} with --checkpoint again."
        )
    config = target / "config.json"
    return config.is_file() and bool(read_json(config).get("started_from"))


def _restart_run(run: Path) -> Start:
    """Restart a folder's run from the weights that it started from, with the settings that it recorded."""
    settings = read_json(run / "config.json")
    start = start_from(Path(str(settings["started_from"])))
    logger.info(" > %s has no checkpoint. Restarting its run from %s.", run, start.path)
    return Start(Mode.START_AGAIN, start.info, start.training, run.absolute(), settings)


def _log_base(start: Start) -> None:
    info = start.info
    logger.info(
        " > %s is a base model (weights only, %d token rows). Training starts at step 0.", start.path, info.vocab_size
    )
    if not info.has_optimizer and parse_name(start.path):
        logger.warning(
            " > The file is named like a training checkpoint but has no optimizer state, so there is no run to resume."
        )
