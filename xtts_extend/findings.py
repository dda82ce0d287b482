"""What a check found, as a line for a person and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_MARKS = {True: "ok  ", False: "FAIL", None: "note"}


@dataclass(frozen=True)
class Finding:
    """An assumption, what was found, and whether it holds (None: worth knowing, not judged)."""

    assumption: str
    found: str
    holds: bool | None

    def describe(self) -> str:
        """One line, with a mark in front."""
        return f"{_MARKS[self.holds]}  {self.assumption}: {self.found}"


def all_hold(findings: Iterable[Finding]) -> bool:
    """Whether no assumption fails."""
    return not any(finding.holds is False for finding in findings)


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """The findings as plain values, for JSON; `ok` when every assumption holds."""
    return {"ok": all_hold(findings), "findings": [asdict(finding) for finding in findings]}


def summary(findings: list[Finding]) -> str:
    """How many of the assumptions that are judged hold."""
    judged = [finding.holds for finding in findings if finding.holds is not None]
    return f"{judged.count(True)} of {len(judged)} assumptions hold"
