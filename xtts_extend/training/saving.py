"""When a trainer's checkpoints are written, under which names; one write goes on in the background."""

from __future__ import annotations

import logging
from typing import Any

from xtts_extend.checkpoint.background import BackgroundWriter, snapshot
from xtts_extend.checkpoint.store import save_again, save_step
from xtts_extend.training.restore import checkpoint_state

logger = logging.getLogger("trainer")


class Saver:
    """Writes what a trainer is at, between two optimizer steps.

    Args:
        trainer: with model, optimizer, position, metrics and run folder in place when something is saved.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.writer = BackgroundWriter()
        #: The step of the newest checkpoint, and that of the best model; -1 for none.
        self.step = 0
        self.best_step = -1

    def checkpoint(self) -> None:
        """Write `checkpoint_N.pth`, N the finished batches, and remove old ones beyond `save_n_checkpoints`."""
        step = self.trainer.position.step
        self._save(f"checkpoint_{step}.pth")
        self.step = step

    def best_model(self) -> None:
        """Write `best_model_N.pth`."""
        step = self.trainer.position.step
        self._save(f"best_model_{step}.pth")
        self.best_step = step

    def finish(self) -> None:
        """Write the last completed step, if it is not written yet, and wait until it is on the disk."""
        if self.step != self.trainer.position.step:
            self.checkpoint()
        self.writer.wait()
        self.trainer.ranks.wait()

    def _save(self, name: str) -> None:
        """Copy the state and write it in the background; what the metrics hold by now is on the disk before."""
        trainer = self.trainer
        trainer.read_losses()
        trainer.metrics.flush()
        trainer.dashboard_logger.flush()
        if not trainer.ranks.is_main:
            return
        logger.info(" > %s : %s", "BEST MODEL" if "best" in name else "CHECKPOINT", trainer.output_path / name)
        # copied only when the one before is written: at most one copy at a time
        self.writer.wait()
        keep = trainer.config.save_n_checkpoints
        if self.best_step == trainer.position.step:
            # the best model was written at this very step: the same content under a second name
            self.writer.submit(save_again, trainer.output_path, f"best_model_{self.best_step}.pth", name, keep)
        else:
            self.writer.submit(save_step, snapshot(checkpoint_state(trainer)), trainer.output_path, name, keep)
