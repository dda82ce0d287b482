"""Training checkpoints from any trainer or release, with values interpreted as the writer intended.

The stock Trainer's command line turns empty values into None, other releases omit keys or save a single optimizer
without a list, and precision depends on the device. Only this module deals with these differences.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypedDict, cast

from coqpit import Coqpit
from torch import Tensor

from xtts_extend.checkpoint.inspect import CheckpointInfo
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.model.coqui_trainer import GPTTrainerConfig
from xtts_extend.run.config import read_json
from xtts_extend.run.position import Position
from xtts_extend.run.record import RunRecord

logger = logging.getLogger("trainer")

#: Key that marks a copy that `repair` wrote into a folder of its own.
REPAIRED_FOLDER = "repaired_folder"


class OptimizerState(TypedDict):
    """The state dict of a torch optimizer.

    Attributes:
        state: Moments by name, for each parameter index.
        param_groups: Options and parameter indices of each group.
    """

    state: dict[int, dict[str, Tensor]]
    param_groups: list[dict[str, object]]


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A training checkpoint from our trainer or the stock one. Tensors are memory-mapped from the file.

    Attributes:
        info: Header of the file.
        config: Complete configuration of the run; empty if neither the file nor its folder has one.
        has_config: Whether the file itself has a configuration.
        record: Record written by our trainer; None in a checkpoint from the stock Trainer.
        model: Tensors, keyed by their names in the file.
        optimizer: Optimizer states, usually one.
        scheduler: Scheduler states, one per optimizer or none.
        scaler: State of the fp16 loss scaler, or None.
        epoch: Recorded epoch, starting at 0.
        in_own_folder: Whether `repair` wrote this copy into a folder of its own.
    """

    info: CheckpointInfo
    config: Mapping[str, object]
    has_config: bool
    record: RunRecord | None
    model: Mapping[str, Tensor]
    optimizer: Sequence[OptimizerState]
    scheduler: Sequence[Mapping[str, object]]
    scaler: Mapping[str, object] | None
    epoch: int
    in_own_folder: bool

    @classmethod
    def open(cls, path: Path) -> TrainingCheckpoint:
        """Open a training checkpoint.

        Raises:
            CheckpointError: The file is damaged or not a training checkpoint.
        """
        content, info = load_checkpoint(path)
        if info.kind != "training":
            raise not_a_run_error(path)
        return cls.of(content, info)

    @classmethod
    def of(cls, content: Mapping[str, object], info: CheckpointInfo) -> TrainingCheckpoint:
        """Interpret the content of a file. If it has no configuration, use the one in its run folder, if any.

        Args:
            content: Loaded content of the file.
            info: Header of the file.
        """
        record = RunRecord.of(content)
        own_config = content.get("config")
        recorded = own_config or _config_of_folder(Path(info.path).parent)
        config = dict(recorded) if isinstance(recorded, Mapping) else {}
        if config and record is None:
            config = _stock_config(config)
        if config.get("adapter", "none") != "none":
            # Releases that did not record `voice` froze the voice side if there was an adapter.
            config.setdefault("voice", "frozen")
        # There is one scaler for all optimizers, but some releases put it into a list.
        scaler = next(iter(_as_list(content.get("scaler"))), None)
        if not scaler:
            # Without CUDA there is no scaler: fp16 runs as bf16, and losses are not scaled.
            if config.get("mixed_precision"):
                config["precision"] = "bf16"
            if "use_grad_scaler" in config:
                config["use_grad_scaler"] = False
        return cls(
            info,
            config,
            bool(own_config),
            record,
            cast("dict[str, Tensor]", content.get("model", {})),
            cast("list[OptimizerState]", _as_list(content.get("optimizer"))),
            _as_list(content.get("scheduler")),
            scaler,
            info.epoch or 0,
            bool(content.get(REPAIRED_FOLDER)),
        )

    @property
    def path(self) -> Path:
        """Path of the checkpoint file."""
        return Path(self.info.path)

    @property
    def is_stock_run(self) -> bool:
        """Whether the file is in a stock Trainer's run folder, where we write nothing."""
        return self.record is None and not self.in_own_folder

    @property
    def processes(self) -> int:
        """Number of processes that trained together. The recorded batch size is per process."""
        return self.record.processes if self.record else 1

    @property
    def position(self) -> Position:
        """Position of the run.

        The stock Trainer records `step` N in both `checkpoint_N`, saved before it counts batch N + 1, and
        `best_model_N`, saved after. Without gradient accumulation, the number of updates tells them apart; otherwise
        the file is treated as the former. The batch within the epoch is not recorded, so the epoch starts over. The
        stock Trainer's best loss is ignored, because it is either a mean over unrecorded samples that omits the first
        batch, or the epoch's training loss divided by the number of accumulation steps.

        Raises:
            CheckpointError: The format version is not supported, or a value is missing or unknown.
        """
        if self.record is not None:
            return self.record.position
        recorded = self.info.step or 0
        return Position(step=recorded if self.updates == {recorded} else recorded + 1, epoch=self.epoch)

    @property
    def updates(self) -> set[int]:
        """Number of updates according to the optimizer's counters, or else the schedule's, as a set of one number.

        The set is empty if nothing counted them, and it contains several numbers if the counters disagree.
        """
        counted = {
            int(moments["step"])
            for optimizer in self.optimizer
            for moments in optimizer["state"].values()
            if "step" in moments
        }
        if counted or self.config.get("scheduler_after_epoch", True):
            return counted
        return {int(str(state["last_epoch"])) for state in self.scheduler if "last_epoch" in state}

    @property
    def accumulation(self) -> tuple[int | None, str]:
        """Number of batches per update, and the evidence for it.

        The number is the recorded one, or else 1 if there were as many updates as batches, or else None. It cannot be
        computed by division, because the stock Trainer adds an update at the end of an epoch and loses some when it is
        stopped. The evidence is a description of the counters, or empty if the number is recorded.
        """
        recorded = self.config.get("grad_accum_steps")
        if isinstance(recorded, int) and recorded:
            return recorded, ""
        updates, step = self.updates, self.info.step
        if len(updates) != 1 or step is None:
            return None, "updates were not counted"
        made, batches = updates.pop(), step + 1
        return 1 if made in (batches, batches - 1) else None, f"{made} updates were made in about {batches} batches"

    def require_config(self) -> None:
        """Raise unless the run's configuration is known. Log a message if it comes from the folder, not the file.

        Raises:
            ConfigError: Neither the file nor its folder has the configuration.
        """
        if self.has_config:
            return
        if not self.config:
            raise ConfigError(
                f"{self.path} does not record the settings of its run (no 'config' in it), and there is no config.json "
                "of a run beside it. Put the config.json from its run folder there, or start a new run from its "
                "weights with --start-fresh."
            )
        logger.info(
            " > %s does not record the settings of its run. Using the settings in the config.json beside it.", self.path
        )


