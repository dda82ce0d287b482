"""Put right what can be: the base's rows for old tokens, a transformer nearer to it, new rows that start again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtts_extend.checkpoint.inspect import RECORD_KEY
from xtts_extend.checkpoint.names import CheckpointName
from xtts_extend.errors import CheckFailed, CheckpointError, ConfigError
from xtts_extend.files import atomic_folder, atomic_write
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.model.gpt_trainer import row_digests
from xtts_extend.model.migration import Migration
from xtts_extend.rescue.doctor import Diagnosis, examine
from xtts_extend.rescue.measure import measure_old_rows, misplaced_rows, not_finite, untrained_rows
from xtts_extend.rescue.opened_checkpoint import (
    REINITIALISED,
    OpenedCheckpoint,
    moments_by_name,
    open_checkpoint_with_base,
    row_moments,
)
from xtts_extend.run.position import no_best_model
from xtts_extend.run.recorded import REPAIRED_FOLDER
from xtts_extend.text.vocabulary import first_ten, load_vocabulary, romanized_spellings

logger = logging.getLogger("trainer")
#: What the doctor finds where a repair is refused, and why nothing is repaired then.
_REFUSED = {
    "truncated": "nothing can be saved from a damaged file",
    "not-finite": "what a weight knew is lost where it is NaN or infinite",
    "wrong-vocabulary": "rows and moments have to follow their tokens first",
}


def repair(
    checkpoint: Path,
    base: Path,
    output: Path,
    *,
    blend: float = 0.0,
    reinit_untrained: bool = False,
    plan: bool = False,
) -> dict[str, Any]:
    """Write a repaired copy of a checkpoint, which resumes and exports; the original is only read.

    Rows of old tokens become the base's, bit for bit, and their moments zero; a run that goes on from the copy freezes
    them. Everything else stays, unless it is asked for.

    Args:
        checkpoint: a file, or a run folder (its newest sound checkpoint).
        base: a base directory, or its `model.pth`.
        output: a new folder that becomes a run; or a new file, if it ends in ".pth".
        blend: the share of the base in the rest of the GPT: (1 − blend) · checkpoint + blend · base.
        reinit_untrained: start new rows again that are noise or never moved.
        plan: say what would be done and whether it helps, and write nothing.

    Returns:
        What was done: `checkpoint`, `output`, `written`, `old_rows`, `old_rows_restored`, `moments_zeroed` (rows),
        `blend`, `blended_tensors`, `reinitialised_rows`, `frozen_from_here_on`. Of a plan also `verdict` and `next` of
        the doctor, and `pointless`: why a repair does not help, empty if it does. Where a repair would be refused, a
        plan returns these three with `checkpoint`, `output` and `written`, in the place of an error.

    Raises:
        CheckpointError: there is no sound checkpoint, it did not come from this base, or its rows are those of other
            tokens than its vocabulary says.
        CheckFailed: it holds NaN or infinity.
        ConfigError: the output exists, or `blend` is no share.
        MachineError: it could not be written.
    """
    if not 0 <= blend <= 1:
        raise ConfigError(f"--blend is {blend}; a share of the base from 0 to 1 was expected (0.3: 30 % base).")
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise ConfigError(f"{output} exists already. Name a new folder, or a new file that ends in .pth.")
    judged: dict[str, Any] = {}
    if plan:
        diagnosis = examine(checkpoint, base)
        judged = {
            "verdict": diagnosis.verdict,
            "pointless": _reason_not_to_repair(diagnosis, blend=blend, reinit_untrained=reinit_untrained),
            "next": diagnosis.next_command,
        }
        if diagnosis.verdict in _REFUSED:
            return {"checkpoint": diagnosis.path, "output": str(output), "written": False, **judged}
    opened = open_checkpoint_with_base(checkpoint, base, None)
    if blend and opened.adapter_rank:
        raise ConfigError(
            "--blend moves the transformer towards the base, and beside an adapter it is the base's already."
        )
    if broken := not_finite(opened):
        raise CheckFailed(
            f"{opened.info.path} holds NaN or infinity ({first_ten(broken)}): what it knew is lost there. Go on from "
            "an earlier checkpoint."
        )
    if misplaced := misplaced_rows(opened):
        raise CheckpointError(
            f"{len(misplaced)} rows of {opened.info.path} are those of other tokens than its vocabulary says: the "
            "base's rows would replace the wrong ones. Name the vocabulary that it was really trained with "
            "(--checkpoint-vocab) and migrate it first; where the file records it, it was edited: use an earlier one."
        )
    moments = moments_by_name(opened)
    noise, never_moved = untrained_rows(opened, moments)
    again = opened.new_rows[noise if never_moved is None else noise | never_moved]
    again = again if reinit_untrained else again[:0]
    weights, blended = _weights(opened, blend, again)
    zeroed = _zero_moments(opened, moments, torch.cat([opened.rows, again]), dry=plan)
    content: dict[str, Any] = dict(weights)
    if "model" in opened.content:
        own_folder = output.suffix != ".pth"
        content = {**opened.content, "model": weights, REINITIALISED: len(again), REPAIRED_FOLDER: own_folder}
    frozen = _record_frozen_rows(opened, content, moments)
    if not plan:
        _write(opened, content, output)
    return {
        "checkpoint": opened.info.path,
        "output": str(output),
        "written": not plan,
        "old_rows": len(opened.rows),
        "old_rows_restored": measure_old_rows(opened, {}).changed,
        "moments_zeroed": zeroed,
        "blend": blend,
        "blended_tensors": blended,
        "reinitialised_rows": len(again),
        "frozen_from_here_on": frozen,
        **judged,
    }


def _reason_not_to_repair(diagnosis: Diagnosis, *, blend: float, reinit_untrained: bool) -> str:
    """Why a repair does not help against what the doctor found; empty if it does."""
    verdict, found = diagnosis.verdict, {diagnosis.verdict, *diagnosis.also}
    if verdict in _REFUSED:
        return f"{_REFUSED[verdict]}: {diagnosis.reason}"
    if "diverged" in found:
        return "the transformer diverged, and neither the base's rows nor a blend bring back what it knew"
    if verdict == "healthy" and not blend:
        return "the doctor finds nothing to repair"
    if verdict == "overfitted" and not blend:
        return "repairing rows does not help: it trained for too long, and an earlier checkpoint is better"
    if verdict == "new-rows-untrained" and not (reinit_untrained and "--reinit-untrained" in diagnosis.next_command):
        return (
            "new rows stay untrained without --reinit-untrained"
            if "--reinit-untrained" in diagnosis.next_command
            else f"re-initializing the new rows would not help: {diagnosis.reason}"
        )
    return ""


def _weights(opened: OpenedCheckpoint, blend: float, again: Tensor) -> tuple[dict[str, Tensor], int]:
    """The repaired weights under the checkpoint's own names, and how many tensors were blended."""
    state = opened.content.get("model", opened.content)
    start = _start(opened) if len(again) else {}
    repaired, blended = {}, 0
    for key, tensor in state.items():
        name = key.removeprefix(opened.prefix)
        base = opened.base.get(f"gpt.{name}") if key.startswith(opened.prefix) else None
        if base is not None and name in TOKEN_TENSORS:
            # half precision would round the base's rows again
            tensor = tensor.to(torch.promote_types(tensor.dtype, base.dtype), copy=True)
            tensor[opened.rows] = base[opened.base_rows].to(tensor.dtype)
            if len(again):
                tensor[again] = start[f"gpt.{name}"][again].to(tensor.dtype)
        elif base is not None and blend and tensor.is_floating_point():
            tensor = torch.lerp(tensor.float(), base.float(), blend).to(tensor.dtype)
            blended += 1
        repaired[key] = tensor
    return repaired, blended


