"""Edited checkpoints, like those of other releases, other trainers and accidents.

An edit is a function that changes the content of a checkpoint in place; `edited` applies edits to a copy of a file.
`put` and `without` make edits for a path of keys; all other edits have their own names.
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
    """Write a copy of a checkpoint with edits, and the run's `vocab.json` beside it if there is one."""
    folder.mkdir(exist_ok=True)
    content = torch.load(file, weights_only=True)
    for edit in edits:
        edit(content)
    torch.save(content, folder / file.name)
    if (file.parent / "vocab.json").is_file() and folder != file.parent:
        shutil.copyfile(file.parent / "vocab.json", folder / "vocab.json")
    return folder / file.name


def as_it_was(content: dict[str, Any]) -> None:
    """Change nothing."""


def put(value: object, *path: Any) -> Edit:
    """Return an edit that sets the value at a path of keys; the last key may be a tensor index, `...` for all of it."""

    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return edit


def without(*path: Any) -> Edit:
    """Return an edit that deletes the value at a path of keys."""

    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return edit


def scaled(factor: float, name: str) -> Edit:
    """Return an edit that multiplies a weight by a factor."""

    def edit(content: dict[str, Any]) -> None:
        content["model"][name] *= factor

    return edit


def nudged(name: str, *index: int) -> Edit:
    """Return an edit that changes one number of a weight by 1e-6."""

    def edit(content: dict[str, Any]) -> None:
        content["model"][name][index] += 1e-6

    return edit


####################
# STEP AND SETTINGS
####################


def at_step(step: int) -> Edit:
    """Return an edit that changes the step."""
    return put(step, "step")


def with_settings(**values: object) -> Edit:
    """Return an edit that changes recorded settings."""

    def edit(content: dict[str, Any]) -> None:
        content["config"] |= values

    return edit


def naming_vocabulary(vocab: Path | str) -> Edit:
    """Return an edit that records the path of a vocabulary, as coqui's Trainer does."""
    return put(str(vocab), "config", "model_args", "tokenizer_file")


#: Edit that removes the recorded path of the vocabulary.
naming_no_vocabulary = without("config", "model_args", "tokenizer_file")


def stripped_of(*keys: str) -> Edit:
    """Return an edit that removes top-level keys."""

    def edit(content: dict[str, Any]) -> None:
        for key in keys:
            del content[key]

    return edit


def weights_alone(content: dict[str, Any]) -> None:
    """Make a base model: keep only the weights."""
    for key in content.keys() - {"model"}:
        del content[key]


####################
# ACCIDENTS
####################


def wrecked(content: dict[str, Any]) -> None:
    """Add noise of twice its norm to every matrix of the transformer."""
    for key, tensor in content["model"].items():
        if ".gpt.h." in key and key.endswith("weight"):
            tensor += 2 * tensor.norm() / tensor.numel() ** 0.5 * torch.randn(tensor.shape)


def drawn_again(content: dict[str, Any]) -> None:
    """Replace all weights by random ones of the same shapes."""
    generator = torch.Generator().manual_seed(0)
    for tensor in content["model"].values():
        if tensor.is_floating_point():
            tensor.normal_(generator=generator)


def drifted_rows(rows: int) -> Edit:
    """Return an edit that adds 2 to the first rows of the text embedding."""

    def edit(content: dict[str, Any]) -> None:
        content["model"][EMBEDDING][:rows] += 2

    return edit


def rows_moved_by(share: float) -> Edit:
    """Return an edit that moves each token row in a random direction by this share of its norm."""

    def edit(content: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        for key in (EMBEDDING, HEAD):
            rows = content["model"][key]
            noise = torch.randn(rows.shape, generator=generator)
            rows += share * rows.norm(dim=1, keepdim=True) * noise / noise.norm(dim=1, keepdim=True)

    return edit


def with_rows_of(other: Mapping[str, torch.Tensor], names: Sequence[str], rows: slice) -> Edit:
    """Return an edit that copies rows of tensors from another state dict."""

    def edit(content: dict[str, Any]) -> None:
        for name in names:
            content["model"][name][rows] = other[name][rows]

    return edit


def with_rows_in_order(order: Sequence[int] | torch.Tensor, *, moments: bool = False) -> Edit:
    """Return an edit that selects or reorders token rows, as a new tokenizer would; optionally their moments too."""

    def edit(content: dict[str, Any]) -> None:
        model = content["model"]
        rows = len(model[EMBEDDING])
        model |= {name: model[name][order] for name in (EMBEDDING, HEAD, BIAS)}
        for state in content["optimizer"][0]["state"].values() if moments else ():
            state |= {key: value[order] for key, value in state.items() if value.ndim and len(value) == rows}

    return edit


def cut(file: Path, size: int) -> None:
    """Truncate a file to `size` bytes, as an interrupted copy does."""
    file.write_bytes(file.read_bytes()[:size])


def flip_a_bit(file: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


####################
# OTHER RELEASES
####################

#: Keys of the state that a format version added.
_ADDED = {2: ("base_losses", "evaluations_without_best", "parts"), 3: ("start_value", "best_retention")}


def of_format(version: int) -> Edit:
    """Return an edit that makes a checkpoint of an earlier format version, with losses that cannot be compared."""

    def edit(content: dict[str, Any]) -> None:
        record = content["xtts_extend"]
        record["version"] = version
        for name in [name for added_in, names in _ADDED.items() if version < added_in for name in names]:
            del record["state"][name]
        record["state"]["best_value"] = 0.5
        if "base_losses" in record["state"]:
            record["state"]["base_losses"] = {"en": 99.0}

    return edit


def of_early_trainer(content: dict[str, Any]) -> None:
    """Make a checkpoint as saved by Trainer 0.0.36 with DDP and torch.compile, with extra types from user scripts."""
    del content["scheduler"], content["scaler"]
    optimizer = content["optimizer"][0]
    for group in optimizer["param_groups"]:
        # torch 2.0 does not have these options.
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
    """Return an edit that prefixes all weight names, as a wrapper around the model does."""

    def edit(content: dict[str, Any]) -> None:
        content["model"] = {prefix + name: tensor for name, tensor in content["model"].items()}

    return edit


def weights_in(dtype: torch.dtype) -> Edit:
    """Return an edit that converts floating-point weights to another precision."""

    def edit(content: dict[str, Any]) -> None:
        model = content["model"]
        model |= {name: tensor.to(dtype) for name, tensor in model.items() if tensor.is_floating_point()}

    return edit


def in_half_precision(content: dict[str, Any]) -> None:
    """Convert weights to bfloat16 and moments to float16."""
    weights_in(torch.bfloat16)(content)
    for moments in content["optimizer"][0]["state"].values():
        moments.update({key: moments[key].half() for key in ("exp_avg", "exp_avg_sq")})


def as_stock_lays_it_out(content: dict[str, Any]) -> None:
    """Convert our checkpoint with frozen rows to coqui's layout: all rows in one tensor, with moments."""
    base = content.pop("xtts_extend")["base_rows"]["rows"]
    new = len(content["model"][BIAS]) - base
    for moments in content["optimizer"][0]["state"].values():
        moments |= {
            key: torch.cat([torch.zeros(base, *value.shape[1:]), value])
            for key, value in moments.items()
            if value.ndim and len(value) == new
        }