def not_a_run_error(path: Path) -> CheckpointError:
    """Return the error to raise if a base model was passed where a training checkpoint is needed."""
    return CheckpointError(
        f"{path} is a base model (weights only), so there is no run to resume. To start a run from it, call "
        "model.load_base() and omit restore_path."
    )


def _stock_config(config: Mapping[str, object]) -> dict[str, object]:
    filled = _with_stock_defaults(config, GPTTrainerConfig())
    for sentence in cast("list[dict[str, object]]", filled["test_sentences"]):
        # coqui's recipe records a list of recordings.
        voice = sentence.get("speaker_wav")
        if isinstance(voice, list) and len(voice) == 1:
            sentence["speaker_wav"] = voice[0]
    if filled["dashboard_logger"] == "tensorboard":
        # The recorded folder contains the stock run's curves, which must not change.
        filled["logger_uri"] = None
    return filled


def _with_stock_defaults(config: Mapping[str, object], stock: Coqpit) -> dict[str, object]:
    """Replace missing values and None with the stock configuration's defaults."""
    filled = dict(config)
    for item in fields(stock):
        default, value = getattr(stock, item.name), config.get(item.name)
        if isinstance(default, Coqpit):
            filled[item.name] = _with_stock_defaults(value if isinstance(value, Mapping) else {}, default)
        elif value is None:
            filled[item.name] = default
    return filled


def _config_of_folder(folder: Path) -> Mapping[str, object]:
    """Return the settings in a stock Trainer's run folder. Ignore the config.json of a base directory."""
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    return config if "optimizer_wd_only_on_weights" in config else {}


def _as_list(states: object) -> list[dict[str, object]]:
    """Return optimizer, scheduler or scaler states as a list. A checkpoint may store one state, a list or a dict."""
    if isinstance(states, Mapping) and states and all(isinstance(state, Mapping) for state in states.values()):
        states = list(states.values())
    listed = states if isinstance(states, list) else [states]
    return [cast("dict[str, object]", state) for state in listed if state]