def _start(opened: OpenedCheckpoint) -> dict[str, Tensor]:
    """Token tensors as a run with this vocabulary starts them: romanized, or the mean where tokens are not known."""
    base, tokens = opened.base_vocabulary, opened.tokens
    if base is None or tokens is None:
        logger.warning(" > the tokens of the new rows are not known: they start as the mean of the base's rows.")
        places = {f"row {row}": row for row in range(opened.info.vocab_size)}
        pairs = zip(opened.rows.tolist(), opened.base_rows.tolist(), strict=True)
        before: Mapping[str, int] = {f"row {row}": number for row, number in pairs}
        spellings: dict[str, list[str]] = {}
    else:
        places, before = dict(tokens), base.tokens
        names = {row: token for token, row in base.tokens.items()}
        token_of = opened.token_of
        spellings = {
            token_of[row]: [names[part] for part in ids]
            for row, ids in romanized_spellings(base, opened.vocabulary).items()
        }
    size = opened.base[f"gpt.{TOKEN_TENSORS[0]}"].shape[0]
    migration = Migration.between(before, places, size, frozenset(), init="romanized", spellings=spellings, seed=1)
    return migration.weights(opened.base, "gpt.")


def _zero_moments(
    opened: OpenedCheckpoint, moments: Mapping[str, dict[str, Any]] | None, rows: Tensor, *, dry: bool
) -> int:
    """Zero the moments of rows in place (the content is this process' own copy); returns how many had any."""
    zeroed = set()
    for name in TOKEN_TENSORS:
        state = (moments or {}).get(name, {})
        for key, value in row_moments(state).items():
            first = opened.info.vocab_size - value.shape[0]
            inside = rows[rows >= first]
            if not len(inside):
                continue
            had = value[inside - first].reshape(len(inside), -1).any(dim=1)
            zeroed |= set(inside[had].tolist())
            if not dry:
                state[key] = value.clone()
                state[key][inside - first] = 0
    return len(zeroed)


