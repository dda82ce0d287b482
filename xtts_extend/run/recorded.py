"""What a checkpoint recorded, each value with the meaning that it had for the trainer that wrote it.

The stock Trainer's parsing of the command line turns empty values into None, other releases lack keys or keep a single
optimizer outside of a list, and what is computed depends on the device. This is the one place that knows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from coqpit import Coqpit

from xtts_extend.errors import ConfigError
from xtts_extend.run.config import GPTTrainerConfig, read_json

logger = logging.getLogger("trainer")

#: Key of a copy that `repair` wrote into a folder of its own.
REPAIRED_FOLDER = "repaired_folder"


def is_of_others(content: Mapping[str, Any]) -> bool:
    """Whether a training checkpoint lies in a folder of the stock Trainer, into which nothing is written."""
    return not content.get("xtts_extend") and not content.get(REPAIRED_FOLDER)


def as_recorded(content: Mapping[str, Any], path: Path | None = None) -> dict[str, Any]:
    """A training checkpoint's content with a complete `config` (a dict), and lists of optimizers and schedulers.

    Args:
        content: as loaded, of ours or of the stock Trainer; tensors on the meta device will do.
        path: of the file. Where it holds no configuration, that of its run folder counts, if there is one.
    """
    found = content.get("config") or (_config_of_folder(path.parent) if path else None)
    config = dict(found) if isinstance(found, Mapping) else {}
    if config and not content.get("xtts_extend"):
        config = _of_stock(config)
    if not content.get("scaler"):
        # there is none without CUDA: fp16 is computed as bf16 there, and nothing is scaled
        if config.get("mixed_precision"):
            config["precision"] = "bf16"
        if "use_grad_scaler" in config:
            config["use_grad_scaler"] = False
    lists = {key: _as_list(content.get(key)) for key in ("optimizer", "scheduler")}
    # one for all optimizers; some releases put it into a list
    scaler = next(iter(_as_list(content.get("scaler"))), None)
    return {**content, "config": config, "scaler": scaler, **lists}


def require_config(content: Mapping[str, Any], recorded: Mapping[str, Any], path: Path) -> None:
    """Stop where the settings of a run are not known, which a resume and an export need; say where they are from.

    Args:
        content: of a training checkpoint, as loaded.
        recorded: what `as_recorded` made of its configuration.
        path: of the file.

    Raises:
        ConfigError: neither the file nor its folder holds them.
    """
    if content.get("config"):
        return
    if not recorded:
        raise ConfigError(
            f"{path} does not record the settings of its run (no 'config' in it), and there is no config.json of a run "
            "beside it. Put the config.json of its run folder there, or start anew from its weights with --start-fresh."
        )
    logger.info(" > %s does not record the settings of its run: those of the config.json beside it are taken.", path)


def updates_of(content: Mapping[str, Any]) -> set[int]:
    """How many updates a checkpoint's optimizer has made, by its own counters, or else by its schedule's; one number.

    Args:
        content: as `as_recorded` returns it.

    Returns:
        Empty where nothing counted them; several numbers where the counters contradict each other.
    """
    counted = {
        int(moments["step"])
        for optimizer in content["optimizer"]
        for moments in optimizer["state"].values()
        if "step" in moments
    }
    if counted or content["config"].get("scheduler_after_epoch", True):
        return counted
    return {int(state["last_epoch"]) for state in content["scheduler"] if "last_epoch" in state}


def accumulation_of(content: Mapping[str, Any]) -> tuple[int | None, str]:
    """How many batches a run accumulated for an update, and how that is known.

    Args:
        content: as `as_recorded` returns it.

    Returns:
        What the configuration records; else 1, if as many updates as batches were made; else None: stock makes an
        update more at the end of an epoch and loses some where it is stopped, so that no division tells the number. The
        words say what was counted; they are empty where it is recorded.
    """
    if recorded := content["config"].get("grad_accum_steps"):
        return int(recorded), ""
    updates, step = updates_of(content), content.get("step")
    if len(updates) != 1 or not isinstance(step, int):
        return None, "it counted no updates"
    made, batches = updates.pop(), step + 1
    return 1 if made in (batches, batches - 1) else None, f"about {batches} batches made {made} updates"


def _of_stock(config: Mapping[str, Any]) -> dict[str, Any]:
    filled = _filled(config, GPTTrainerConfig())
    for sentence in filled["test_sentences"]:
        # coqui's recipe gives a list of recordings
        voice = sentence.get("speaker_wav")
        if isinstance(voice, list) and len(voice) == 1:
            sentence["speaker_wav"] = voice[0]
    if filled["dashboard_logger"] == "tensorboard":
        # the folder of its curves, which stay as they are
        filled["logger_uri"] = None
    return filled


def _filled(config: Mapping[str, Any], stock: Coqpit) -> dict[str, Any]:
    """The values with the stock configuration's own where they are missing or None."""
    filled = dict(config)
    for item in fields(stock):
        default, value = getattr(stock, item.name), config.get(item.name)
        if isinstance(default, Coqpit):
            filled[item.name] = _filled(value if isinstance(value, Mapping) else {}, default)
        elif value is None:
            filled[item.name] = default
    return filled


def _config_of_folder(folder: Path) -> Mapping[str, Any]:
    """The settings of a run folder of the stock Trainer; the config.json of a base directory says nothing of a run."""
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    return config if "optimizer_wd_only_on_weights" in config else {}


def _as_list(states: Any) -> list[dict[str, Any]]:
    """The states of optimizers, schedulers or scalers: there was one, a list of them, or a dict of them by name."""
    if isinstance(states, Mapping) and states and all(isinstance(state, Mapping) for state in states.values()):
        states = list(states.values())
    return [state for state in (states if isinstance(states, list) else [states]) if state]
