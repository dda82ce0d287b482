"""Identify checkpoint files and folders by their content, never by their names.

Only the pickled header of a checkpoint is read, and tensors are mapped to the "meta" device, so reading a file of
several gigabytes takes a fraction of a second. `weights_only=True` keeps files from running code.
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

#: Key under which our runs store what they record in addition to the contents of a stock checkpoint.
RECORD_KEY = "xtts_extend"
#: Prefixes of the GPT's tensor names, as written by coqui's trainer and by `Xtts.state_dict()`.
_GPT_PREFIXES = ("xtts.gpt.", "gpt.")
#: Number of bytes that are read from the start of a file to identify it.
_START = 512


@dataclass(frozen=True)
class Architecture:
    """Dimensions of the GPT; `heads` is None without a config, because the weights do not show the number of heads."""

    layers: int
    channels: int
    heads: int | None


@dataclass(frozen=True)
class CheckpointInfo:
    """Information from the header of a checkpoint.

    Attributes:
        kind: "training" (has optimizer state, a step and an epoch) or "base".
        vocab_size: Number of token rows.
        step: The recorded step; None if the file records no integer.
        epoch: The recorded epoch; None if the file records no integer.
        has_optimizer: Whether the file contains optimizer state.
        has_scheduler: Whether the file contains scheduler state.
        written_by: "xtts_extend" or "coqui".
        architecture: Dimensions of the GPT.
        size_bytes: Size of the file in bytes.
        path: The file.
    """

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
        """The missing part of the position: "step", "epoch", "step or epoch", or an empty string if there is none."""
        return " or ".join(name for name in ("step", "epoch") if getattr(self, name) is None)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return asdict(self)


def load_pickled(path: Path, *, map_location: str) -> Any:
    """Load a checkpoint, a published XTTS file or a safetensors file without running any code that it contains.

    Args:
        path: The file.
        map_location: "cpu" (tensors are memory-mapped from the file), or "meta" to read everything but the tensors.

    Raises:
        DamagedError: The file is empty, truncated or damaged.
        CheckpointError: The file is missing or unreadable, is not a checkpoint, or would run code.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Expected a file.")
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
        raise DamagedError(f"{path} cannot be opened: it is damaged or was not written by torch.save.") from error


def loads_in_stock(path: Path) -> bool:
    """Return whether stock coqui-tts can load a base model's file without changing it.

    It can if the file is an archive of tensors and plain values with a "model" key. If a file contains coqui's own
    objects, as the published files do, stock coqui-tts rewrites it in place.
    """
    if not zipfile.is_zipfile(path):
        return False
    try:
        content = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        return False
    return isinstance(content, Mapping) and "model" in content


def _forbidden_content(error: str) -> str:
    """Turn torch's error into the rest of a sentence that explains why a file was rejected."""
    found = re.search(r"GLOBAL (\S+)", error)
    if found and could_run_code(found.group(1)):
        return (
            f"would run code when loaded ({found.group(1)}). It was rejected, and no code was run. Do not use this "
            "file. A checkpoint needs only tensors and plain values."
        )
    if found:
        return (
            f"contains an object of type {found.group(1)} and was not opened. Only tensors, numbers, strings, dates, "
            "paths and plain containers are read, because other objects can contain code. Save the file again without "
            "this object. If the object is a model, save its state_dict()."
        )
    if "Unsupported operand" in error:
        return "was not pickled with torch.save's default protocol. Save it again without the pickle_protocol argument."
    return "is not a checkpoint, because it does not contain a pickle of tensors."


def weights_of(content: Any, path: Path) -> tuple[dict[str, Any], str]:
    """Return the state dict of a loaded file, and the prefix of its GPT's tensor names (such as "xtts.gpt.").

    Args:
        content: The return value of `load_pickled`.
        path: The file, for error messages.

    Raises:
        CheckpointError: The file has no XTTS text embedding.
    """
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if isinstance(state, Mapping):
        for prefix in _GPT_PREFIXES:
            found = state.get(f"{prefix}text_embedding.weight")
            if isinstance(found, torch.Tensor) and found.ndim == 2:
                return dict(state), prefix
    names = ", ".join(map(str, list(state)[:3])) if isinstance(state, Mapping) else type(content).__name__
    raise CheckpointError(
        f"{path} contains no XTTS model: 'text_embedding.weight' is missing (found: {names or 'nothing'})."
        f"{describe_shard(path)} Pass a base model (model.pth) or a training checkpoint (checkpoint_N.pth)."
    )


def _has_state(value: Any) -> bool:
    """Return whether a saved optimizer or scheduler, or a list of them, contains any state."""
    parts = value if isinstance(value, list) else [value]
    return any(bool(part.get("state", part)) or _is_stateless(part) for part in parts if isinstance(part, Mapping))


