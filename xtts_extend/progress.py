"""Show progress as a bar on a terminal, or as a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
#: Seconds between two progress lines when the output is not a terminal.
REPORT_INTERVAL_S = 10.0


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.3g}/s")


def with_progress(items: Iterable[T], total: int, unit: str, enabled: bool = True) -> Iterator[T]:
    """Yield the items and show the count, rate and remaining time on standard error.

    Args:
        items: The items to yield.
        total: Number of items.
        unit: Plural name of the items, such as "recordings" in "12 of 30 recordings".
        enabled: Whether to show progress.
    """
    console = Console(stderr=True)
    if not enabled or not total:
        yield from items
    elif console.is_terminal:
        columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=total)
    else:
        started = last_report = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last_report >= REPORT_INTERVAL_S:
                rate = done / (now - started)
                left = (total - done) / rate
                print(f"{done} of {total} {unit}, {rate:.3g}/s, {left:.0f} s left", file=sys.stderr, flush=True)
                last_report = now
