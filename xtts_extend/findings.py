"""Results of a check, formatted as lines of text or as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_STATUSES = {True: "ok  ", False: "FAIL", None: "note"}


@dataclass(frozen=True)
class Finding:
    """An assumption, what the check found, and whether the assumption holds (None if it is for information only)."""

    assumption: str
    found: str
    holds: bool | None

    def describe(self) -> str:
        """Return the finding as one line that starts with its status."""
        return f"{_STATUSES[self.holds]}  {self.assumption}: {self.found}"


def all_hold(findings: Iterable[Finding]) -> bool:
    """Return True unless an assumption fails."""
    return not any(finding.holds is False for finding in findings)


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as plain values for JSON; `ok` is True if no assumption fails."""
    return {"ok": all_hold(findings), "findings": [asdict(finding) for finding in findings]}


def summary(findings: list[Finding]) -> str:
    """Return a sentence that says how many checks passed, not counting findings that are for information only."""
    judged = [finding.holds for finding in findings if finding.holds is not None]
    return f"{judged.count(True)} of {len(judged)} checks passed."
