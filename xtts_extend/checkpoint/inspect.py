"""Say what a path is, from its content and never from its name.

Only the pickled header of a checkpoint is read: tensors are mapped to the "meta" device, so a file of several gigabytes
takes a fraction of a second, and `weights_only=True` keeps a file from running code.
"""

from __future__ import annotations

import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from xtts_extend.checkpoint.formats import (
    describe_shard,
    folder_without_model,
    is_legacy,
    is_safetensors,
    not_an_archive_error,
    read_safetensors,
    require_pickled_archive,
)
from xtts_extend.checkpoint.integrity import require_intact
from xtts_extend.checkpoint.names import BEST_MODEL, named_checkpoints, parse_name
from xtts_extend.checkpoint.normalize import has_tensor_counts, normalize_content
from xtts_extend.checkpoint.stand_ins import STAND_INS, could_run_code
from xtts_extend.errors import CheckpointError, DamagedError

logger = logging.getLogger("trainer")

#: Key of what a run of ours records beside what a stock checkpoint holds.
RECORD_KEY = "xtts_extend"
#: Prefixes under which the text embedding is found: coqui's trainer, `Xtts.state_dict()`.
_GPT_PREFIXES = ("xtts.gpt.", "gpt.")
#: As many bytes of a file as tell what it is.
_START = 512


@dataclass(frozen=True)
class Architecture:
    """Sizes of the GPT; `heads` is not visible in the weights and is None when no config travels with them."""

    layers: int
    channels: int
    heads: int | None


@dataclass(frozen=True)
class CheckpointInfo:
    """What the header of a checkpoint says."""

    kind: str
    vocab_size: int
    step: int | None
    epoch: int | None
    has_optimizer: bool
    has_scheduler: bool
    written_by: str
    architecture: Architecture
    size_bytes: int
    path: str

    @property
    def missing_position(self) -> str:
        """What is missing of a whole number of steps and one of epochs, in words; nothing where both are there."""
        return " or ".join(name for name in ("step", "epoch") if getattr(self, name) is None)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)


def load_pickled(path: Path, *, map_location: str) -> Any:
    """`torch.load` with `weights_only=True` that also opens published XTTS files, and speaks clearly when it fails.

    Args:
        path: the file.
        map_location: "cpu" (tensors are mapped from the file), or "meta" to read everything but the tensors.

    Raises:
        DamagedError: the file is empty or truncated.
        CheckpointError: the path is missing, unreadable, no checkpoint, or wants to run code.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, and a file was expected.")
    try:
        with path.open("rb") as file:
            start = file.read(_START)
        is_archive = zipfile.is_zipfile(path)
        if not is_archive and is_safetensors(path, start):
            return normalize_content(read_safetensors(path, map_location=map_location), path)
        if not is_archive and not is_legacy(start):
            raise not_an_archive_error(path, start)
        if is_archive:
            require_pickled_archive(path)
        with torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location=map_location, mmap=is_archive, weights_only=True)
            content = normalize_content(loaded, path)
            if has_tensor_counts(content):
                loaded = torch.load(path, map_location="cpu", mmap=is_archive, weights_only=True)
                content = normalize_content(loaded, path)
        return content
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist. Check the path.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {_forbidden_content(str(error))}") from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        AssertionError,
        MemoryError,
    ) as error:
        raise DamagedError(f"{path} cannot be opened: it is damaged, or no archive of torch.save.") from error


def loads_in_stock(path: Path) -> bool:
    """Whether stock coqui-tts loads a base's file as it is: an archive of tensors and plain values, with a "model".

    Stock writes a file with objects of its own in it, as the published ones have, again in place.
    """
    if not zipfile.is_zipfile(path):
        return False
    try:
        content = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        return False
    return isinstance(content, Mapping) and "model" in content


def _forbidden_content(error: str) -> str:
    """What a file holds that is not opened, from torch's error."""
    found = re.search(r"GLOBAL (\S+)", error)
    if found and could_run_code(found.group(1)):
        return (
            f"wants to run code on loading ({found.group(1)}): refused, and nothing was run. "
            "A checkpoint holds tensors and plain values only; do not use this file."
        )
    if found:
        return (
            f"holds an object of {found.group(1)}, and is not opened: only tensors, numbers, text, dates, paths and "
            "plain containers are read, because other objects can bring code with them. Save the file again without "
            "this object; of a whole model, its state_dict()."
        )
    if "Unsupported operand" in error:
        return "is pickled in another way than torch.save does by default. Save it again, without pickle_protocol."
    return "is not a checkpoint: its content is not a pickle of tensors."


def weights_of(content: Any, path: Path) -> tuple[dict[str, Any], str]:
    """The state dict in a loaded file, and the prefix of its GPT (as in "xtts.gpt.").

    Raises:
        CheckpointError: there is no XTTS text embedding in it.
    """
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if isinstance(state, Mapping):
        for prefix in _GPT_PREFIXES:
            found = state.get(f"{prefix}text_embedding.weight")
            if isinstance(found, torch.Tensor) and found.ndim == 2:
                return dict(state), prefix
    names = ", ".join(map(str, list(state)[:3])) if isinstance(state, Mapping) else type(content).__name__
    raise CheckpointError(
        f"{path} holds no XTTS model: no 'text_embedding.weight' (found: {names or 'nothing'})."
        f"{describe_shard(path)} Give a base model (model.pth) or a training checkpoint (checkpoint_N.pth)."
    )


