"""When the checkpoints of a run are written, under which names; one write goes on in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from xtts_extend.checkpoint.background import BackgroundWriter, snapshot
from xtts_extend.checkpoint.names import CheckpointName
from xtts_extend.checkpoint.store import save_second_name, save_step
from xtts_extend.training.restore import checkpoint_state
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")


class Saver:
    """Writes where a run is, between two optimizer steps.

    Args:
        run: the run folder.
        flush: puts what the run has measured by now on the disk; called before each write.
    """

    def __init__(self, run: Path, flush: Callable[[], None]) -> None:
        self._run, self._flush = run, flush
        self.writer = BackgroundWriter()
        #: The step of the newest checkpoint, and that of the best model; -1 for none.
        self.step = 0
        self.best_step = -1

    def checkpoint(self, state: RunState) -> None:
        """Write `checkpoint_N.pth`, N the finished batches, and remove old ones beyond `save_n_checkpoints`."""
        step = state.position.step
        self._save(state, CheckpointName("checkpoint", step))
        self.step = step

    def best_model(self, state: RunState) -> None:
        """Write `best_model_N.pth`."""
        step = state.position.step
        self._save(state, CheckpointName("best_model", step))
        self.best_step = step

    def finish(self, state: RunState) -> None:
        """Write the last completed step, if it is not written yet, and wait until it is on the disk."""
        if self.step != state.position.step:
            self.checkpoint(state)
        self.writer.wait()
        state.ranks.wait()

    def _save(self, state: RunState, name: CheckpointName) -> None:
        """Copy the state and write it in the background."""
        self._flush()
        if not state.ranks.is_main:
            return
        file, keep = self._run / str(name), state.config.save_n_checkpoints
        logger.info(" > %s : %s", "BEST MODEL" if name.kind == "best_model" else "CHECKPOINT", file)
        # copied only when the one before is written: at most one copy at a time
        self.writer.wait()
        if self.best_step == state.position.step:
            # the best model was written at this very step: the same content under a second name
            best = CheckpointName("best_model", self.best_step)
            self.writer.submit(save_second_name, self._run, str(best), str(name), keep)
        else:
            self.writer.submit(save_step, snapshot(checkpoint_state(state)), self._run, str(name), keep)
