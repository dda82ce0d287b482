"""What the given path is, by its content, and what is done with it: start from it, or resume it."""

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
    """What is done with a path."""

    #: The weights of a base model, at step 0.
    START = "start"
    #: The weights of a training checkpoint, at step 0.
    START_FRESH = "start fresh"
    #: A run that ended before its first checkpoint: once more, in its folder and with its settings.
    START_AGAIN = "start again"
    #: A training checkpoint, at its next batch.
    RESUME = "resume"


@dataclass(frozen=True)
class Start:
    """A checkpoint, and what is done with it.

    Attributes:
        mode: what is done.
        info: the header of the file.
        training: what a training checkpoint records; None of a base model.
        run_folder: of `Mode.START_AGAIN`.
        settings: the configuration that its run recorded there.
    """

    mode: Mode
    info: CheckpointInfo
    training: TrainingCheckpoint | None = None
    run_folder: Path | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.info.path)

    @property
    def checkpoint(self) -> TrainingCheckpoint:
        """The training checkpoint.

        Raises:
            CheckpointError: it is a base model.
        """
        if self.training is None:
            raise not_a_run_error(self.path)
        return self.training

    @property
    def resumed(self) -> TrainingCheckpoint | None:
        """The training checkpoint, if it is resumed."""
        return self.training if self.mode is Mode.RESUME else None


def open_checkpoint(flags: Flags, ranks: Ranks) -> Start:
    """Decide by content what `--checkpoint` (default: the base's `model.pth`) is, and open it.

    Of a run folder it is the newest sound checkpoint. Checksums are compared once, by rank 0, which tells the others
    the file.

    Raises:
        CheckpointError: it is no sound checkpoint, or one of a run that does not say where it was.
        ConfigError: neither `--checkpoint` nor `--base-dir` was given, or `--start-from` beside a checkpoint.
    """
    start_from = str(flags.values.get("start_from") or "")
    if start_from and flags.checkpoint is not None:
        raise ConfigError(
            "--start-from begins a run with a language pack, and --checkpoint names what to start from or to resume. "
            "Omit one of the two."
        )
    if start_from:
        target = open_spec(start_from)[0].model
    elif flags.checkpoint is not None:
        target = Path(flags.checkpoint).expanduser()
    elif flags.base_dir:
        target = Path(flags.base_dir).expanduser() / "model.pth"
    else:
        raise ConfigError("Neither --base-dir nor --checkpoint was given: there is nothing to start from.")
    if _stopped_before_first_checkpoint(target):
        return _restart_run(target)
    file = Path(ranks.from_main(inspect_checkpoint(target, verify=True).path if ranks.is_main else ""))
    start = _open(file)
    info = start.info
    if start.training is None:
        if info.has_optimizer and flags.checkpoint is not None and not flags.start_fresh:
            raise CheckpointError(
                f"{file} holds an optimizer state but no {info.missing_position}: the position of its run is unknown, "
                "so it cannot be resumed. Use a checkpoint that records it, or start at step 0 from its weights with "
                "--start-fresh."
            )
        _explain_base(start)
        return start
    verb = "only its weights are taken (--start-fresh)" if flags.start_fresh else "it is continued"
    logger.info(" > %s is a training checkpoint (step %s, epoch %s): %s.", file, info.step, info.epoch, verb)
    if flags.start_fresh:
        return start
    start.training.require_config()
    return Start(Mode.RESUME, info, start.training)


def start_from(path: Path) -> Start:
    """The start of a run from the weights of a file, whatever else the file holds.

    Args:
        path: the file, or a base directory.

    Raises:
        CheckpointError: it is no sound checkpoint.
    """
    return _open(Path(inspect_checkpoint(path, verify=True).path))


def _open(file: Path) -> Start:
    """A file that is known to be sound."""
    content, info = load_checkpoint(file)
    if info.kind == "base":
        return Start(Mode.START, info)
    return Start(Mode.START_FRESH, info, TrainingCheckpoint.of(content, info))


def _stopped_before_first_checkpoint(target: Path) -> bool:
    """Whether this is the folder of a run that ended before its first checkpoint.

    Raises:
        CheckpointError: it was made to continue another run.
    """
    if not target.is_dir() or run_checkpoints(target):
        return False
    if source := resumed_from(target):
        raise CheckpointError(
            f"{target} holds no checkpoint yet: it was made to continue {source}, and was stopped too early. Pass that "
            "checkpoint to --checkpoint again."
        )
    config = target / "config.json"
    return config.is_file() and bool(read_json(config).get("started_from"))


def _restart_run(run: Path) -> Start:
    """Start the run of a folder again, with the settings and from the weights that it recorded."""
    settings = read_json(run / "config.json")
    start = start_from(Path(str(settings["started_from"])))
    logger.info(" > %s holds no checkpoint: its run starts again, from %s.", run, start.path)
    return Start(Mode.START_AGAIN, start.info, start.training, run.absolute(), settings)


def _explain_base(start: Start) -> None:
    info = start.info
    logger.info(
        " > %s is a base model (weights only, %d token rows): training starts at step 0.", start.path, info.vocab_size
    )
    if not info.has_optimizer and parse_name(start.path):
        logger.warning(
            " > It is named like a training checkpoint, but its optimizer was stripped: there is no run to continue."
        )
