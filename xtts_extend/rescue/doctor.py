"""Diagnose a checkpoint: give a one-word verdict, the reason for it and the command to run next.

The thresholds were measured with `benchmarks/rescue.py`, which damages runs in known ways. `docs/rescue.md` lists the
results.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtts_extend.checkpoint.inspect import run_checkpoints
from xtts_extend.errors import DamagedError
from xtts_extend.model.gpt_trainer import row_digests
from xtts_extend.rescue.measure import (
    Moments,
    NewRows,
    OldRows,
    hooked_rows,
    measure_moments,
    measure_new_rows,
    measure_old_rows,
    misplaced_rows,
    not_finite,
    schedule_notes,
    transformer_drift,
    untrained_rows,
    values,
)
from xtts_extend.rescue.next_steps import as_sentence, diverged, load_curves, next_step, next_step_for_damage
from xtts_extend.rescue.opened_checkpoint import (
    REINITIALISED,
    OpenedCheckpoint,
    moments_by_name,
    open_checkpoint_with_base,
)
from xtts_extend.run.curves import Curves
from xtts_extend.text.change import compare_tokens
from xtts_extend.text.vocabulary import Vocabulary, count_closed_gaps, first_ten, load_vocabulary

_INDENT: Any = {"initial_indent": "  ", "subsequent_indent": "  "}
#: Verdicts in order of precedence. The first that applies is the verdict, and any others are listed after it.
VERDICTS = (
    "truncated",
    "not-finite",
    "wrong-vocabulary",
    "old-rows-drifted",
    "new-rows-untrained",
    "diverged",
    "overfitted",
)
#: Mean displacement of trainable old rows, as a fraction of their norm, above which the embedding counts as drifted.
#: Speech depends on these rows. At this limit, the text loss of the old languages is 1% higher.
DRIFTED_EMBEDDING = 0.2
#: The same limit for the head, which only predicts text. The displacement is 60 to 85% in healthy runs and 500% at
#: 40 times the usual learning rate.
DRIFTED_HEAD = 2.0
#: If more than this share of the old rows have no gradient, a gradient hook must have zeroed their gradients. A few
#: such rows are normal, because the model never predicts their tokens.
_HOOKED_SHARE = 0.9
#: New rows count as untrained if at least this share of them is noise, or if at least this share of their tokens can
#: never occur.
UNTRAINED_SHARE = 0.5
#: New rows count as untrained if none of them has moved after this many updates.
_UPDATES_TO_MOVE = 10


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of a checkpoint, as returned by `examine`.

    Attributes:
        path: Path of the checkpoint.
        verdict: "healthy" or one of `VERDICTS`.
        reason: One or more sentences that explain the verdict.
        next_command: The command to run next.
        also: The other verdicts that apply, with the reason for each.
        notes: Other facts worth knowing.
        measurements: The measured values by group and name; empty if the file is truncated.
    """

    path: str
    verdict: str
    reason: str
    next_command: str
    also: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measurements: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the verdict, the other findings and the measurements as text."""
        lines = [f"{self.verdict}: {self.reason}", f"next: {self.next_command}"]
        lines += [f"also {name}: {reason}" for name, reason in self.also.items()]
        lines += [f"note: {note}" for note in self.notes]
        for group, numbers in self.measurements.items():
            if group == "checkpoint" or not numbers:
                continue
            shown = [f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in numbers.items()]
            lines += [f"{group.replace('_', ' ')}:", textwrap.fill(" · ".join(shown), 116, **_INDENT)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as a dict of plain values for JSON."""
        return {
            "path": self.path,
            "verdict": self.verdict,
            "reason": self.reason,
            "next": self.next_command,
            "also": self.also,
            "notes": self.notes,
            **self.measurements,
        }


