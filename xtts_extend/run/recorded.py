"""A training checkpoint, each value with the meaning that it had for the trainer that wrote it.

The stock Trainer's parsing of the command line turns empty values into None, other releases lack keys or keep a single
optimizer outside of a list, and what is computed depends on the device. This is the one place that knows.
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

#: Key of a copy that `repair` wrote into a folder of its own.
REPAIRED_FOLDER = "repaired_folder"


class OptimizerState(TypedDict):
    """As torch's optimizers save it: number of a parameter → its moments by name; options and numbers by group."""

    state: dict[int, dict[str, Tensor]]
    param_groups: list[dict[str, object]]


@dataclass(frozen=True)
class TrainingCheckpoint:
    """See the module. Tensors are mapped from the file.

    Attributes:
        info: the header.
        config: the complete configuration of the run; empty where neither the file nor its folder holds one.
        has_config: the file itself holds one.
        record: of a run of ours; None of one of the stock Trainer.
        model: its tensors, under the names that the file has.
        optimizer: usually one.
        scheduler: as many, or none.
        scaler: of fp16; None without one.
        epoch: as the file says.
        in_own_folder: a copy that `repair` wrote into a folder of its own.
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
        """Open a file.

        Raises:
            CheckpointError: it is no sound training checkpoint.
        """
        content, info = load_checkpoint(path)
        if info.kind != "training":
            raise not_a_run_error(path)
        return cls.of(content, info)

    @classmethod
    def of(cls, content: Mapping[str, object], info: CheckpointInfo) -> TrainingCheckpoint:
        """Read what was loaded.

        Args:
            content: of the file.
            info: its header. Where the file holds no configuration, that of its run folder counts, if there is one.
        """
        record = RunRecord.of(content)
        own = content.get("config")
        found = own or _config_of_folder(Path(info.path).parent)
        config = dict(found) if isinstance(found, Mapping) else {}
        if config and record is None:
            config = _stock_config(config)
        if config.get("adapter", "none") != "none":
            # releases that did not record it trained nothing of it beside an adapter
            config.setdefault("voice", "frozen")
        # one for all optimizers; some releases put it into a list
        scaler = next(iter(_as_list(content.get("scaler"))), None)
        if not scaler:
            # there is none without CUDA: fp16 is computed as bf16 there, and nothing is scaled
            if config.get("mixed_precision"):
                config["precision"] = "bf16"
            if "use_grad_scaler" in config:
                config["use_grad_scaler"] = False
        return cls(
            info,
            config,
            bool(own),
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
        """The file."""
        return Path(self.info.path)

    @property
    def is_stock_run(self) -> bool:
        """Whether it lies in a folder of the stock Trainer, into which nothing is written."""
        return self.record is None and not self.in_own_folder

    @property
    def processes(self) -> int:
        """How many trained together; the recorded batch size is that of one."""
        return self.record.processes if self.record else 1

    @property
    def position(self) -> Position:
        """Where the run was.

        The stock Trainer saves `checkpoint_N` before it counts batch N + 1 and `best_model_N` after, both with `step`
        N. The number of updates tells them apart when there was no gradient accumulation; else it is taken for the
        former. It does not record the place within the epoch, so that the epoch starts again. Its best loss is no
        measure for ours: it is a mean over batches but the first, of samples that are not recorded, or the training
        loss of an epoch by the batches of an accumulation.

        Raises:
            CheckpointError: another release wrote it, or a value is missing or left over.
        """
        if self.record is not None:
            return self.record.position
        recorded = self.info.step or 0
        return Position(step=recorded if self.updates == {recorded} else recorded + 1, epoch=self.epoch)

    @property
    def updates(self) -> set[int]:
        """How many updates the optimizer made, by its own counters, or else by its schedule's; one number.

        Empty where nothing counted them; several numbers where the counters contradict each other.
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
        """How many batches the run accumulated for an update, and how that is known.

        What the configuration records; else 1, if as many updates as batches were made; else None: stock makes an
        update more at the end of an epoch and loses some where it is stopped, so that no division tells the number. The
        words say what was counted; they are empty where it is recorded.
        """
        recorded = self.config.get("grad_accum_steps")
        if isinstance(recorded, int) and recorded:
            return recorded, ""
        updates, step = self.updates, self.info.step
        if len(updates) != 1 or step is None:
            return None, "it counted no updates"
        made, batches = updates.pop(), step + 1
        return 1 if made in (batches, batches - 1) else None, f"about {batches} batches made {made} updates"

    def require_config(self) -> None:
        """Stop where the settings of the run are not known, which a resume and an export need; say where they are from.

        Raises:
            ConfigError: neither the file nor its folder holds them.
        """
        if self.has_config:
            return
        if not self.config:
            raise ConfigError(
                f"{self.path} does not record the settings of its run (no 'config' in it), and there is no config.json "
                "of a run beside it. Put the config.json of its run folder there, or start anew from its weights with "
                "--start-fresh."
            )
        logger.info(
            " > %s does not record the settings of its run: those of the config.json beside it are taken.", self.path
        )


def not_a_run_error(path: Path) -> CheckpointError:
    """The error where a base model is asked for its run."""
    return CheckpointError(
        f"{path} is a base model (weights alone): there is no run in it to continue. Start from it: "
        "model.load_base(), and no restore_path."
    )


def _stock_config(config: Mapping[str, object]) -> dict[str, object]:
    filled = _with_stock_defaults(config, GPTTrainerConfig())
    for sentence in cast("list[dict[str, object]]", filled["test_sentences"]):
        # coqui's recipe gives a list of recordings
        voice = sentence.get("speaker_wav")
        if isinstance(voice, list) and len(voice) == 1:
            sentence["speaker_wav"] = voice[0]
    if filled["dashboard_logger"] == "tensorboard":
        # the folder of its curves, which stay as they are
        filled["logger_uri"] = None
    return filled


def _with_stock_defaults(config: Mapping[str, object], stock: Coqpit) -> dict[str, object]:
    """The values with the stock configuration's own where they are missing or None."""
    filled = dict(config)
    for item in fields(stock):
        default, value = getattr(stock, item.name), config.get(item.name)
        if isinstance(default, Coqpit):
            filled[item.name] = _with_stock_defaults(value if isinstance(value, Mapping) else {}, default)
        elif value is None:
            filled[item.name] = default
    return filled


def _config_of_folder(folder: Path) -> Mapping[str, object]:
    """The settings of a run folder of the stock Trainer; the config.json of a base directory says nothing of a run."""
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    return config if "optimizer_wd_only_on_weights" in config else {}


def _as_list(states: object) -> list[dict[str, object]]:
    """The states of optimizers, schedulers or scalers: there was one, a list of them, or a dict of them by name."""
    if isinstance(states, Mapping) and states and all(isinstance(state, Mapping) for state in states.values()):
        states = list(states.values())
    listed = states if isinstance(states, list) else [states]
    return [cast("dict[str, object]", state) for state in listed if state]
