"""What the log says at a start and at a resume: rows, parameters, samples, batches, and how far the run goes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

logger = logging.getLogger("trainer")


def describe_run(
    config: Any,
    train_samples: Sequence[Mapping[str, Any]],
    eval_samples: Sequence[Mapping[str, Any]],
    accumulate: int,
    processes: int,
) -> str:
    """Samples, batches and limits of a run, as lines of the log.

    Args:
        config: of the run.
        train_samples, eval_samples: of the run.
        accumulate: batches per optimizer step.
        processes: how many train together.
    """
    shared = f" over {processes} processes" if processes > 1 else ""
    replayed = sum(bool(sample.get("replay")) for sample in train_samples)
    until = [f"{config.epochs} epochs"]
    until += [f"step {config.max_steps}"] if getattr(config, "max_steps", None) else []
    lines = [
        f"{len(train_samples)} training samples{f' ({replayed} of them replay)' if replayed else ''}, "
        f"{len(eval_samples)} evaluation samples",
        f"{_batches(config, processes)}{shared} · {accumulate} per optimizer step · learning rate {config.lr:.3g} · "
        f"until {' or '.join(until)}",
    ]
    return "\n".join(f" > {line}" for line in lines)


def _batches(config: Any, processes: int) -> str:
    """The batch of some processes together, in words."""
    frames = getattr(config, "batch_frames", None)
    if frames is None:
        return f"batches of {config.batch_size * processes}"
    return f"batches of up to {frames * processes} frames" if frames else "batches as large as memory allows"


def describe_processes(content: Mapping[str, Any], config: Any, processes: int) -> str:
    """What another number of processes than before changes; empty when it is the same, or was not recorded.

    Args:
        content: of the checkpoint.
        config: of the resumed run, with the batch of one process.
        processes: how many train now.
    """
    before = content.get("xtts_extend", {}).get("processes", processes)
    if before == processes:
        return ""
    return (
        f" > The number of processes changed from {before} to {processes}; each now has "
        f"{_batches(config, 1)}. Every step still sees the same samples, but dropout and rounding differ: the run does "
        "not continue bit for bit."
    )


@contextlib.contextmanager
def without_stock_count() -> Iterator[None]:
    """Leave out stock's "Model has N parameters", which counts GPT, DVAE and vocoder together, without frozen rows.

    `ExtendedGPTTrainer.describe_rows` tells them apart.
    """

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("\n > Model has ")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