def examine(checkpoint: Path, base: Path, vocab: Path | None = None) -> Diagnosis:
    """Compare a checkpoint with its base model and diagnose what is wrong with the checkpoint.

    Args:
        checkpoint: A checkpoint file, or a run folder, in which case its newest intact checkpoint is examined.
            Checkpoints may come from this package or from the stock Trainer.
        base: A base directory, or its `model.pth`.
        vocab: The vocabulary that the checkpoint will be used with.

    Raises:
        CheckpointError: There is no checkpoint, loading it would run code, or it was not trained from this base.
        VocabularyError: A vocabulary cannot be read.

    >>> diagnosis = examine(Path("runs/RUN"), Path("XTTS"))
    >>> diagnosis.verdict
    'healthy'
    >>> diagnosis.measurements["old_rows"]["changed"]
    0
    """
    try:
        opened = open_checkpoint_with_base(checkpoint, base, vocab)
    except DamagedError as error:
        following = next_step_for_damage(checkpoint, base)
        return Diagnosis(str(checkpoint), "truncated", str(error), following.command, notes=following.notes)
    vocabulary = load_vocabulary(vocab) if vocab else _vocabulary_beside(opened)
    path = Path(opened.info.path)
    broken = not_finite(opened)
    moments = moments_by_name(opened)
    misplaced = misplaced_rows(opened)
    old = measure_old_rows(opened, misplaced)
    noise, never_moved = untrained_rows(opened, moments)
    in_use = vocabulary if vocabulary and vocabulary.size == opened.info.vocab_size else None
    new = measure_new_rows(opened, noise, never_moved, in_use)
    fit = measure_moments(opened, moments)
    curves = load_curves(opened)

    drift = transformer_drift(opened)
    wrong = list(_vocabulary_mismatch(opened, vocabulary if vocab else None, misplaced))
    reinitialized = opened.content.get(REINITIALISED, 0)

    reasons: dict[str, str] = {}
    if broken:
        reasons["not-finite"] = f"Some tensors contain NaN or infinity ({len(broken)} in total): {first_ten(broken)}."
    if wrong_moments := fit.misfits if fit else []:
        moments_too = [f"The optimizer's moments belong to different rows: {first_ten(wrong_moments)}."]
        reasons["wrong-vocabulary"] = " ".join([*wrong, *moments_too])
    elif wrong:
        reasons["wrong-vocabulary"] = " ".join(wrong)
    if drifted := _drifted(opened, old, hooked_rows(opened, moments)):
        reasons["old-rows-drifted"] = drifted
    kind, untrained = _untrained(new, fit) if new and not reinitialized else ("", "")
    if untrained:
        reasons["new-rows-untrained"] = untrained
    if ran_away := diverged(opened, curves, drift):
        reasons["diverged"] = as_sentence(ran_away)
    if curves and (overfitted := curves.overfitted()):
        reasons["overfitted"] = as_sentence(overfitted)

    verdict = next((name for name in VERDICTS if name in reasons), "healthy")
    condition = verdict
    if (verdict == "wrong-vocabulary" and not wrong) or (verdict == "healthy" and fit and fit.other_misfits):
        condition = "moments"
    elif verdict == "wrong-vocabulary" and misplaced and opened.record:
        # The rows in the file contradict the vocabulary that it records.
        condition = "edited"
    elif (verdict in ("old-rows-drifted", "new-rows-untrained") and "diverged" in reasons) or (
        verdict == "old-rows-drifted" and "overfitted" in reasons
    ):
        # In the benchmark, repairing rows was worse than a fresh start if the transformer had diverged.
        condition = "diverged"
    elif verdict == "new-rows-untrained":
        condition = kind
    elif verdict == "healthy" and _is_finished(opened):
        condition = "finished"
    following = next_step(condition, opened, base, vocab, misplaced=bool(misplaced))
    notes = schedule_notes(opened, fit.updates if fit else 0)
    if checkpoint.is_dir():
        notes += _skipped_checkpoints(checkpoint, opened.info.step or 0)
    notes += _notes(opened, old if "old-rows-drifted" not in reasons else None, fit, curves, reinitialized)
    return Diagnosis(
        str(path),
        verdict,
        reasons.pop(verdict, "No problems were found."),
        following.command,
        {name: reasons[name] for name in VERDICTS if name in reasons},
        [*notes, *following.notes],
        {
            "checkpoint": opened.info.to_dict(),
            "old_rows": values(old),
            "transformer": values(drift),
            "new_rows": values(new),
            "moments": values(fit),
            "curves": curves
            and {"source": curves.source, "train": curves.train[-1:], "evaluation": curves.evaluation[-1:]},
        },
    )


def _skipped_checkpoints(run: Path, step: int) -> list[str]:
    """Return a note for each of a run's checkpoints that is newer than the one examined."""
    newer = sorted(file.name for file in run_checkpoints(run) if _step_in(file) > step)
    return [f"{name} is newer but cannot be used. The warning about it gives the reason." for name in newer]


def _notes(
    opened: OpenedCheckpoint, old: OldRows | None, fit: Moments | None, curves: Curves | None, reinitialized: int
) -> list[str]:
    """Return notes on facts worth knowing that do not indicate a problem.

    Args:
        opened: The checkpoint.
        old: Measurements of the old rows; None if they drifted.
        fit: Measurements of the optimizer's state; None if the file has none.
        curves: The recorded losses; None if there are none.
        reinitialized: Number of new rows that a repair re-initialized.
    """
    notes = []
    if reinitialized:
        notes.append(
            f"A repair re-initialized {reinitialized:,} new rows, which have not been trained since. Resume the run to "
            "train them."
        )
    if curves and (stalled := curves.stalled()):
        notes.append(as_sentence(stalled))
    if fit and fit.other_misfits:
        notes.append(
            f"The optimizer's state does not match the weights ({first_ten(fit.other_misfits)}), so the run cannot be "
            "resumed. Use --start-fresh to start a new run from its weights."
        )
    if old and not _frozen_by_run(opened) and old.changed:
        notes.append(
            f"The run trained all rows. On average, the {old.count:,} old rows moved by {old.moved_embedding:.2%} of "
            f"their norm in the embedding and by {old.moved_head:.0%} in the head. Both are within the limits."
        )
    if opened.tokens is None:
        notes.append("The vocabulary is unknown, so rows are compared by id. Pass the vocabulary with --vocab.")
    return notes


def _frozen_by_run(opened: OpenedCheckpoint) -> bool:
    return bool(opened.frozen_rows)


