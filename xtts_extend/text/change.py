"""How two vocabularies differ, token by token: their sizes say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xtts_extend.text.vocabulary import first_of


@dataclass(frozen=True)
class VocabularyChange:
    """Tokens in the order of their ids; `moved` are in both with another id. False when there is none of them."""

    added: list[str]
    removed: list[str]
    moved: list[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.moved)

    def describe(self) -> str:
        """A line for each kind, with the first ten tokens of it."""
        kinds = {"added": self.added, "removed": self.removed, "moved to another id": self.moved}
        return "\n".join(
            f"  {len(tokens)} {'token' if len(tokens) == 1 else 'tokens'} {kind}"
            + (f": {first_of(tokens)}" if tokens else "")
            for kind, tokens in kinds.items()
        )


def compare_tokens(before: Mapping[str, int], now: Mapping[str, int]) -> VocabularyChange:
    """What has to happen to the first vocabulary's tokens to make the second's."""
    return VocabularyChange(
        added=[token for token in sorted(now, key=now.__getitem__) if token not in before],
        removed=[token for token in sorted(before, key=before.__getitem__) if token not in now],
        moved=[token for token in sorted(now, key=now.__getitem__) if before.get(token, now[token]) != now[token]],
    )