def _is_stateless(optimizer: Mapping[str, Any]) -> bool:
    """Return whether a saved optimizer is SGD without momentum, whose state is always empty."""
    groups = optimizer.get("param_groups") or [{}]
    return all("dampening" in group and not group.get("momentum") for group in groups)


def describe(content: Any, path: Path) -> CheckpointInfo:
    """Describe a loaded file, whose kind is "training" if it has optimizer state, a step and an epoch, else "base".

    Args:
        content: The return value of `load_pickled`; the tensors may be on the meta device.
        path: The file.

    Raises:
        CheckpointError: The file is not an XTTS model.
    """
    state, prefix = weights_of(content, path)
    top = content if "model" in content else {}
    rows, channels = state[f"{prefix}text_embedding.weight"].shape
    blocks = {int(found.group(1)) for key in state if (found := re.match(rf"{re.escape(prefix)}gpt\.h\.(\d+)\.", key))}
    step, epoch = (top.get(key) if isinstance(top.get(key), int) else None for key in ("step", "epoch"))
    has_optimizer = _has_state(top.get("optimizer"))
    if not blocks:
        raise CheckpointError(
            f"{path} is not an XTTS model: it has a text embedding of {rows:,} rows but no transformer layers "
            "(gpt.gpt.h.0 and so on). Pass a base model (model.pth) or a training checkpoint (checkpoint_N.pth)."
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
    """Describe a checkpoint, the newest intact checkpoint of a run folder, or the `model.pth` of a base directory.

    Args:
        path: The file or folder.
        verify: Whether to verify the checksums of training checkpoints as well, which means reading the files to
            the end. In a run folder, files that fail this check are skipped. By default, only headers are read.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged or would run code.

    >>> info = inspect_checkpoint("runs/RUN", verify=True)
    >>> info.kind, info.step, info.has_optimizer
    ('training', 4, True)
    >>> inspect_checkpoint("XTTS").kind
    'base'
    """
    path = Path(path)
    if path.is_dir():
        if run_checkpoints(path):
            return newest_checkpoint(path, verify=verify)
        path = path / "model.pth"
        if not path.exists():
            raise CheckpointError(
                f"{path.parent} is neither a run folder (no checkpoint_N.pth or best_model_N.pth) nor a base "
                f"directory (no model.pth). Pass one of these, or a checkpoint file.{folder_without_model(path.parent)}"
            )
    try:
        info = describe(load_pickled(path, map_location="meta"), path)
        if verify and info.kind == "training":
            require_intact(path)
    except CheckpointError as error:
        raise type(error)(f"{error}{suggest_other_checkpoint(path)}") from error
    return info


def run_checkpoints(run: Path) -> list[Path]:
    """Return the files in a run folder that are named like checkpoints, in no particular order."""
    return [file for file, _ in named_checkpoints(run)]


def newest_checkpoint(run: Path, *, verify: bool = False) -> CheckpointInfo:
    """Return the intact training checkpoint with the highest recorded step in a run folder.

    Args:
        run: The folder.
        verify: Whether to verify checksums. By default, a file with a readable header counts as intact.

    Raises:
        DamagedError: All training checkpoints in the folder are damaged. The message gives the reason for each.
        CheckpointError: The folder has no training checkpoint.
    """
    candidates: list[CheckpointInfo] = []
    skipped: list[str] = []
    kind: type[CheckpointError] = CheckpointError
    for file in run_checkpoints(run):
        try:
            info = describe(load_pickled(file, map_location="meta"), file)
        except CheckpointError as error:
            skipped.append(str(error))
            kind = DamagedError if isinstance(error, DamagedError) else kind
            continue
        if info.kind == "training":
            candidates.append(info)
        else:
            missing = f"no {info.missing_position}" if info.has_optimizer else "no training state"
            skipped.append(f"{file} contains {missing}.")
    newest = None
    for info in sorted(candidates, key=lambda info: (info.step, Path(info.path).name), reverse=True):
        try:
            if verify:
                require_intact(Path(info.path))
            newest = info
            break
        except CheckpointError as error:
            skipped.append(str(error))
            kind = DamagedError
    for line in skipped:
        logger.warning(" > Skipped a checkpoint: %s", line)
    if newest is None:
        listed = "\n  ".join(skipped) or "It has no checkpoint_N.pth or best_model_N.pth."
        raise kind(f"{run} has no checkpoint to resume from:\n  {listed}")
    return newest


def suggest_other_checkpoint(unusable: Path) -> str:
    """Return a sentence that names the newest intact checkpoint in the same folder as a damaged or missing one.

    The sentence starts with a space. It is empty if there is no such checkpoint, or if the file is not named like a
    checkpoint.
    """
    is_checkpoint = parse_name(unusable) or unusable.name == BEST_MODEL
    if not is_checkpoint or not unusable.parent.is_dir():
        return ""
    try:
        newest = newest_checkpoint(unusable.parent, verify=True).path
        return f" The newest intact checkpoint in the same folder is {newest}."
    except CheckpointError:
        return ""
