"""How many of how many, how fast, and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f}/s")


def with_progress(items: Sequence[T], what: str, enabled: bool = True) -> Iterator[T]:
    """Pass the items on; on a terminal with a bar on stderr, elsewhere with a line at the end."""
    if not enabled:
        yield from items
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, description=what)
    seconds = time.monotonic() - began
    console.print(f"{what}: {len(items)} in {seconds:.0f} s", highlight=False)
