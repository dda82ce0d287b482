"""Checkpoints as other releases, other trainers and accidents leave them.

An edit changes the content of a checkpoint in place; `edited` writes a copy of a file with some of them. What a path
of keys leads to is changed by `put` and `without`; what takes more has a name of its own.
"""

from __future__ import annotations

import datetime
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtts_extend.model.embedding import TOKEN_TENSORS

Edit = Callable[[dict[str, Any]], object]

PREFIX = "xtts.gpt."
EMBEDDING, HEAD, BIAS = (PREFIX + name for name in TOKEN_TENSORS)
MEL_HEAD = PREFIX + "mel_head.weight"


def edited(file: Path, folder: Path, *edits: Edit) -> Path:
    """A copy whose content was changed, with the vocabulary of the run beside it if there was one."""
    folder.mkdir(exist_ok=True)
    content = torch.load(file, weights_only=True)
    for edit in edits:
        edit(content)
    torch.save(content, folder / file.name)
    if (file.parent / "vocab.json").is_file() and folder != file.parent:
        shutil.copyfile(file.parent / "vocab.json", folder / "vocab.json")
    return folder / file.name


def as_it_was(content: dict[str, Any]) -> None:
    """Nothing is changed."""


def put(value: object, *path: Any) -> Edit:
    """A value at a path of keys; the last one may be an index into a tensor, `...` for all of it."""

    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return edit


def without(*path: Any) -> Edit:
    """Nothing at a path of keys."""

    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return edit


def scaled(factor: float, name: str) -> Edit:
    """A weight that was multiplied."""

    def edit(content: dict[str, Any]) -> None:
        content["model"][name] *= factor

    return edit


def nudged(name: str, *place: int) -> Edit:
    """One number of a weight that is not quite what it was."""

    def edit(content: dict[str, Any]) -> None:
        content["model"][name][place] += 1e-6

    return edit


####################
# PLACE AND SETTINGS
####################


def at_step(step: int) -> Edit:
    return put(step, "step")


def with_settings(**values: object) -> Edit:
    """Other recorded settings."""

    def edit(content: dict[str, Any]) -> None:
        content["config"] |= values

    return edit


def naming_vocabulary(vocab: Path | str) -> Edit:
    """Recorded settings that name a vocabulary, as those of coqui's Trainer do."""
    return put(str(vocab), "config", "model_args", "tokenizer_file")


#: As a run whose vocabulary is recorded nowhere.
naming_no_vocabulary = without("config", "model_args", "tokenizer_file")


def stripped_of(*keys: str) -> Edit:
    """Without some of what makes it a training checkpoint."""

    def edit(content: dict[str, Any]) -> None:
        for key in keys:
            del content[key]

    return edit


def weights_alone(content: dict[str, Any]) -> None:
    """A base model, whatever the file is called."""
    for key in content.keys() - {"model"}:
        del content[key]


####################
# ACCIDENTS
####################


def wrecked(content: dict[str, Any]) -> None:
    """A transformer with noise of twice its size on every matrix."""
    for key, tensor in content["model"].items():
        if ".gpt.h." in key and key.endswith("weight"):
            tensor += 2 * tensor.norm() / tensor.numel() ** 0.5 * torch.randn(tensor.shape)


def drawn_again(content: dict[str, Any]) -> None:
    """Weights of the same shapes that have nothing to do with what they were."""
    generator = torch.Generator().manual_seed(0)
    for tensor in content["model"].values():
        if tensor.is_floating_point():
            tensor.normal_(generator=generator)


def drifted_rows(rows: int) -> Edit:
    """The first rows of the embedding far from where they were."""

    def edit(content: dict[str, Any]) -> None:
        content["model"][EMBEDDING][:rows] += 2

    return edit