def _has_state(value: Any) -> bool:
    """Whether a saved optimizer or scheduler (or a list of them) holds anything."""
    parts = value if isinstance(value, list) else [value]
    return any(bool(part.get("state", part)) or _is_stateless(part) for part in parts if isinstance(part, Mapping))


def _is_stateless(optimizer: Mapping[str, Any]) -> bool:
    """Whether a saved optimizer is SGD without momentum, whose state is empty at any time."""
    groups = optimizer.get("param_groups") or [{}]
    return all("dampening" in group and not group.get("momentum") for group in groups)


def describe(content: Any, path: Path) -> CheckpointInfo:
    """What a loaded file is: *training* with optimizer state, step and epoch; else *base*. Meta tensors will do."""
    state, prefix = weights_of(content, path)
    top = content if "model" in content else {}
    rows, channels = state[f"{prefix}text_embedding.weight"].shape
    blocks = {int(found.group(1)) for key in state if (found := re.match(rf"{re.escape(prefix)}gpt\.h\.(\d+)\.", key))}
    step, epoch = (top.get(key) if isinstance(top.get(key), int) else None for key in ("step", "epoch"))
    has_optimizer = _has_state(top.get("optimizer"))
    if not blocks:
        raise CheckpointError(
            f"{path} is no XTTS: it holds a text embedding of {rows} rows, and not one layer of a transformer "
            "(gpt.gpt.h.0 and so on). Give a base model (model.pth) or a training checkpoint (checkpoint_N.pth)."
        )
    config = top.get("config")
    model_args = config.get("model_args") if isinstance(config, Mapping) else None
    heads = model_args.get("gpt_n_heads") if isinstance(model_args, Mapping) else None
    return CheckpointInfo(
        kind="training" if has_optimizer and step is not None and epoch is not None else "base",
        vocab_size=rows,
        step=step,
        epoch=epoch,
        has_optimizer=has_optimizer,
        has_scheduler=_has_state(top.get("scheduler")),
        written_by="xtts_extend" if isinstance(top.get(RECORD_KEY), Mapping) else "coqui",
        architecture=Architecture(layers=len(blocks), channels=channels, heads=heads),
        size_bytes=path.stat().st_size,
        path=str(path),
    )


def inspect_checkpoint(path: str | Path, *, verify: bool = False) -> CheckpointInfo:
    """Describe a checkpoint, a run folder (its newest sound checkpoint) or a base directory (its `model.pth`).

    Args:
        path: the file or folder.
        verify: also read training checkpoints to their end and compare their checksums; of a run folder the newest
            whose bytes are right is taken then. Without it only headers are read.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged, or it wants to run code.
    """
    path = Path(path)
    if path.is_dir():
        if run_checkpoints(path):
            return newest_checkpoint(path, verify=verify)
        path = path / "model.pth"
        if not path.exists():
            raise CheckpointError(
                f"{path.parent} is neither a run (no checkpoint_N.pth or best_model_N.pth) nor a base directory "
                f"(no model.pth). Give one of them, or a file.{folder_without_model(path.parent)}"
            )
    try:
        info = describe(load_pickled(path, map_location="meta"), path)
        if verify and info.kind == "training":
            require_intact(path)
    except CheckpointError as error:
        raise type(error)(f"{error}{suggest_other_checkpoint(path)}") from error
    return info


def run_checkpoints(run: Path) -> list[Path]:
    """The checkpoint files of a run folder, in no particular order; the name only finds candidates."""
    return [file for file, _ in named_checkpoints(run)]


def newest_checkpoint(run: Path, *, verify: bool = False) -> CheckpointInfo:
    """The sound checkpoint of a run folder with the most steps, by the steps that the files record.

    Args:
        run: the folder.
        verify: a file is sound only if its checksums are right; otherwise a readable header is enough.

    Raises:
        DamagedError: all training checkpoints of the folder are damaged; each is named with its reason.
        CheckpointError: it holds none.
    """
    candidates: list[CheckpointInfo] = []
    damaged: list[str] = []
    kind: type[CheckpointError] = CheckpointError
    for file in run_checkpoints(run):
        try:
            info = describe(load_pickled(file, map_location="meta"), file)
        except CheckpointError as error:
            damaged.append(str(error))
            kind = DamagedError if isinstance(error, DamagedError) else kind
            continue
        if info.kind == "training":
            candidates.append(info)
        else:
            missing = f"no {info.missing_position}" if info.has_optimizer else "no training state"
            damaged.append(f"{file} holds {missing}.")
    newest = None
    for info in sorted(candidates, key=lambda info: (info.step, Path(info.path).name), reverse=True):
        try:
            if verify:
                require_intact(Path(info.path))
            newest = info
            break
        except CheckpointError as error:
            damaged.append(str(error))
            kind = DamagedError
    for line in damaged:
        logger.warning(" > passed over: %s", line)
    if newest is None:
        listed = "\n  ".join(damaged) or "no checkpoint_N.pth or best_model_N.pth in it"
        raise kind(f"{run} holds no checkpoint that can be resumed:\n  {listed}")
    return newest


def suggest_other_checkpoint(damaged: Path) -> str:
    """Names the newest sound checkpoint beside a damaged or missing one, if there is one."""
    known = parse_name(damaged) or damaged.name == BEST_MODEL
    if not known or not damaged.parent.is_dir():
        return ""
    try:
        return f" The newest sound checkpoint beside it is {newest_checkpoint(damaged.parent, verify=True).path}."
    except CheckpointError:
        return ""
