"""How two vocabularies differ, token by token: their sizes say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xtts_extend.text.vocabulary import count_closed_gaps, first_ten


@dataclass(frozen=True)
class VocabularyChange:
    """Tokens in the order of their ids; `moved` are in both with another id. False when there is none of them.

    `closed_gaps` of the moved ones were renumbered without the gaps that the ids had before them.
    """

    added: list[str]
    removed: list[str]
    moved: list[str]
    closed_gaps: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.moved)

    def describe(self) -> str:
        """A line for each kind, with the first ten tokens of it."""
        moved = "moved to another id"
        if self.closed_gaps:
            moved += f", {self.closed_gaps} of them because the base's gaps were closed"
        kinds = {"added": self.added, "removed": self.removed, moved: self.moved}
        return "\n".join(
            f"  {len(tokens)} {'token' if len(tokens) == 1 else 'tokens'} {kind}"
            + (f": {first_ten(tokens)}" if tokens else "")
            for kind, tokens in kinds.items()
        )


def compare_tokens(before: Mapping[str, int], now: Mapping[str, int]) -> VocabularyChange:
    """What has to happen to the first vocabulary's tokens to make the second's."""
    return VocabularyChange(
        added=[token for token in sorted(now, key=now.__getitem__) if token not in before],
        removed=[token for token in sorted(before, key=before.__getitem__) if token not in now],
        moved=[token for token in sorted(now, key=now.__getitem__) if before.get(token, now[token]) != now[token]],
        # either of the two may be the one without gaps
        closed_gaps=max(count_closed_gaps(before, now), count_closed_gaps(now, before)),
    )