def rows_moved_by(share: float) -> Edit:
    """Every token's row moved by a random step of this share of its length."""

    def edit(content: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        for key in (EMBEDDING, HEAD):
            rows = content["model"][key]
            noise = torch.randn(rows.shape, generator=generator)
            rows += share * rows.norm(dim=1, keepdim=True) * noise / noise.norm(dim=1, keepdim=True)

    return edit


def with_rows_of(other: Mapping[str, torch.Tensor], names: Sequence[str], rows: slice) -> Edit:
    """Some rows of some tensors from another state dict."""

    def edit(content: dict[str, Any]) -> None:
        for name in names:
            content["model"][name][rows] = other[name][rows]

    return edit


def with_rows_in_order(order: Sequence[int] | torch.Tensor, *, moments: bool = False) -> Edit:
    """Tokens' rows in another order, or some of them, as by a tokenizer that was made anew; moments as well or not."""

    def edit(content: dict[str, Any]) -> None:
        model = content["model"]
        rows = len(model[EMBEDDING])
        model |= {name: model[name][order] for name in (EMBEDDING, HEAD, BIAS)}
        for state in content["optimizer"][0]["state"].values() if moments else ():
            state |= {key: value[order] for key, value in state.items() if value.ndim and len(value) == rows}

    return edit


def cut(file: Path, size: int) -> None:
    """As a copy that was interrupted: the first bytes of a file."""
    file.write_bytes(file.read_bytes()[:size])


def flip_a_bit(file: Path) -> None:
    """One in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


####################
# OTHER RELEASES
####################

#: What a release's state did not hold yet, by the format that brought it.
_ADDED = {2: ("base_losses", "evaluations_without_best", "parts"), 3: ("start_value", "best_retention")}


def of_format(version: int) -> Edit:
    """One of an earlier release of ours, whose evaluations said something else."""

    def edit(content: dict[str, Any]) -> None:
        record = content["xtts_extend"]
        record["version"] = version
        for name in [name for later, names in _ADDED.items() if version < later for name in names]:
            del record["state"][name]
        record["state"]["best_value"] = 0.5
        if "base_losses" in record["state"]:
            record["state"]["base_losses"] = {"en": 99.0}

    return edit


def of_early_trainer(content: dict[str, Any]) -> None:
    """As the Trainer 0.0.36 saved it, distributed and compiled; with what scripts of their own leave in such files."""
    del content["scheduler"], content["scaler"]
    optimizer = content["optimizer"][0]
    for group in optimizer["param_groups"]:
        # none of them was there in torch 2.0
        del group["decoupled_weight_decay"], group["fused"]
    for moments in optimizer["state"].values():
        moments["step"] = int(moments["step"])
    optimizer["state"] = defaultdict(dict, optimizer["state"])
    content |= {
        "model": {
            f"module.{name.replace('.gpt.h.', '.gpt._orig_mod.h.')}": tensor
            for name, tensor in content["model"].items()
        },
        "optimizer": optimizer,
        "model_loss": np.float32(6.5),
        "step": np.int64(content["step"]),
        "date": datetime.date(2023, 12, 13),
    }


def with_prefix(prefix: str) -> Edit:
    """Names as a wrapper around the model gives them."""

    def edit(content: dict[str, Any]) -> None:
        content["model"] = {prefix + name: tensor for name, tensor in content["model"].items()}

    return edit


def weights_in(dtype: torch.dtype) -> Edit:
    """Weights in another precision."""

    def edit(content: dict[str, Any]) -> None:
        model = content["model"]
        model |= {name: tensor.to(dtype) for name, tensor in model.items() if tensor.is_floating_point()}

    return edit


def in_half_precision(content: dict[str, Any]) -> None:
    """Weights in bfloat16, moments in float16."""
    weights_in(torch.bfloat16)(content)
    for moments in content["optimizer"][0]["state"].values():
        moments.update({key: moments[key].half() for key in ("exp_avg", "exp_avg_sq")})


def as_stock_lays_it_out(content: dict[str, Any]) -> None:
    """A frozen run of ours as coqui's Trainer would have saved it: all rows in one tensor, with moments."""
    base = content.pop("xtts_extend")["base_rows"]["rows"]
    new = len(content["model"][BIAS]) - base
    for moments in content["optimizer"][0]["state"].values():
        moments |= {
            key: torch.cat([torch.zeros(base, *value.shape[1:]), value])
            for key, value in moments.items()
            if value.ndim and len(value) == new
        }
