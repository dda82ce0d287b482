"""What a file holds, as the rest of the package knows it: plain values, and tensors under the names of XTTS.

What wrapped a model while it was saved is left in the names (DistributedDataParallel, torch.compile), and so is the
release that it was saved with. Other trainers keep the weights, the optimizer and the counts under keys of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xtts_extend.checkpoint.stand_ins import resolve_stand_ins
from xtts_extend.errors import CheckpointError
from xtts_extend.notices import warn_once

#: What a wrapped module is called inside of DistributedDataParallel, torch.compile, FSDP, checkpointing and DeepSpeed.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
#: The two parts of a weight with weight norm, up to coqui-tts 0.20 and since.
_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_ROWS = "text_embedding.weight"
#: What trainers call the weights in a checkpoint: coqui's, scripts of torch's tutorials, Lightning, DeepSpeed. Where a
#: file holds several models, as with a moving average, those of the first of these names count.
_STATES = ("model", "model_state_dict", "state_dict", "module")
#: Coqui's keys of a checkpoint, and what Lightning, accelerate and scripts call the same.
_OTHER_NAMES = {
    "step": ("global_step", "global_steps", "iteration", "iter", "steps", "total_steps"),
    "epoch": ("current_epoch", "epochs"),
    "optimizer": ("optimizer_states", "optimizer_state_dict", "optimizer_state", "optimizers", "optim"),
    "scheduler": ("lr_schedulers", "lr_scheduler", "scheduler_state_dict", "lr_scheduler_state_dict", "schedulers"),
}
_DEPTH = 5


def normalize_content(content: Any, path: Path) -> Any:
    """Loaded content with plain names, a configuration that is a dict, and `step` and `epoch` that are integers.

    Args:
        content: as torch loads it.
        path: of the file.

    Raises:
        CheckpointError: two tensors would have one name, or the file holds several models.
    """
    content = resolve_stand_ins(content)
    if not isinstance(content, Mapping):
        return content
    place = _place(content, path)
    outer: dict[Any, Any] = {}
    for key in place:
        # what is further out counts
        outer = {**{name: value for name, value in content.items() if name != key}, **outer}
        content = content[key]
    weights = _with_plain_names(content, path)
    return {**_with_known_keys(outer), "model": weights} if place else weights


def has_tensor_counts(content: Any) -> bool:
    """Whether step or epoch are tensors of a load without tensors, which does not know their numbers."""
    counts = (content.get(key) for key in ("step", "epoch")) if isinstance(content, Mapping) else ()
    return any(isinstance(count, Tensor) and count.is_meta for count in counts)


def _place(content: Mapping[Any, Any], path: Path) -> tuple[Any, ...]:
    """The keys that lead to the state dict of an XTTS; of a file without one, to what is called a state."""
    places = list(_places(content, _DEPTH))
    if not places:
        return next(((name,) for name in _STATES if isinstance(content.get(name), Mapping)), ())
    return _one_of(places, path)


def _places(content: Mapping[Any, Any], depth: int) -> Iterator[tuple[Any, ...]]:
    if any(_is_rows(name) and isinstance(value, Tensor) for name, value in content.items()):
        yield ()
        return
    for key, value in content.items():
        if isinstance(value, Mapping) and depth:
            yield from ((key, *rest) for rest in _places(value, depth - 1))


def _is_rows(name: Any) -> bool:
    return isinstance(name, str) and f".{_plain_name(name)}".endswith(f".{_ROWS}")


def _one_of(places: list[tuple[Any, ...]], path: Path) -> tuple[Any, ...]:
    """The place of the model itself, where a file holds others beside it (a moving average, a teacher)."""
    if len(places) == 1:
        return places[0]
    names = ", ".join(".".join(map(str, place)) or "without a prefix" for place in places)
    if known := [place for place in places if set(place) <= set(_STATES)]:
        taken = min(known, key=lambda place: [_STATES.index(key) for key in place])
        warn_once(f"{path} holds {len(places)} models of XTTS ({names}); {'.'.join(taken) or 'that'} is taken.")
        return taken
    raise CheckpointError(
        f"{path} holds {len(places)} models of XTTS ({names}), and which of them counts is not known. Save the one to "
        "use in a file of its own: torch.save({'model': its state dict}, FILE)."
    )


def _with_known_keys(outer: Mapping[Any, Any]) -> dict[Any, Any]:
    """What a checkpoint holds beside the weights, under coqui's keys, with counts that are integers."""
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
    """A count as an integer, where it was kept as a tensor, a list of one, a float or text."""
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
    names = {key: _plain_name(key) for key in state if isinstance(key, str)}
    lead, in_its_place = _common_prefix(set(names.values()), path)
    plain: dict[Any, Any] = {}
    for key, tensor in state.items():
        name = names.get(key, key)
        if isinstance(name, str) and name.startswith(lead):
            name = in_its_place + name.removeprefix(lead)
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


def _common_prefix(names: Collection[str], path: Path) -> tuple[str, str]:
    """What precedes all names, as the attribute of somebody's own module does, and what names begin with instead.

    That is nothing where the GPT is called `gpt`, and "gpt." in a file of the GPT alone.
    """
    before = {name.removesuffix(_ROWS) for name in names if f".{name}".endswith(f".{_ROWS}")}
    leads = {lead.removesuffix("gpt.").removesuffix("xtts.") for lead in before if f".{lead}".endswith(".gpt.")}
    found = leads or before
    if not found:
        return "", ""
    place = _one_of([tuple(lead.split(".")[:-1]) for lead in sorted(found)], path)
    return "".join(f"{part}." for part in place), "" if leads else "gpt."
