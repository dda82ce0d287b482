"""Differences between two vocabularies, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xtts_extend.text.vocabulary import count_closed_gaps, first_ten


@dataclass(frozen=True)
class VocabularyChange:
    """Tokens that differ between two vocabularies, ordered by id. An empty change is falsy.

    Attributes:
        added: Tokens that only the second vocabulary has.
        removed: Tokens that only the first vocabulary has.
        moved: Tokens that have a different id in the second vocabulary.
        closed_gaps: Number of tokens that moved because gaps in the ids were closed.
    """

    added: list[str]
    removed: list[str]
    moved: list[str]
    closed_gaps: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.moved)

    def describe(self) -> str:
        """Return one line for each kind of change, with up to ten of its tokens."""
        moved = "moved to a different id"
        if self.closed_gaps:
            moved += f", {self.closed_gaps} of them because gaps in the base's token ids were closed"
        kinds = {"added": self.added, "removed": self.removed, moved: self.moved}
        return "\n".join(
            f"  {len(tokens)} {'token' if len(tokens) == 1 else 'tokens'} {kind}"
            + (f": {first_ten(tokens)}" if tokens else "")
            for kind, tokens in kinds.items()
        )


def compare_tokens(before: Mapping[str, int], after: Mapping[str, int]) -> VocabularyChange:
    """Return the differences between two vocabularies.

    Args:
        before: Each token's id in the first vocabulary.
        after: Each token's id in the second vocabulary.
    """
    return VocabularyChange(
        added=[token for token in sorted(after, key=after.__getitem__) if token not in before],
        removed=[token for token in sorted(before, key=before.__getitem__) if token not in after],
        moved=[
            token for token in sorted(after, key=after.__getitem__) if before.get(token, after[token]) != after[token]
        ],
        # Either vocabulary may be the one without gaps.
        closed_gaps=max(count_closed_gaps(before, after), count_closed_gaps(after, before)),
    )
