"""Convert loaded checkpoints to a common form, with plain values, coqui's keys and XTTS's tensor names.

Tensor names depend on the wrapper in which the model was saved (such as DistributedDataParallel or torch.compile) and
on the release of coqui-tts. Other trainers store weights, optimizer, step and epoch under their own keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xtts_extend.checkpoint.stand_ins import resolve_stand_ins
from xtts_extend.errors import CheckpointError
from xtts_extend.notices import warn_once

#: Names that DistributedDataParallel, torch.compile, FSDP, activation checkpointing and DeepSpeed give to the wrapped
#: module.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
#: Names of the two parts of a weight-normalized weight: up to coqui-tts 0.20 → in later releases.
_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_ROWS = "text_embedding.weight"
#: Keys under which coqui, PyTorch's tutorials, Lightning and DeepSpeed store the weights. If a file contains several
#: models (a moving average, for example), the one under the first of these keys is used.
_STATES = ("model", "model_state_dict", "state_dict", "module")
#: Coqui's keys in a checkpoint → the keys that Lightning, accelerate and other scripts use instead.
_OTHER_NAMES = {
    "step": ("global_step", "global_steps", "iteration", "iter", "steps", "total_steps"),
    "epoch": ("current_epoch", "epochs"),
    "optimizer": ("optimizer_states", "optimizer_state_dict", "optimizer_state", "optimizers", "optim"),
    "scheduler": ("lr_schedulers", "lr_scheduler", "scheduler_state_dict", "lr_scheduler_state_dict", "schedulers"),
}
#: Number of levels of nested dicts that are searched for weights.
_DEPTH = 5


def normalize_content(content: Any, path: Path) -> Any:
    """Convert loaded content to XTTS's tensor names, a plain configuration dict, and integer `step` and `epoch` values.

    Args:
        content: The loaded content.
        path: The file, for error messages.

    Raises:
        CheckpointError: Two tensors would get the same name, or it is unclear which of several models to use.
    """
    content = resolve_stand_ins(content)
    if not isinstance(content, Mapping):
        return content
    weights_path = _weights_path(content, path)
    outer: dict[Any, Any] = {}
    for key in weights_path:
        # Keys of outer dicts take precedence.
        outer = {**{name: value for name, value in content.items() if name != key}, **outer}
        content = content[key]
    weights = _with_plain_names(content, path)
    return {**_with_known_keys(outer), "model": weights} if weights_path else weights


def has_tensor_counts(content: Any) -> bool:
    """Return whether the step or the epoch is a tensor on the meta device, whose value is unknown."""
    counts = (content.get(key) for key in ("step", "epoch")) if isinstance(content, Mapping) else ()
    return any(isinstance(count, Tensor) and count.is_meta for count in counts)


def _weights_path(content: Mapping[Any, Any], path: Path) -> tuple[Any, ...]:
    """Return the keys that lead to the state dict of an XTTS model, or else to what one of `_STATES` contains."""
    candidates = list(_find_weights(content, _DEPTH))
    if not candidates:
        return next(((name,) for name in _STATES if isinstance(content.get(name), Mapping)), ())
    return _choose_model(candidates, path)


def _find_weights(content: Mapping[Any, Any], depth: int) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each state dict of an XTTS model."""
    if any(_is_rows(name) and isinstance(value, Tensor) for name, value in content.items()):
        yield ()
        return
    for key, value in content.items():
        if isinstance(value, Mapping) and depth:
            yield from ((key, *rest) for rest in _find_weights(value, depth - 1))


def _is_rows(name: Any) -> bool:
    return isinstance(name, str) and f".{_plain_name(name)}".endswith(f".{_ROWS}")


def _choose_model(candidates: list[tuple[Any, ...]], path: Path) -> tuple[Any, ...]:
    """Return the keys that lead to the model itself if a file also contains others (a moving average or a teacher)."""
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(".".join(map(str, keys)) or "without a prefix" for keys in candidates)
    if known := [keys for keys in candidates if set(keys) <= set(_STATES)]:
        chosen = min(known, key=lambda keys: [_STATES.index(key) for key in keys])
        used = ".".join(chosen) or "the one without a prefix"
        warn_once(f"{path} contains {len(candidates)} XTTS models ({names}). Using {used}.")
        return chosen
    raise CheckpointError(
        f"{path} contains {len(candidates)} XTTS models ({names}), and it is unclear which one to use. Save the one "
        "you want to a separate file: torch.save({'model': its state dict}, FILE)."
    )


def _with_known_keys(outer: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return what a checkpoint contains besides the weights, under coqui's keys, with step and epoch as integers."""
    known = dict(outer)
    for key, others in _OTHER_NAMES.items():
        name = next((name for name in (key, *others) if known.get(name) is not None), key)
        if name in known:
            known[key] = known.pop(name)
    for key in ("step", "epoch"):
        if key in known:
            known[key] = _as_integer(known[key])
    for key in ("optimizer", "scheduler"):
        if isinstance(known.get(key), tuple):
            known[key] = list(known[key])
    return known


def _as_integer(value: Any) -> Any:
    """Convert a count to an integer if it was saved as a tensor, a list with one item, a float or a string."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        value = value.item()
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_plain_names(state: Mapping[Any, Any], path: Path) -> dict[Any, Any]:
    """Return a state dict with the tensors renamed to XTTS's names."""
    names = {key: _plain_name(key) for key in state if isinstance(key, str)}
    prefix, replacement = _common_prefix(set(names.values()), path)
    plain: dict[Any, Any] = {}
    for key, tensor in state.items():
        name = names.get(key, key)
        if isinstance(name, str) and name.startswith(prefix):
            name = replacement + name.removeprefix(prefix)
        if name in plain:
            raise CheckpointError(
                f"{path} contains two tensors that are both named {name} once their prefixes are removed, and it is "
                "unclear which one to use. Save the model's state dict once, without its wrapper."
            )
        plain[name] = tensor
    return plain


def _plain_name(key: str) -> str:
    """Return a tensor's name without the names of wrappers, and with the current names for weight normalization."""
    parts = [part for part in key.split(".") if part not in _WRAPPERS] or [key]
    return ".".join([*parts[:-1], _WEIGHT_NORM.get(parts[-1], parts[-1])])


def _common_prefix(names: Collection[str], path: Path) -> tuple[str, str]:
    """Return the prefix that a user's own module adds to all names, and the prefix that replaces it.

    The replacement is empty if the GPT is named `gpt`, and "gpt." if the file contains only the GPT.
    """
    gpt_prefixes = {name.removesuffix(_ROWS) for name in names if f".{name}".endswith(f".{_ROWS}")}
    outer_prefixes = {
        prefix.removesuffix("gpt.").removesuffix("xtts.") for prefix in gpt_prefixes if f".{prefix}".endswith(".gpt.")
    }
    candidates = outer_prefixes or gpt_prefixes
    if not candidates:
        return "", ""
    chosen = _choose_model([tuple(prefix.split(".")[:-1]) for prefix in sorted(candidates)], path)
    return "".join(f"{part}." for part in chosen), "" if outer_prefixes else "gpt."
