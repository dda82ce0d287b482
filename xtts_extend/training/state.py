"""The state of a run in training: a typed value that is passed around instead of the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch.optim.lr_scheduler import LRScheduler
from trainer import Trainer

from xtts_extend.data.sample import Sample
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.position import Position
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.record import TrainedOn
from xtts_extend.setup.samples import data_digest
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary
from xtts_extend.training.randomness import seed_all


@dataclass
class RunState:
    """The model, optimizer, data and position of a run in training.

    Attributes:
        config: The run's configuration.
        model: The model being trained, including its frozen parts.
        optimizer: The optimizer for the trained parameters.
        scheduler: The learning rate scheduler, or None.
        scaler: The loss scaler for fp16, or None.
        vocabulary: The run's vocabulary.
        train_samples, eval_samples: The encoded training and validation sets.
        ranks: The processes that train together.
        accumulate: Number of batches per optimizer step.
        position: The run's position in training.
    """

    config: NewLanguageConfig
    model: ExtendedGPTTrainer
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None
    scaler: torch.GradScaler | None
    vocabulary: Vocabulary
    train_samples: Sequence[Sample]
    eval_samples: Sequence[Sample]
    ranks: Ranks
    accumulate: int
    position: Position = field(default_factory=Position)

    @classmethod
    def of(cls, trainer: Trainer, ranks: Ranks) -> RunState:
        """Return the state of a trainer. Its optimizer and scheduler must already exist."""
        (optimizer,), (scheduler,) = trainer.optimizer, trainer.scheduler
        return cls(
            config=trainer.config,
            model=trainer.model,
            optimizer=optimizer,
            scheduler=scheduler,
            scaler=trainer.scaler,
            vocabulary=load_vocabulary(trainer.config.model_args.tokenizer_file, quiet=True),
            train_samples=trainer.train_samples or [],
            eval_samples=trainer.eval_samples or [],
            ranks=ranks,
            accumulate=trainer.grad_accum_steps,
        )

    # Every checkpoint records the next three. They take seconds with a million samples.
    @cached_property
    def train_digest(self) -> str:
        """Digest of the training set."""
        return data_digest(self.train_samples)

    @cached_property
    def eval_digest(self) -> str:
        """Digest of the validation set."""
        return data_digest(self.eval_samples)

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Summary of the training set."""
        return TrainedOn.of(self.train_samples, self.config.language, self.model.xtts.tokenizer.encode)

    @property
    def learning_rate(self) -> float:
        """The learning rate for the next optimizer step, in the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def is_out_of_patience(self) -> bool:
        """Whether `patience` evaluations in a row found no better model."""
        patience = self.config.patience
        return patience is not None and self.position.evaluations_without_best >= patience

    @property
    def is_finished(self) -> bool:
        """Whether `max_steps` or `patience` ends the run."""
        limit = self.config.max_steps
        return self.is_out_of_patience or (limit is not None and self.position.step >= limit)

    def is_complete(self, batches: int) -> bool:
        """Return whether nothing is left to do, given the number of batches per epoch."""
        epochs_done = self.position.epoch + (self.position.batch == batches)
        has_ended = self.is_finished or epochs_done >= self.config.epochs
        return has_ended and not self.position.evaluation_due

    def seed(self, purpose: str, step: int) -> None:
        """Seed all of this process's random number generators for a step and a purpose, such as "train"."""
        seed_all(self.config.training_seed, purpose, step, self.ranks.rank)

    def autocast(self) -> torch.autocast:
        """Return an autocast context with the run's precision, as coqui's Trainer uses it."""
        # CPUs use bf16 in place of fp16.
        half = self.device.type == "cuda" and self.config.precision == "fp16"
        dtype = torch.float16 if half else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.config.mixed_precision)

    @property
    def device(self) -> torch.device:
        """The device on which the model is trained."""
        return next(self.model.xtts.gpt.parameters()).device
