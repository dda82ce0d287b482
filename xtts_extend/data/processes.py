"""How several processes divide the preparation of data. `run.ranks.Ranks` connects them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Processes(Protocol):
    """Several processes that prepare the same data, on one machine or on several with a shared disk.

    Attributes:
        rank: Number of this process, starting at 0.
        size: Number of processes.
    """

    rank: int
    size: int

    def wait(self) -> None:
        """Wait until every process has called this, however long it takes."""

    def from_main(self, value: T) -> T:
        """Return rank 0's value in every process."""


class SingleProcess:
    """A process that prepares the data alone."""

    rank, size = 0, 1

    def wait(self) -> None:
        """Return at once."""

    def from_main(self, value: T) -> T:
        """Return the value."""
        return value


SINGLE_PROCESS = SingleProcess()


def is_own(processes: Processes, name: str) -> bool:
    """Return whether the work with a name, such as a digest, belongs to this process.

    Each name belongs to exactly one process. Which one depends only on the name and the number of processes.

    >>> is_own(SINGLE_PROCESS, "a.wav")
    True
    """
    return zlib.crc32(name.encode(errors="surrogatepass")) % processes.size == processes.rank


@contextmanager
def main_first(processes: Processes) -> Iterator[None]:
    """Run a block on rank 0 before the other ranks run it, for example to fill a cache that they read."""
    if processes.rank:
        processes.wait()
    yield
    if not processes.rank:
        processes.wait()
