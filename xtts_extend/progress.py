"""How many of how many, how fast, and the time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
REPORT_INTERVAL_S = 10.0


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.3g}/s")


def with_progress(items: Iterable[T], total: int, what: str, enabled: bool = True) -> Iterator[T]:
    """Pass the items on and show on stderr how far they have come.

    Args:
        items: `total` of them.
        total: how many.
        what: what they are, as in "12 of 30 recordings".
        enabled: show something at all.
    """
    console = Console(stderr=True)
    if not enabled or not total:
        yield from items
    elif console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=total)
    else:
        began = said = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - said >= REPORT_INTERVAL_S:
                rate = done / (now - began)
                left = (total - done) / rate
                print(f"{done} of {total} {what}, {rate:.3g}/s, {left:.0f} s left", file=sys.stderr, flush=True)
                said = now
