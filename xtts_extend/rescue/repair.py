"""Repair checkpoints: restore old rows, blend the transformer with the base, and re-initialize new rows."""

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
#: Verdict → why a checkpoint with this verdict cannot be repaired.
_REFUSED = {
    "truncated": "A damaged file cannot be repaired.",
    "not-finite": "Weights that are NaN or infinite cannot be restored.",
    "wrong-vocabulary": "Rows and moments must be migrated to the right vocabulary first.",
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
    """Write a repaired copy of a checkpoint, for resuming or exporting; the original is not modified.

    Rows of old tokens are replaced with the base's, bit for bit, and their moments are set to zero. A run that resumes
    from the copy freezes these rows. Everything else is left unchanged unless the arguments say otherwise.

    Args:
        checkpoint: A checkpoint file, or a run folder, in which case its newest intact checkpoint is repaired.
        base: A base directory, or its `model.pth`.
        output: A new run folder, or a new file if the name ends in ".pth".
        blend: Fraction of the base to blend into the rest of the GPT: (1 − blend) · checkpoint + blend · base.
        reinit_untrained: Whether to re-initialize new rows that are noise or never moved.
        plan: Whether to only report what would be done and whether it would help, without writing anything.

    Returns:
        What was done, under the keys `checkpoint`, `output`, `written`, `old_rows`, `old_rows_restored`,
        `moments_zeroed` (number of rows), `blend`, `blended_tensors`, `reinitialised_rows` and `frozen_from_here_on`. A
        plan adds `verdict` and `next` from `examine`, and `pointless`, which says why a repair would not help and is
        empty if it would. If the checkpoint cannot be repaired, a plan raises no error and returns only these three
        values along with `checkpoint`, `output` and `written`.

    Raises:
        CheckpointError: There is no intact checkpoint, or the checkpoint was not trained from this base, or its rows
            belong to different tokens than its vocabulary says.
        CheckFailed: The checkpoint contains NaN or infinity.
        ConfigError: The output exists, or `blend` is not between 0 and 1.
        MachineError: The output could not be written.

    >>> done = repair(Path("runs/RUN"), Path("XTTS"), Path("repaired"), plan=True)
    >>> done["verdict"], done["pointless"], done["written"]
    ('healthy', 'There is nothing to repair.', False)
    """
    if not 0 <= blend <= 1:
        raise ConfigError(f"--blend is {blend}. Expected the base's share, from 0 to 1 (0.3 means 30% base).")
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise ConfigError(f"{output} already exists. Choose a new folder, or a new file whose name ends in .pth.")
    assessment: dict[str, Any] = {}
    if plan:
        diagnosis = examine(checkpoint, base)
        assessment = {
            "verdict": diagnosis.verdict,
            "pointless": _reason_not_to_repair(diagnosis, blend=blend, reinit_untrained=reinit_untrained),
            "next": diagnosis.next_command,
        }
        if diagnosis.verdict in _REFUSED:
            return {"checkpoint": diagnosis.path, "output": str(output), "written": False, **assessment}
    opened = open_checkpoint_with_base(checkpoint, base, None)
    if blend and opened.adapter_rank:
        raise ConfigError(
            "With an adapter, the transformer's weights are still the base's, so --blend has nothing to blend. "
            "Omit --blend."
        )
    if broken := not_finite(opened):
        raise CheckFailed(
            f"{opened.info.path} contains NaN or infinity ({first_ten(broken)}), which cannot be repaired. Resume from "
            "an earlier checkpoint."
        )
    if misplaced := misplaced_rows(opened):
        raise CheckpointError(
            f"{len(misplaced):,} rows of {opened.info.path} belong to different tokens than its vocabulary says, so "
            "the base's rows would replace the wrong ones. Migrate the checkpoint first, using --checkpoint-vocab to "
            "pass the vocabulary that it was actually trained with. If the wrong vocabulary is recorded in the "
            "checkpoint itself, the file has been edited; use an earlier checkpoint."
        )
    moments = moments_by_name(opened)
    noise, never_moved = untrained_rows(opened, moments)
    reinit_rows = opened.new_rows[noise if never_moved is None else noise | never_moved]
    reinit_rows = reinit_rows if reinit_untrained else reinit_rows[:0]
    weights, blended = _repaired_weights(opened, blend, reinit_rows)
    zeroed = _zero_moments(opened, moments, torch.cat([opened.rows, reinit_rows]), dry_run=plan)
    content: dict[str, Any] = dict(weights)
    if "model" in opened.content:
        is_folder = output.suffix != ".pth"
        content = {**opened.content, "model": weights, REINITIALISED: len(reinit_rows), REPAIRED_FOLDER: is_folder}
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
        "reinitialised_rows": len(reinit_rows),
        "frozen_from_here_on": frozen,
        **assessment,
    }


