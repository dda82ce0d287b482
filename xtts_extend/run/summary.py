"""What the log says at a start and at a resume: rows, parameters, samples, batches, and how far the run goes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from xtts_extend.data.sample import Sample
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.recorded import TrainingCheckpoint

logger = logging.getLogger("trainer")


def log_run_summary(
    model: ExtendedGPTTrainer,
    config: NewLanguageConfig,
    train_samples: Sequence[Sample],
    eval_samples: Sequence[Sample],
    ranks: Ranks,
    checkpoint: TrainingCheckpoint | None,
) -> None:
    """Log what a run is about to do.

    Args:
        model: its base loaded or its rows frozen, and equipped.
        config, train_samples, eval_samples, ranks: of the run.
        checkpoint: that is resumed; None at a start.
    """
    logger.info(model.describe_rows(f"start: {config.init}" if checkpoint is None else "as in the checkpoint"))
    logger.info(describe_run(config, train_samples, eval_samples, ranks.size))
    if checkpoint is None or checkpoint.record is None or not ranks.is_main:
        return
    if changed := describe_processes(checkpoint.processes, config, ranks.size):
        logger.warning(changed)


def describe_run(
    config: NewLanguageConfig, train_samples: Sequence[Sample], eval_samples: Sequence[Sample], processes: int
) -> str:
    """Samples, batches and limits of a run, as lines of the log.

    Args:
        config: of the run.
        train_samples, eval_samples: of the run.
        processes: how many train together.
    """
    shared = f" over {processes} processes" if processes > 1 else ""
    replayed = sum(sample.replay for sample in train_samples)
    until = [f"{config.epochs} epochs"]
    until += [f"step {config.max_steps}"] if config.max_steps else []
    lines = [
        f"{len(train_samples)} training samples{f' ({replayed} of them replay)' if replayed else ''}, "
        f"{len(eval_samples)} evaluation samples",
        f"{_batches(config, processes)}{shared} · {config.grad_accum_steps} per optimizer step · "
        f"learning rate {config.lr:.3g} · until {' or '.join(until)}",
    ]
    return "\n".join(f" > {line}" for line in lines)


def _batches(config: NewLanguageConfig, processes: int) -> str:
    """The batch of some processes together, in words."""
    frames = config.batch_frames
    if frames is None:
        return f"batches of {config.batch_size * processes}"
    return f"batches of up to {frames * processes} frames" if frames else "batches as large as memory allows"


def describe_processes(before: int, config: NewLanguageConfig, processes: int) -> str:
    """What another number of processes than before changes; empty when it is the same.

    Args:
        before: how many trained when the checkpoint was written.
        config: of the resumed run, with the batch of one process.
        processes: how many train now.
    """
    if before == processes:
        return ""
    return (
        f" > The number of processes changed from {before} to {processes}; each now has "
        f"{_batches(config, 1)}. Every step still sees the same samples, but dropout and rounding differ: the run does "
        "not continue bit for bit."
    )


@contextlib.contextmanager
def hide_stock_parameter_count() -> Iterator[None]:
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
