"""What a file holds, as the rest of the package knows it: plain values, and tensors under the names of XTTS.

What wrapped a model while it was saved is left in the names (DistributedDataParallel, torch.compile), and so is the
release that it was saved with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xtts_extend.checkpoint.stand_ins import without_stand_ins
from xtts_extend.errors import CheckpointError

#: What a wrapped module is called inside of DistributedDataParallel, torch.compile, FSDP, checkpointing and DeepSpeed.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
#: The two parts of a weight with weight norm, up to coqui-tts 0.20 and since.
_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_ROWS = "text_embedding.weight"
#: What trainers call the weights in a checkpoint: coqui's, scripts of torch's tutorials, Lightning, DeepSpeed.
_STATES = ("model", "model_state_dict", "state_dict", "module")


def as_plain(content: Any, path: Path) -> Any:
    """Loaded content with plain names, a configuration that is a dict, and `step` and `epoch` that are integers.

    Args:
        content: as torch loads it.
        path: of the file.

    Raises:
        CheckpointError: two tensors would have one name.
    """
    content = without_stand_ins(content)
    if not isinstance(content, Mapping):
        return content
    name = next((name for name in _STATES if isinstance(content.get(name), Mapping)), None)
    if name is None:
        return _with_plain_names(content, path)
    weights = _with_plain_names(content[name], path)
    counts = {key: _whole(content[key]) for key in ("step", "epoch") if key in content}
    return {**{key: value for key, value in content.items() if key != name}, **counts, "model": weights}


def is_counted_by_tensors(content: Any) -> bool:
    """Whether step or epoch of a loaded file are tensors, whose numbers a load without tensors does not know."""
    return isinstance(content, Mapping) and any(isinstance(content.get(key), Tensor) for key in ("step", "epoch"))


def _whole(value: Any) -> Any:
    """A count as an integer, where it was kept as a tensor or a float."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_plain_names(state: Mapping[Any, Any], path: Path) -> dict[Any, Any]:
    names = {key: _plain_name(key) for key in state if isinstance(key, str)}
    lead = _lead(set(names.values()))
    plain: dict[Any, Any] = {}
    for key, tensor in state.items():
        name = names.get(key, key)
        if lead is None:
            name = f"gpt.{name}"
        elif lead:
            name = name.removeprefix(lead)
        if name in plain:
            raise CheckpointError(
                f"{path} holds two tensors that are both called {name} without their prefixes: which of them counts is "
                "not known. Save the state dict of the model once, without what it is wrapped in."
            )
        plain[name] = tensor
    return plain


def _plain_name(key: str) -> str:
    parts = [part for part in key.split(".") if part not in _WRAPPERS] or [key]
    return ".".join([*parts[:-1], _WEIGHT_NORM.get(parts[-1], parts[-1])])


def _lead(names: Collection[str]) -> str | None:
    """What precedes all names, as the attribute of somebody's own module does; None for those of the GPT alone."""
    ending = f"gpt.{_ROWS}"
    leads = {name.removesuffix(ending).removesuffix("xtts.") for name in names if f".{name}".endswith(f".{ending}")}
    if not leads and _ROWS in names:
        return None
    return min(leads, key=len, default="")