def _reason_not_to_repair(diagnosis: Diagnosis, *, blend: float, reinit_untrained: bool) -> str:
    """Return why a repair would not help, given this diagnosis, or an empty string if it would."""
    verdict, verdicts = diagnosis.verdict, {diagnosis.verdict, *diagnosis.also}
    if verdict in _REFUSED:
        return f"{_REFUSED[verdict]} {diagnosis.reason}"
    if "diverged" in verdicts:
        return "The transformer diverged, and neither restoring the base's rows nor blending can undo that."
    if verdict == "healthy" and not blend:
        return "There is nothing to repair."
    if verdict == "overfitted" and not blend:
        return "Repairing rows does not help a run that trained for too long. Use an earlier checkpoint."
    if verdict == "new-rows-untrained" and not (reinit_untrained and "--reinit-untrained" in diagnosis.next_command):
        return (
            "Without --reinit-untrained, the new rows would remain untrained."
            if "--reinit-untrained" in diagnosis.next_command
            else f"Re-initializing the new rows would not help. {diagnosis.reason}"
        )
    return ""


def _repaired_weights(opened: OpenedCheckpoint, blend: float, reinit_rows: Tensor) -> tuple[dict[str, Tensor], int]:
    """Return the repaired weights under the checkpoint's own names, and the number of blended tensors."""
    state = opened.content.get("model", opened.content)
    start = _initial_rows(opened) if len(reinit_rows) else {}
    repaired, blended = {}, 0
    for key, tensor in state.items():
        name = key.removeprefix(opened.prefix)
        base = opened.base.get(f"gpt.{name}") if key.startswith(opened.prefix) else None
        if base is not None and name in TOKEN_TENSORS:
            # Half precision would round the base's rows.
            tensor = tensor.to(torch.promote_types(tensor.dtype, base.dtype), copy=True)
            tensor[opened.rows] = base[opened.base_rows].to(tensor.dtype)
            if len(reinit_rows):
                tensor[reinit_rows] = start[f"gpt.{name}"][reinit_rows].to(tensor.dtype)
        elif base is not None and blend and tensor.is_floating_point():
            tensor = torch.lerp(tensor.float(), base.float(), blend).to(tensor.dtype)
            blended += 1
        repaired[key] = tensor
    return repaired, blended


def _initial_rows(opened: OpenedCheckpoint) -> dict[str, Tensor]:
    """Return the token tensors that a new run would start with.

    New rows start from romanized spellings, or as the mean of the base's rows if their tokens are unknown.
    """
    base, tokens = opened.base_vocabulary, opened.tokens
    if base is None or tokens is None:
        logger.warning(" > The tokens of the new rows are unknown, so these rows start as the mean of the base's rows.")
        ids = {f"row {row}": row for row in range(opened.info.vocab_size)}
        pairs = zip(opened.rows.tolist(), opened.base_rows.tolist(), strict=True)
        base_ids: Mapping[str, int] = {f"row {row}": base_row for row, base_row in pairs}
        spellings: dict[str, list[str]] = {}
    else:
        ids, base_ids = dict(tokens), base.tokens
        names = {row: token for token, row in base.tokens.items()}
        token_of = opened.token_of
        spellings = {
            token_of[row]: [names[part] for part in parts]
            for row, parts in romanized_spellings(base, opened.vocabulary).items()
        }
    size = opened.base[f"gpt.{TOKEN_TENSORS[0]}"].shape[0]
    migration = Migration.between(base_ids, ids, size, frozenset(), init="romanized", spellings=spellings, seed=1)
    return migration.weights(opened.base, "gpt.")


def _zero_moments(
    opened: OpenedCheckpoint, moments: Mapping[str, dict[str, Any]] | None, rows: Tensor, *, dry_run: bool
) -> int:
    """Zero the moments of rows in the loaded content, unless `dry_run`; return how many rows had nonzero moments."""
    zeroed = set()
    for name in TOKEN_TENSORS:
        state = (moments or {}).get(name, {})
        for key, value in row_moments(state).items():
            first = opened.info.vocab_size - value.shape[0]
            trained = rows[rows >= first]
            if not len(trained):
                continue
            had_moments = value[trained - first].reshape(len(trained), -1).any(dim=1)
            zeroed |= set(trained[had_moments].tolist())
            if not dry_run:
                state[key] = value.clone()
                state[key][trained - first] = 0
    return len(zeroed)


def _record_frozen_rows(
    opened: OpenedCheckpoint, content: dict[str, Any], moments: Mapping[str, dict[str, Any]] | None
) -> bool:
    """If the restored rows have the lowest ids, record them as frozen; return whether a resumed run will freeze them.

    Frozen rows have no moments. Files written by the stock Trainer are left unchanged, because their rows are
    recognized as the base's when a run resumes from them.
    """
    count = opened.base[f"gpt.{TOKEN_TENSORS[0]}"].shape[0]
    first = torch.arange(count)
    comes_first = torch.equal(opened.rows.sort().values, first) and count < opened.info.vocab_size
    if opened.record is None or not comes_first:
        return comes_first and opened.info.kind == "training"
    before = opened.record.base_rows
    # A run that started from another run's weights also froze that run's new rows.
    rows = before.rows if before.frozen else count
    record = replace(
        opened.record,
        base_rows=BaseRows(rows, True, row_digests(content["model"], rows, opened.prefix)),
        # The recorded losses were measured before the repair.
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
    """Write a run folder with everything needed to resume and export, or only a file if `output` ends in ".pth"."""
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