def _frozen_rows_intact(opened: OpenedCheckpoint) -> bool:
    """Return whether the frozen rows are still those that the run started from (the base's or an earlier run's)."""
    recorded = opened.record.base_rows.digests if opened.record else {}
    return row_digests(opened.weights, opened.frozen_rows) == recorded


def _vocabulary_beside(opened: OpenedCheckpoint) -> Vocabulary | None:
    """Return the vocabulary, including merges, from the vocab.json beside the checkpoint, or None if there is none."""
    file = Path(opened.info.path).parent / "vocab.json"
    return load_vocabulary(file) if file.is_file() else None


def _vocabulary_mismatch(
    opened: OpenedCheckpoint, vocabulary: Vocabulary | None, misplaced: dict[int, int]
) -> Iterator[str]:
    """Yield the reasons, if any, why the checkpoint's rows do not belong to the tokens of its vocabulary.

    Args:
        opened: The checkpoint.
        vocabulary: The vocabulary passed by the user.
        misplaced: Row in the checkpoint → row in the base that it resembles, which belongs to a different token.
    """
    rows, known = opened.info.vocab_size, opened.known
    if vocabulary is not None and known is not None and known.digest != vocabulary.digest:
        change = compare_tokens(known.tokens, vocabulary.tokens)
        differs = change.describe().replace("\n", ";").replace("  ", " ") if change else " the merges differ"
        yield (
            f"The checkpoint was trained with a different vocabulary ({known.source}) than {vocabulary.path}:{differs}."
        )
    elif vocabulary is not None and vocabulary.size != rows:
        yield f"{vocabulary.path} has {vocabulary.size:,} tokens, but the checkpoint has {rows:,} token rows."
    elif opened.tokens is None and opened.source:
        yield f"The checkpoint has {rows:,} token rows, but {opened.source}."
    if misplaced:
        row, other = next(iter(misplaced.items()))
        base = opened.base_vocabulary
        names = {number: token for token, number in base.tokens.items()} if base else {}
        token = opened.token_of.get(row, f"row {row}")
        closed = count_closed_gaps(base.tokens, opened.tokens) if base and opened.tokens else 0
        yield (
            f"{len(misplaced):,} rows resemble those of different tokens in the base; for example, the row for "
            f"{token!r} (id {row}) resembles the base's row for {names.get(other, f'row {other}')!r}. The ids were "
            "reassigned" + (f", {closed} of them because gaps in the base's token ids were closed." if closed else ".")
        )


def _drifted(opened: OpenedCheckpoint, old: OldRows, hooked: int) -> str:
    """Return why the old rows are considered to have drifted, or an empty string if they have not drifted."""
    if _frozen_by_run(opened) and old.changed and not _frozen_rows_intact(opened):
        return (
            f"{old.changed:,} of {old.count:,} old rows differ from the base's (by up to {old.difference_max:.3g}) "
            "even though the run froze them, so the file must have been edited."
        )
    if hooked > _HOOKED_SHARE * old.count:
        return (
            f"A gradient hook zeroed the gradients of {hooked:,} old rows, but weight decay still changed the rows: by "
            f"up to {old.difference_max:.3g} per value, and in the embedding by {old.moved_embedding:.2%} of their "
            "norm on average."
        )
    if old.moved_embedding > DRIFTED_EMBEDDING or old.moved_head > DRIFTED_HEAD:
        return (
            f"{'The run started from different rows' if _frozen_by_run(opened) else 'The run trained all rows'}, and "
            f"{old.changed:,} of {old.count:,} old rows moved too far: on average, by {old.moved_embedding:.0%} of "
            f"their norm in the embedding (limit: {DRIFTED_EMBEDDING:.0%}) and by {old.moved_head:.0%} in the head "
            f"(limit: {DRIFTED_HEAD:.0%})."
        )
    return ""


def _untrained(new: NewRows, fit: Moments | None) -> tuple[str, str]:
    """Return the condition for `next_step` and the reason if the new rows are untrained, else two empty strings."""
    if new.noise >= UNTRAINED_SHARE * new.count:
        return "new-rows-untrained", (
            f"{new.noise:,} of {new.count:,} new rows are noise: the median norm of the new rows is "
            f"{new.norm_embedding:.1f} times the base's in the embedding and {new.norm_head:.1f} times in the head."
        )
    if new.dead and new.dead >= UNTRAINED_SHARE * new.count:
        reason = (
            f"The tokenizer can never produce {new.dead:,} of {new.count:,} new tokens, because no merge produces them."
        )
        return "dead", reason
    if new.never_moved == new.count and fit and fit.updates >= _UPDATES_TO_MOVE:
        return "never-moved", f"None of the {new.count:,} new rows moved in {fit.updates:,} updates."
    return "", ""


def _is_finished(opened: OpenedCheckpoint) -> bool:
    """Return whether a run has reached its `max_steps`."""
    last = opened.recorded.get("max_steps")
    return opened.info.kind == "training" and last is not None and (opened.info.step or 0) >= last


def _step_in(file: Path) -> int:
    """Return the step in a checkpoint's file name, or -1 if there is none."""
    number = file.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1
