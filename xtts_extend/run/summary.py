"""The summary that is logged when a run starts or resumes: rows, parameters, samples, batches and limits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import values
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
    """Log a summary of a run before it trains.

    Args:
        model: The run's model, with its weights loaded and prepared for training.
        config: The run's configuration.
        train_samples: Training samples.
        eval_samples: Validation set.
        ranks: The run's processes.
        checkpoint: The checkpoint that the run resumes from; None for a new run.
    """
    logger.info(model.describe_rows(f"init: {config.init}" if checkpoint is None else "as in the checkpoint"))
    logger.info(describe_run(config, train_samples, eval_samples, ranks.size))
    if checkpoint is None or checkpoint.record is None or not ranks.is_main:
        return
    if changed := describe_processes(checkpoint.processes, config, ranks.size):
        logger.warning(changed)


def describe_run(
    config: NewLanguageConfig, train_samples: Sequence[Sample], eval_samples: Sequence[Sample], processes: int
) -> str:
    """Return the samples, batches and limits of a run as log lines.

    Args:
        config: The run's configuration.
        train_samples: Training samples.
        eval_samples: Validation set.
        processes: Number of processes that train together.
    """
    over = f" across {processes} processes" if processes > 1 else ""
    replayed = sum(values(train_samples, "replay"))
    limits = [f"{config.epochs} epochs"]
    limits += [f"{config.max_steps} steps"] if config.max_steps else []
    accumulated = "1 batch" if config.grad_accum_steps == 1 else f"{config.grad_accum_steps} batches"
    lines = [
        f"{len(train_samples):,} training samples{f' ({replayed:,} of them replayed)' if replayed else ''}, "
        f"{len(eval_samples):,} validation samples.",
        f"Training in {_batches(config, processes)}{over}, with {accumulated} per optimizer step "
        f"and a learning rate of {config.lr:.3g}, for at most {' or '.join(limits)}.",
    ]
    return "\n".join(f" > {line}" for line in lines)


def _batches(config: NewLanguageConfig, processes: int) -> str:
    """Return the total batch size across all processes, in words."""
    frames = config.batch_frames
    if frames is None:
        return f"batches of {config.batch_size * processes}"
    return f"batches of up to {frames * processes:,} frames" if frames else "batches as large as memory allows"


def describe_processes(before: int, config: NewLanguageConfig, processes: int) -> str:
    """Return a warning about a changed number of processes, or an empty string if it has not changed.

    Args:
        before: Number of processes when the checkpoint was written.
        config: Configuration of the resumed run, with the batch size per process.
        processes: Number of processes now.
    """
    if before == processes:
        return ""
    return (
        f" > The number of processes has changed from {before} to {processes}; each now has {_batches(config, 1)}. "
        "Every step still sees the same samples, but dropout and rounding differ, so the resumed run will not be "
        "bit-for-bit identical."
    )


@contextlib.contextmanager
def hide_stock_parameter_count() -> Iterator[None]:
    """Suppress the stock Trainer's log line "Model has N parameters".

    That number counts the GPT, the DVAE and the vocoder together but omits frozen rows.
    `ExtendedGPTTrainer.describe_rows` reports them separately.
    """

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("\n > Model has ")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
