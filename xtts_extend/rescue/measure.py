"""What can be measured on a checkpoint beside its base: rows that moved or never did, layers that drifted, moments."""

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
#: A row belongs to another token than its place says when it is so much more similar to that one's row.
_CLEARLY_MORE_SIMILAR = 0.1
#: Rows are noise when their norm is so many times the median of the base's, and at least so much of that of a standard
#: normal row, with which stock coqui starts new rows: in the head that is ten times the base's norm.
NOISE_NORM_RATIO = 3.0
_NOISE_SIGMA = 0.5
#: After so many updates without a token its moments are too small for float32, as if it had never been seen.
_MOMENTS_LAST = 1000


@dataclass(frozen=True)
class OldRows:
    """Rows of the base's tokens against the base's own.

    `changed` and `difference_max` (absolute) are over all three token tensors, `moved_*` is ‖row − base‖ / ‖base‖, its
    mean over rows and its largest. Cosines are those of the embedding.
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
    """Rows of new tokens. Norms are medians, divided by the base's; spread is the standard deviation of norms, too.

    `never_moved` is None where the start is not known; `noise` have a norm far from the base's; `dead` can never be
    given by the tokenizer, None where it is not at hand.
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
    """The optimizer's state: how many updates it made, and what does not fit: rows of tokens; other parameters."""

    updates: int
    misfits: list[str]
    other_misfits: list[str]


def misplaced_rows(opened: OpenedCheckpoint) -> dict[int, int]:
    """Rows that clearly resemble another token's row of the base than the one that belongs there.

    Returns:
        row of the checkpoint → row of the base that it resembles.
    """
    if not len(opened.rows):
        return {}
    rows, base = opened.weights[f"gpt.{EMBEDDING}"][opened.rows].float(), opened.base[f"gpt.{EMBEDDING}"].float()
    nearest, cosines = nearest_rows(rows, base)
    own = torch.nn.functional.cosine_similarity(rows, base[opened.base_rows], dim=1)
    wrong = (nearest != opened.base_rows) & (cosines >= SAME_TOKEN_COSINE) & (cosines - own > _CLEARLY_MORE_SIMILAR)
    return dict(zip(opened.rows[wrong].tolist(), nearest[wrong].tolist(), strict=True))


