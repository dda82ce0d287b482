"""The processes of a run: a single one, or several started by torchrun that train one model together."""

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
#: Timeout of `wait`, long enough for rank 0 to encode any corpus. torchrun detects processes that die.
_LONGEST_WAIT = datetime.timedelta(days=7)


class Ranks:
    """The rank of this process and its communication with the others. A single process sends nothing.

    Args:
        rank: Number of this process, starting at 0.
        size: Number of processes.
        slow_group: Process group with a long timeout, for `wait`; None for a single process.

    Attributes:
        rank: Number of this process, starting at 0. Rank 0 writes all files.
        size: Number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1, slow_group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._slow_group = rank, size, slow_group

    @classmethod
    @contextlib.contextmanager
    def join(cls) -> Iterator[Ranks]:
        """Join the processes that torchrun started, according to its environment variables, or run alone.

        Each process selects one GPU, if any are available. Call this before CUDA is initialized.

        Raises:
            ConfigError: There are fewer GPUs than processes.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            yield cls()
            return
        rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        # device_count() asks NVML and does not initialize CUDA, which reads CUDA_VISIBLE_DEVICES only once.
        gpus = torch.cuda.device_count()
        if gpus:
            if local >= gpus:
                raise ConfigError(
                    f"Process {local + 1} on this machine has no GPU: each process needs its own, and the number of "
                    f"visible GPUs is {gpus}. Pass --nproc_per_node {gpus} to torchrun."
                )
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[local] if visible else str(local)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        slow_group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        if rank:
            logger.setLevel(logging.WARNING)
        try:
            yield cls(rank, size, slow_group)
        finally:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files and the log."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the values summed over all processes, in double precision."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process."""
        return self.sum([float(value)])[0] > 0

    def from_main(self, value: T) -> T:
        """Return rank 0's value in every process."""
        if self.size == 1:
            return value
        box = [value]
        # Rank 0 may have to read a large set before it knows the value.
        dist.broadcast_object_list(box, group=self._slow_group)
        return box[0]

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.barrier(group=self._slow_group)
