"""The processes of a run: one, or several that torchrun started, which train one model together."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from xtts_extend.errors import ConfigError

T = TypeVar("T")
logger = logging.getLogger("trainer")
#: Longer than rank 0 takes to encode any corpus while the others wait; torchrun itself sees a process that died.
_LONGEST_WAIT = datetime.timedelta(days=7)


class Ranks:
    """This process's place among `size` processes, and what they tell each other; with one of them nothing is sent.

    Args:
        rank, size: see below.
        opened: the process group that waits for slow work, where there are several.

    Attributes:
        rank: this process's number, from 0; rank 0 writes all files.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, opened: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._patient = rank, size, opened

    @classmethod
    @contextlib.contextmanager
    def join(cls) -> Iterator[Ranks]:
        """Join the processes that torchrun started (by its environment), or be the only one.

        Each takes one GPU, if there are any: before CUDA is initialised.

        Raises:
            ConfigError: there are fewer GPUs than processes.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            yield cls()
            return
        rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        # asked of the driver's management library: CUDA reads the variable once, at the first question to itself
        gpus = torch.cuda.device_count()
        if gpus:
            if local >= gpus:
                raise ConfigError(
                    f"Process {local + 1} of this machine has no GPU: {gpus} are visible, and each process uses one. "
                    f"Give --nproc_per_node {gpus}."
                )
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[local] if visible else str(local)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        opened = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        if rank:
            logger.setLevel(logging.WARNING)
        try:
            yield cls(rank, size, opened)
        finally:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and the log."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The values summed over all processes, in double precision."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        return self.sum([float(value)])[0] > 0

    def from_main(self, value: T) -> T:
        """Rank 0's value, in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier(group=self._patient)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """A block that rank 0 runs before the others, for example to fill a cache that they read."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()