def measure_old_rows(opened: OpenedCheckpoint, misplaced: dict[int, int]) -> OldRows:
    """How far the rows of the base's tokens are from the base; misplaced ones are left out."""
    here = torch.tensor([row not in misplaced for row in opened.rows.tolist()], dtype=torch.bool)
    changed = torch.zeros(int(here.sum()), dtype=torch.bool)
    if not len(changed):
        return OldRows(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    largest, moved = 0.0, {}
    for name in TOKEN_TENSORS:
        now = opened.weights[f"gpt.{name}"][opened.rows[here]].float().reshape(len(changed), -1)
        before = opened.base[f"gpt.{name}"][opened.base_rows[here]].float().reshape(len(changed), -1)
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
    """How many old rows of the head changed although their gradient was always zero, as a hook makes it.

    Every step gives every row of the head a gradient. Rows whose moments are zero, beside new ones that have some, were
    held by a hook, and weight decay moved them all the same.
    """
    state = (moments or {}).get(HEAD, {}).get("exp_avg_sq")
    if state is None or state.shape[0] != opened.info.vocab_size or not state[opened.new_rows].any():
        return 0
    changed = (opened.weights[f"gpt.{HEAD}"][opened.rows] != opened.base[f"gpt.{HEAD}"][opened.base_rows]).any(dim=1)
    return int((changed & ~state[opened.rows].any(dim=1)).sum())


def transformer_drift(opened: OpenedCheckpoint) -> dict[str, float]:
    """‖weights − base‖ / ‖base‖ of each layer of the transformer, and of the other parts of the GPT."""
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
    """The embedding that the run began with, where the checkpoint records how its new rows started."""
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
    """Which of the new rows are noise, and which never moved.

    A row of the head gets a gradient at every step, that of the embedding only where its token occurs: that one tells.

    Returns:
        (m,) noise, (m,) never moved; the latter None where neither the start is known nor the moments can tell.
    """
    new = opened.new_rows
    noise = torch.zeros(len(new), dtype=torch.bool)
    for name in (EMBEDDING, HEAD):
        usual = float(opened.base[f"gpt.{name}"].float().norm(dim=1).median())
        rows = opened.weights[f"gpt.{name}"][new].float()
        noise |= rows.norm(dim=1) > max(NOISE_NORM_RATIO * usual, _NOISE_SIGMA * rows.shape[1] ** 0.5)
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
    """The new rows beside the distribution of the old ones; None where there are none."""
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
    """Names of weights and moments that hold NaN or infinity."""
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
    """Whether the optimizer's state belongs to these weights; None where the file holds none."""
    if not opened.info.has_optimizer:
        return None
    if moments is None:
        return Moments(0, [], ["it holds another number of parameters than the model has"])
    rows: list[str] = []
    has_adapter = opened.adapter_rank > 0
    others = [
        f"{key.removeprefix('gpt.')} has none"
        for key in opened.weights
        if key.startswith("gpt.")
        and key.removeprefix("gpt.") not in moments
        # beside an adapter only token rows have any
        and (not has_adapter or key.removeprefix("gpt.") in TOKEN_TENSORS)
        and not (opened.voice_was_frozen and key.removeprefix("gpt.").startswith(VOICE_PARTS))
    ]
    for name, state in moments.items():
        expected = expected_shape(opened, name)
        wrong = [
            f"{key} of {name} has shape {tuple(value.shape)}, the weight {expected}"
            for key, value in row_moments(state).items()
            if tuple(value.shape) != expected
        ]
        (rows if name in TOKEN_TENSORS else others).extend(wrong)
    updates = max(opened.training.updates, default=0)
    return Moments(updates, rows or _moments_of_other_rows(opened, moments, updates), others)


def _moments_of_other_rows(opened: OpenedCheckpoint, moments: dict[str, dict[str, Any]], updates: int) -> list[str]:
    """Moments at rows that never moved, while rows that moved have none: they belong to other rows.

    Every update moves the rows that have moments, and only those.
    """
    state = moments.get(EMBEDDING, {})
    if "exp_avg_sq" not in state or opened.frozen_rows or updates > _MOMENTS_LAST:
        return []
    now, before = opened.weights[f"gpt.{EMBEDDING}"][opened.rows], opened.base[f"gpt.{EMBEDDING}"][opened.base_rows]
    moved = (now != before).any(dim=1)
    has = state["exp_avg_sq"][opened.rows].any(dim=1)
    odd, lacking = int((has & ~moved).sum()), int((moved & ~has).sum())
    if odd and lacking:
        return [
            f"{odd} rows of {EMBEDDING} have moments and never moved, {lacking} moved and have none: the moments "
            "belong to other rows"
        ]
    return []


def schedule_notes(opened: OpenedCheckpoint, updates: int) -> list[str]:
    """What the file says of the learning rate and of a gradient accumulation.

    Args:
        opened: the checkpoint.
        updates: how many its optimizer has made.
    """
    notes = []
    groups = [group for optimizer in opened.training.optimizer for group in optimizer["param_groups"]]
    rates = [cast(float, group["lr"]) for group in groups]
    if rates and max(rates) < 1e-3 * float(opened.recorded.get("lr") or 0):
        notes.append(
            f"the learning rate is {max(rates):.3g}, and the run's is {opened.recorded['lr']:.3g}: the schedule is at "
            "its end, and further steps change next to nothing"
        )
    batches = (opened.info.step or 0) + 1
    # the stock Trainer saves wherever it is, and does not record how many batches it accumulates
    if opened.info.written_by == "coqui" and 0 < updates < batches and batches % round(batches / updates):
        notes.append(
            f"its optimizer made {updates} updates in {batches} batches, about one in {round(batches / updates)}: it "
            "was probably written in the middle of an accumulation, and those gradients are lost"
        )
    return notes


def values(measured: Any) -> dict[str, Any] | None:
    """A measurement as plain values; None for what is not finite, which JSON cannot say."""
    if measured is None:
        return None
    plain = measured if isinstance(measured, dict) else asdict(measured)
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in plain.items()
    }