def _record_frozen_rows(
    opened: OpenedCheckpoint, content: dict[str, Any], moments: Mapping[str, dict[str, Any]] | None
) -> bool:
    """Let a run that goes on freeze the restored rows, if they come first; returns whether it will.

    Frozen rows have no moments. Of a file of the stock Trainer nothing is changed: its rows are found to be the base's
    when it is continued.
    """
    count = opened.base[f"gpt.{TOKEN_TENSORS[0]}"].shape[0]
    first = torch.arange(count)
    comes_first = torch.equal(opened.rows.sort().values, first) and count < opened.info.vocab_size
    if opened.record is None or not comes_first:
        return comes_first and opened.info.kind == "training"
    before = opened.record.base_rows
    # a run that began with the weights of another one froze its new rows, too
    rows = before.rows if before.frozen else count
    record = replace(
        opened.record,
        base_rows=BaseRows(rows, True, row_digests(content["model"], rows, opened.prefix)),
        # the losses before are those of another model
        state={**opened.record.state, **no_best_model()},
    )
    content[RECORD_KEY] = record.to_dict()
    if "config" in content:
        content["config"] = {**content["config"], "freeze_base_rows": True}
    for name in TOKEN_TENSORS:
        state = (moments or {}).get(name, {})
        for key, value in row_moments(state).items():
            if value.shape[0] == opened.info.vocab_size:
                state[key] = value[count:].clone()
    return True


def _write(opened: OpenedCheckpoint, content: dict[str, Any], output: Path) -> None:
    """A run folder with what a resume and an export need; or the file alone, which finds its vocabulary by its path."""
    source = Path(opened.info.path)
    if output.suffix == ".pth":
        with atomic_write(output) as file:
            torch.save(content, file)
        return
    with atomic_folder(output) as folder:
        step = opened.info.step
        name = source.name if step is None else str(CheckpointName("checkpoint", step))
        with atomic_write(folder / name) as file:
            torch.save(content, file)
        vocabulary = source.parent / "vocab.json"
        if not vocabulary.is_file():
            vocabulary = Path((opened.recorded.get("model_args") or {}).get("tokenizer_file") or "")
        if vocabulary.is_file() and (known := load_vocabulary(vocabulary)).size == opened.info.vocab_size:
            (folder / "vocab.json").write_bytes(known.content.encode())
        if "config" in content and isinstance(content["config"], Mapping):
            (folder / "config.json").write_text(json.dumps(content["config"], indent=4), encoding="utf-8")
