"""What a run is made of while it trains: one typed value in the place of the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.optim.lr_scheduler import LRScheduler
from trainer import Trainer

from xtts_extend.data.sample import Sample
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.position import Position
from xtts_extend.run.ranks import Ranks
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary
from xtts_extend.training.randomness import seed_all


@dataclass
class RunState:
    """See the module.

    Attributes:
        config: of the run.
        model: its weights, and which of them train.
        optimizer: of what trains.
        scheduler: of the learning rate; None without one.
        scaler: of the loss in fp16; None without one.
        vocabulary: of the run.
        train_samples, eval_samples: of the run, encoded.
        ranks: the processes that train together.
        accumulate: batches per update.
        position: where the run is.
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
        """The state of a trainer whose optimizer and scheduler are made."""
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

    @property
    def learning_rate(self) -> float:
        """Of the next update, in the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def is_out_of_patience(self) -> bool:
        """Whether so many evaluations in a row found no better model that the run ends."""
        patience = self.config.patience
        return patience is not None and self.position.evaluations_without_best >= patience

    @property
    def is_finished(self) -> bool:
        """Whether a limit is reached before the last epoch."""
        limit = self.config.max_steps
        return self.is_out_of_patience or (limit is not None and self.position.step >= limit)

    def seed(self, purpose: str, step: int) -> None:
        """Seed all generators for what this process does at a step."""
        seed_all(self.config.training_seed, purpose, step, self.ranks.rank)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass, in the precision of the run, as coqui's Trainer computes in it."""
        # a CPU computes fp16 as bf16
        half = self.device.type == "cuda" and self.config.precision == "fp16"
        dtype = torch.float16 if half else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.config.mixed_precision)

    @property
    def device(self) -> torch.device:
        """Where the model trains."""
        return next(self.model.xtts.gpt.parameters()).device
