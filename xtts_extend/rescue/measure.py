"""Measure how the token rows, transformer layers and optimizer moments of a checkpoint compare with its base model."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from xtts_extend.model.embedding import TOKEN_TENSORS, extend_token_tensors
from xtts_extend.model.migration import nearest_rows
from xtts_extend.model.voice import VOICE_PARTS
from xtts_extend.rescue.opened_checkpoint import OpenedCheckpoint, expected_shape, row_moments
from xtts_extend.setup.vocabulary_change import SAME_TOKEN_COSINE
from xtts_extend.text.verify import dead_entries
from xtts_extend.text.vocabulary import Vocabulary, romanized_spellings

EMBEDDING, HEAD, _ = TOKEN_TENSORS
#: A row is assumed to belong to a different token than its id says if its cosine similarity to that token's row exceeds
#: its similarity to its own token's row by more than this margin.
_CLEARLY_MORE_SIMILAR = 0.1
#: Ratio of a row's norm to the base's median norm above which the row counts as noise.
NOISE_NORM_RATIO = 3.0
#: Smallest ratio of a noise row's norm to that of a row of standard normal values. Stock coqui-tts initializes new rows
#: with such values. In the head, their norm is ten times the base's.
_NOISE_SIGMA = 0.5
#: If a token does not occur for this many updates, its moments underflow to zero in float32, as if it had never
#: occurred.
_MOMENTS_LAST = 1000


@dataclass(frozen=True)
class OldRows:
    """A comparison of a checkpoint's rows for the base's tokens with the base's own rows.

    Attributes:
        count: Number of rows.
        changed: Number of rows that differ in any of the three token tensors.
        difference_max: Largest absolute difference in the three token tensors.
        moved_embedding: Mean of ‖row − base‖ / ‖base‖ over the rows of the embedding.
        moved_embedding_max: Maximum of ‖row − base‖ / ‖base‖ over the rows of the embedding.
        moved_head: Mean of ‖row − base‖ / ‖base‖ over the rows of the head.
        moved_head_max: Maximum of ‖row − base‖ / ‖base‖ over the rows of the head.
        cosine_min: Smallest cosine similarity between a row of the embedding and the base's row for the same token.
        cosine_mean: Mean cosine similarity between the rows of the embedding and the base's rows for the same tokens.
    """

    count: int
    changed: int
    difference_max: float
    moved_embedding: float
    moved_embedding_max: float
    moved_head: float
    moved_head_max: float
    cosine_min: float
    cosine_mean: float


@dataclass(frozen=True)
class NewRows:
    """A comparison of the rows of new tokens with the distribution of the base's rows.

    Attributes:
        count: Number of rows.
        norm_embedding: Median norm in the embedding, divided by the base's median norm.
        norm_head: Median norm in the head, divided by the base's median norm.
        spread_embedding: Standard deviation of the norms in the embedding, divided by the base's median norm.
        spread_head: Standard deviation of the norms in the head, divided by the base's median norm.
        never_moved: Number of rows that never moved; None if unknown.
        noise: Number of rows whose norm is far above the base's.
        dead: Number of tokens that the tokenizer can never produce; None if the vocabulary is not available.
    """

    count: int
    norm_embedding: float
    norm_head: float
    spread_embedding: float
    spread_head: float
    never_moved: int | None
    noise: int
    dead: int | None


@dataclass(frozen=True)
class Moments:
    """A comparison of the optimizer's state with the weights.

    Attributes:
        updates: Number of updates that the optimizer has made.
        misfits: Descriptions of token row moments that do not match the weights.
        other_misfits: Descriptions of other optimizer state that does not match the weights.
    """

    updates: int
    misfits: list[str]
    other_misfits: list[str]


def misplaced_rows(opened: OpenedCheckpoint) -> dict[int, int]:
    """Find rows that clearly resemble a different token's row in the base more than their own token's row.

    Returns:
        Row in the checkpoint → the row in the base that it resembles.
    """
    if not len(opened.rows):
        return {}
    rows, base = opened.weights[f"gpt.{EMBEDDING}"][opened.rows].float(), opened.base[f"gpt.{EMBEDDING}"].float()
    nearest, cosines = nearest_rows(rows, base)
    own = torch.nn.functional.cosine_similarity(rows, base[opened.base_rows], dim=1)
    wrong = (nearest != opened.base_rows) & (cosines >= SAME_TOKEN_COSINE) & (cosines - own > _CLEARLY_MORE_SIMILAR)
    return dict(zip(opened.rows[wrong].tolist(), nearest[wrong].tolist(), strict=True))


def measure_old_rows(opened: OpenedCheckpoint, misplaced: dict[int, int]) -> OldRows:
    """Measure how far the rows of the base's tokens have moved from the base's rows, ignoring `misplaced` rows."""
    in_place = torch.tensor([row not in misplaced for row in opened.rows.tolist()], dtype=torch.bool)
    changed = torch.zeros(int(in_place.sum()), dtype=torch.bool)
    if not len(changed):
        return OldRows(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    largest, moved = 0.0, {}
    for name in TOKEN_TENSORS:
        now = opened.weights[f"gpt.{name}"][opened.rows[in_place]].float().reshape(len(changed), -1)
        before = opened.base[f"gpt.{name}"][opened.base_rows[in_place]].float().reshape(len(changed), -1)
        difference = now - before
        changed |= (now != before).any(dim=1)
        largest = max(largest, float(difference.abs().max()))
        moved[name] = difference.norm(dim=1) / before.norm(dim=1).clamp(min=1e-12)
        if name == EMBEDDING:
            cosine = torch.nn.functional.cosine_similarity(now, before, dim=1)
    return OldRows(
        len(changed),
        int(changed.sum()),
        largest,
        float(moved[EMBEDDING].mean()),
        float(moved[EMBEDDING].max()),
        float(moved[HEAD].mean()),
        float(moved[HEAD].max()),
        float(cosine.min()),
        float(cosine.mean()),
    )


def hooked_rows(opened: OpenedCheckpoint, moments: dict[str, dict[str, Any]] | None) -> int:
    """Count the head's old rows that changed even though a gradient hook zeroed their gradients.

    Every step gives every row of the head a gradient. If the moments of old rows are zero but those of new rows are
    not, a gradient hook zeroed the gradients of the old rows. If these rows changed anyway, weight decay moved them.
    """
    state = (moments or {}).get(HEAD, {}).get("exp_avg_sq")
    if state is None or state.shape[0] != opened.info.vocab_size or not state[opened.new_rows].any():
        return 0
    changed = (opened.weights[f"gpt.{HEAD}"][opened.rows] != opened.base[f"gpt.{HEAD}"][opened.base_rows]).any(dim=1)
    return int((changed & ~state[opened.rows].any(dim=1)).sum())


def transformer_drift(opened: OpenedCheckpoint) -> dict[str, float]:
    """Return ‖weights − base‖ / ‖base‖ for each transformer layer ("layer N") and each other part of the GPT."""
    squares: dict[str, list[float]] = {}
    for key, tensor in opened.weights.items():
        name = key.removeprefix("gpt.")
        if not key.startswith("gpt.") or name in TOKEN_TENSORS or key not in opened.base:
            continue
        found = re.match(r"gpt\.h\.(\d+)\.", name)
        part = f"layer {found.group(1)}" if found else name.split(".")[0]
        before = opened.base[key].float()
        sums = squares.setdefault(part, [0.0, 0.0])
        sums[0] += float((tensor.float() - before).pow(2).sum())
        sums[1] += float(before.pow(2).sum())
    return {part: (moved / max(size, 1e-24)) ** 0.5 for part, (moved, size) in squares.items()}


def start_rows(opened: OpenedCheckpoint) -> Tensor | None:
    """Return the embedding that the run started with, or None if the initialization of its rows is not recorded."""
    base, config = opened.base_vocabulary, opened.recorded
    tokens = opened.tokens
    if not opened.record or base is None or tokens is None or not config.get("init") or not len(opened.new_rows):
        return None
    if any(tokens.get(token) != row for token, row in base.tokens.items()):
        return None
    spellings = romanized_spellings(base, opened.vocabulary) if config["init"] == "romanized" else {}
    rows = opened.info.vocab_size
    return extend_token_tensors(opened.base, rows, config["init"], spellings, config["training_seed"])[
        f"gpt.{EMBEDDING}"
    ]


def untrained_rows(opened: OpenedCheckpoint, moments: dict[str, dict[str, Any]] | None) -> tuple[Tensor, Tensor | None]:
    """Find the new rows that are noise and those that never moved.

    Only the embedding shows whether a token occurred, because every row of the head gets a gradient at every step.

    Returns:
        Two masks over the m new rows, each of shape (m,): the rows that are noise, and the rows that never moved. The
        second is None if neither the initial rows nor the moments show which rows moved.
    """
    new = opened.new_rows
    noise = torch.zeros(len(new), dtype=torch.bool)
    for name in (EMBEDDING, HEAD):
        median_norm = float(opened.base[f"gpt.{name}"].float().norm(dim=1).median())
        rows = opened.weights[f"gpt.{name}"][new].float()
        noise |= rows.norm(dim=1) > max(NOISE_NORM_RATIO * median_norm, _NOISE_SIGMA * rows.shape[1] ** 0.5)
    start = start_rows(opened)
    if start is not None:
        return noise, (opened.weights[f"gpt.{EMBEDDING}"][new] == start[new]).all(dim=1)
    state = (moments or {}).get(EMBEDDING, {})
    seen = state.get("exp_avg_sq")
    if seen is None or tuple(seen.shape) != expected_shape(opened, EMBEDDING) or int(state["step"]) > _MOMENTS_LAST:
        return noise, None
    return noise, ~seen[new - (opened.info.vocab_size - seen.shape[0])].any(dim=1)


def measure_new_rows(
    opened: OpenedCheckpoint, noise: Tensor, never_moved: Tensor | None, vocabulary: Vocabulary | None
) -> NewRows | None:
    """Compare the new rows with the distribution of the base's rows; return None if there are no new rows.

    Args:
        opened: The checkpoint.
        noise: Mask of noise rows, from `untrained_rows`.
        never_moved: Mask of rows that never moved, from `untrained_rows`.
        vocabulary: The checkpoint's vocabulary, including merges, if available.
    """
    new = opened.new_rows
    if not len(new):
        return None
    norms = {}
    for name in (EMBEDDING, HEAD):
        now, base = (
            table.float().norm(dim=1) for table in (opened.weights[f"gpt.{name}"][new], opened.base[f"gpt.{name}"])
        )
        norms[name] = (float(now.median() / base.median()), float(now.std(correction=0) / base.median()))
    dead = None
    if vocabulary is not None and opened.base_vocabulary is not None:
        dead = len(dead_entries(opened.base_vocabulary, vocabulary))
    return NewRows(
        len(new),
        norms[EMBEDDING][0],
        norms[HEAD][0],
        norms[EMBEDDING][1],
        norms[HEAD][1],
        None if never_moved is None else int(never_moved.sum()),
        int(noise.sum()),
        dead,
    )


def not_finite(opened: OpenedCheckpoint) -> list[str]:
    """Return the names of weights and moments that contain NaN or infinity."""
    names = [key for key, tensor in opened.weights.items() if not torch.isfinite(tensor).all()]
    for optimizer in opened.training.optimizer:
        for number, state in optimizer["state"].items():
            names += [
                f"{key} of parameter {number}"
                for key, value in state.items()
                if isinstance(value, Tensor) and not torch.isfinite(value).all()
            ]
    return names


def measure_moments(opened: OpenedCheckpoint, moments: dict[str, dict[str, Any]] | None) -> Moments | None:
    """Compare the optimizer's state with the weights; return None if the file has no optimizer state.

    Args:
        opened: The checkpoint.
        moments: The optimizer's state by parameter name, from `moments_by_name`.
    """
    if not opened.info.has_optimizer:
        return None
    if moments is None:
        return Moments(0, [], ["its number of parameters differs from the model's"])
    rows: list[str] = []
    has_adapter = opened.adapter_rank > 0
    others = [
        f"no moments for {key.removeprefix('gpt.')}"
        for key in opened.weights
        if key.startswith("gpt.")
        and key.removeprefix("gpt.") not in moments
        # In a run with an adapter, only the adapter and the token rows have moments.
        and (not has_adapter or key.removeprefix("gpt.") in TOKEN_TENSORS)
        and not (opened.voice_was_frozen and key.removeprefix("gpt.").startswith(VOICE_PARTS))
    ]
    for name, state in moments.items():
        expected = expected_shape(opened, name)
        wrong = [
            f"{key} of {name} has shape {tuple(value.shape)}, expected {expected}"
            for key, value in row_moments(state).items()
            if tuple(value.shape) != expected
        ]
        (rows if name in TOKEN_TENSORS else others).extend(wrong)
    updates = max(opened.training.updates, default=0)
    return Moments(updates, rows or _moments_of_other_rows(opened, moments, updates), others)


def _moments_of_other_rows(opened: OpenedCheckpoint, moments: dict[str, dict[str, Any]], updates: int) -> list[str]:
    """Return a list of any evidence that the embedding's moments belong to different rows.

    Every update moves exactly the rows that have moments. If rows with moments never moved while rows without moments
    did, the moments belong to different rows.
    """
    state = moments.get(EMBEDDING, {})
    if "exp_avg_sq" not in state or opened.frozen_rows or updates > _MOMENTS_LAST:
        return []
    now, before = opened.weights[f"gpt.{EMBEDDING}"][opened.rows], opened.base[f"gpt.{EMBEDDING}"][opened.base_rows]
    moved = (now != before).any(dim=1)
    has_moments = state["exp_avg_sq"][opened.rows].any(dim=1)
    unmoved, missing = int((has_moments & ~moved).sum()), int((moved & ~has_moments).sum())
    if unmoved and missing:
        return [
            f"{unmoved:,} rows of {EMBEDDING} have moments but never moved, and {missing:,} others moved but have no "
            "moments"
        ]
    return []


def schedule_notes(opened: OpenedCheckpoint, updates: int) -> list[str]:
    """Return notes on the learning rate schedule and on incomplete gradient accumulation.

    Args:
        opened: The checkpoint.
        updates: Number of updates that the optimizer has made.
    """
    notes = []
    groups = [group for optimizer in opened.training.optimizer for group in optimizer["param_groups"]]
    rates = [cast(float, group["lr"]) for group in groups]
    if rates and max(rates) < 1e-3 * float(opened.recorded.get("lr") or 0):
        notes.append(
            f"The learning rate is {max(rates):.3g}, down from {opened.recorded['lr']:.3g}. The schedule has ended, "
            "so further steps will change almost nothing."
        )
    batches = (opened.info.step or 0) + 1
    # The stock Trainer may save in the middle of gradient accumulation and does not record how many batches it
    # accumulates.
    if opened.info.written_by == "coqui" and 0 < updates < batches and batches % round(batches / updates):
        notes.append(
            f"The optimizer made {updates:,} updates in {batches:,} batches, about one every "
            f"{round(batches / updates)} batches. The checkpoint was probably written in the middle of gradient "
            "accumulation, so the accumulated gradients are lost."
        )
    return notes


def values(measured: Any) -> dict[str, Any] | None:
    """Return a measurement as plain values, with None in place of NaN and infinity, which JSON cannot represent."""
    if measured is None:
        return None
    plain = measured if isinstance(measured, dict) else asdict(measured)
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in plain.items()
    }
