"""What is the matter with a checkpoint, in one word, with the reason and the next command.

The thresholds come from `benchmarks/rescue.py`, which damages runs in known ways; `docs/rescue.md` has its numbers.
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
from xtts_extend.rescue.next_steps import diverged, load_curves, next_step, next_step_for_damage
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
#: Verdicts in their order: the first that holds is the verdict, the others are listed.
VERDICTS = (
    "truncated",
    "not-finite",
    "wrong-vocabulary",
    "old-rows-drifted",
    "new-rows-untrained",
    "diverged",
    "overfitted",
)
#: Rows that are trained on purpose have drifted when they moved by this share of their norm, on average: in the
#: embedding, which speech is made from (there it costs 1 % of the old languages' text loss); or in the head, which only
#: predicts text and moves by 60 to 85 % in healthy runs, by 500 % at 40 times the rate.
DRIFTED_EMBEDDING = 0.2
DRIFTED_HEAD = 2.0
#: A hook holds all rows; a few without a gradient are tokens that the model is certain not to say.
_HOOKED_SHARE = 0.9
#: New rows are untrained when this share of them is noise, or can never be given.
UNTRAINED_SHARE = 0.5
#: … or when none of them moved in so many updates.
_UPDATES_TO_MOVE = 10


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found.

    Attributes:
        path: the checkpoint.
        verdict: "healthy" or one of `VERDICTS`.
        reason: why, in a sentence.
        next_command: what to do.
        also: other verdicts that hold, each with its reason.
        notes: what is worth knowing and no illness.
        measurements: the numbers, by what they are about; empty for a truncated file.
    """

    path: str
    verdict: str
    reason: str
    next_command: str
    also: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measurements: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """The verdict, what else holds, and the numbers behind it, for reading."""
        lines = [f"{self.verdict}: {self.reason}", f"next: {self.next_command}"]
        lines += [f"also {name}: {reason}" for name, reason in self.also.items()]
        lines += [f"note: {note}" for note in self.notes]
        for about, numbers in self.measurements.items():
            if about == "checkpoint" or not numbers:
                continue
            shown = [f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in numbers.items()]
            lines += [f"{about.replace('_', ' ')}:", textwrap.fill(" · ".join(shown), 116, **_INDENT)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
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
    """Examine a checkpoint beside its base.

    Args:
        checkpoint: a file, or a run folder (its newest sound checkpoint); of ours or of the stock Trainer.
        base: a base directory, or its `model.pth`.
        vocab: the vocabulary that the checkpoint is about to be used with.

    Raises:
        CheckpointError: there is no checkpoint, it wants to run code, or it did not come from this base.
        VocabularyError: a vocabulary cannot be read.
    """
    try:
        opened = open_checkpoint_with_base(checkpoint, base, vocab)
    except DamagedError as error:
        way = next_step_for_damage(checkpoint, base)
        return Diagnosis(str(checkpoint), "truncated", str(error), way.command, notes=way.notes)
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
    started_again = opened.content.get(REINITIALISED, 0)

    found: dict[str, str] = {}
    if broken:
        found["not-finite"] = f"{len(broken)} tensors hold NaN or infinity: {first_ten(broken)}"
    if wrong_moments := fit.misfits if fit else []:
        moments_too = [f"the optimizer's moments do not belong to the rows: {first_ten(wrong_moments)}"]
        found["wrong-vocabulary"] = "; ".join([*wrong, *moments_too])
    elif wrong:
        found["wrong-vocabulary"] = "; ".join(wrong)
    if drifted := _drifted(opened, old, hooked_rows(opened, moments)):
        found["old-rows-drifted"] = drifted
    kind, untrained = _untrained(new, fit) if new and not started_again else ("", "")
    if untrained:
        found["new-rows-untrained"] = untrained
    if ran_away := diverged(opened, curves, drift):
        found["diverged"] = ran_away
    if curves and (passed := curves.overfitted()):
        found["overfitted"] = passed

    verdict = next((name for name in VERDICTS if name in found), "healthy")
    ill = verdict
    if (verdict == "wrong-vocabulary" and not wrong) or (verdict == "healthy" and fit and fit.other_misfits):
        ill = "moments"
    elif verdict == "wrong-vocabulary" and misplaced and opened.record:
        # what it records is not what it holds
        ill = "edited"
    elif (verdict in ("old-rows-drifted", "new-rows-untrained") and "diverged" in found) or (
        verdict == "old-rows-drifted" and "overfitted" in found
    ):
        # repairing the rows of a wrecked transformer was worse than a fresh start
        ill = "diverged"
    elif verdict == "new-rows-untrained":
        ill = kind
    elif verdict == "healthy" and _is_finished(opened):
        ill = "finished"
    way = next_step(ill, opened, base, vocab, misplaced=bool(misplaced))
    notes = schedule_notes(opened, fit.updates if fit else 0)
    if checkpoint.is_dir():
        notes += _skipped_checkpoints(checkpoint, opened.info.step or 0)
    notes += _notes(opened, old if "old-rows-drifted" not in found else None, fit, curves, started_again)
    return Diagnosis(
        str(path),
        verdict,
        found.pop(verdict, "none of the checks found anything"),
        way.command,
        {name: found[name] for name in VERDICTS if name in found},
        [*notes, *way.notes],
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
    """The checkpoints of a run that are newer than the one that was examined."""
    newer = sorted(file.name for file in run_checkpoints(run) if _step_in(file) > step)
    return [f"{name} is newer, and cannot be used: see the warning" for name in newer]


def _notes(
    opened: OpenedCheckpoint, old: OldRows | None, fit: Moments | None, curves: Curves | None, started_again: int
) -> list[str]:
    """What is worth knowing and no illness; `old` only where old rows did not drift."""
    notes = []
    if started_again:
        notes.append(f"a repair started {started_again} new rows again, and they were not trained since: go on")
    if curves and (still := curves.stalled()):
        notes.append(still)
    if fit and fit.other_misfits:
        notes.append(
            f"the optimizer's state does not fit the weights ({first_ten(fit.other_misfits)}): the run cannot go on; "
            "its weights can, with --start-fresh"
        )
    if old and not _frozen_by_run(opened) and old.changed:
        notes.append(
            f"the run trained all rows: the {old.count} old ones moved by {old.moved_embedding:.2%} of their "
            f"norm in the embedding and {old.moved_head:.0%} in the head on average, which is not far"
        )
    if opened.tokens is None:
        notes.append("its vocabulary is not known (name it with --vocab): rows are compared by their place")
    return notes


def _frozen_by_run(opened: OpenedCheckpoint) -> bool:
    return bool(opened.frozen_rows)


def _as_frozen(opened: OpenedCheckpoint) -> bool:
    """Whether the rows that a run froze are still those that it began with: the base's, or those of an earlier run."""
    began_with = opened.record.base_rows.digests if opened.record else {}
    return row_digests(opened.weights, opened.frozen_rows) == began_with


def _vocabulary_beside(opened: OpenedCheckpoint) -> Vocabulary | None:
    """The file beside the checkpoint, for what needs merges."""
    file = Path(opened.info.path).parent / "vocab.json"
    return load_vocabulary(file) if file.is_file() else None


def _vocabulary_mismatch(
    opened: OpenedCheckpoint, given: Vocabulary | None, misplaced: dict[int, int]
) -> Iterator[str]:
    """Why the checkpoint's rows are not those of the tokens that they are taken for."""
    rows, known = opened.info.vocab_size, opened.known
    if given is not None and known is not None and known.digest != given.digest:
        change = compare_tokens(known.tokens, given.tokens)
        differs = change.describe().replace("\n", ";").replace("  ", " ") if change else " the merges differ"
        yield f"it was trained with another vocabulary ({known.source}) than {given.path}:{differs}"
    elif given is not None and given.size != rows:
        yield f"{given.path} has {given.size} tokens, and the checkpoint {rows} rows"
    elif opened.tokens is None and opened.source:
        yield f"the checkpoint has {rows} token rows: {opened.source}"
    if misplaced:
        row, other = next(iter(misplaced.items()))
        base = opened.base_vocabulary
        names = {number: token for token, number in base.tokens.items()} if base else {}
        here = opened.token_of.get(row, f"row {row}")
        closed = count_closed_gaps(base.tokens, opened.tokens) if base and opened.tokens else 0
        yield (
            f"{len(misplaced)} rows resemble those of other tokens in the base (row {row}, taken for {here!r}, is that "
            f"of {names.get(other, f'row {other}')!r}): the ids were reassigned"
            + (f", {closed} of them because the base's gaps were closed" if closed else "")
        )


def _drifted(opened: OpenedCheckpoint, old: OldRows, hooked: int) -> str:
    if _frozen_by_run(opened) and old.changed and not _as_frozen(opened):
        return (
            f"{old.changed} of {old.count} old rows differ from the base's (by up to {old.difference_max:.3g}), "
            "although the run froze them: the file was edited"
        )
    if hooked > _HOOKED_SHARE * old.count:
        return (
            f"the gradient of {hooked} old rows was zeroed (a hook), and they moved all the same, by up to "
            f"{old.difference_max:.3g}: weight decay does that. They moved by {old.moved_embedding:.2%} of "
            "their norm on average so far"
        )
    if old.moved_embedding > DRIFTED_EMBEDDING or old.moved_head > DRIFTED_HEAD:
        return (
            f"{'the run began with other rows' if _frozen_by_run(opened) else 'the run trained all rows'}, and "
            f"{old.changed} of {old.count} old ones moved far: by {old.moved_embedding:.0%} of their norm in the "
            f"embedding and {old.moved_head:.0%} in the head on average (more than {DRIFTED_EMBEDDING:.0%} or "
            f"{DRIFTED_HEAD:.0%})"
        )
    return ""


def _untrained(new: NewRows, fit: Moments | None) -> tuple[str, str]:
    """The kind of new rows that are not trained, which `next_step` knows, and the reason; empty when they are."""
    if new.noise >= UNTRAINED_SHARE * new.count:
        return "new-rows-untrained", (
            f"{new.noise} of {new.count} new rows are noise: their norms in embedding and head are "
            f"{new.norm_embedding:.1f} and {new.norm_head:.1f} times the base's"
        )
    if new.dead and new.dead >= UNTRAINED_SHARE * new.count:
        reason = f"{new.dead} of {new.count} new tokens can never be given by the tokenizer: no merges lead to them"
        return "dead", reason
    if new.never_moved == new.count and fit and fit.updates >= _UPDATES_TO_MOVE:
        return "never-moved", f"none of the {new.count} new rows has moved in {fit.updates} updates"
    return "", ""


def _is_finished(opened: OpenedCheckpoint) -> bool:
    """Whether a run reached the last step that it was given."""
    last = opened.recorded.get("max_steps")
    return opened.info.kind == "training" and last is not None and (opened.info.step or 0) >= last


def _step_in(file: Path) -> int:
    """The step in the name of a run's file; -1 where a name ends otherwise."""
    number = file.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1
