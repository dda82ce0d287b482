"""Save checkpoints in the background, one at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xtts_extend.checkpoint.background import BackgroundWriter, snapshot
from xtts_extend.checkpoint.names import CheckpointName
from xtts_extend.checkpoint.store import save_second_name, save_step
from xtts_extend.training.reporting import StatusReport
from xtts_extend.training.restore import checkpoint_state
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")


class Saver:
    """Writer of a run's checkpoints and best models. Use it only between optimizer steps.

    Args:
        run: The run folder.
        flush: Function that flushes the log and the metrics to disk; called before each write.
        status: The status report to update with the phase and the newest checkpoint.
    """

    def __init__(self, run: Path, flush: Callable[[], None], status: StatusReport) -> None:
        self._run, self._flush, self._status = run, flush, status
        self.writer = BackgroundWriter()
        #: Steps of the newest checkpoint and the best model; -1 if there is none.
        self.step = 0
        self.best_step = -1

    def resume(self, step: int, checkpoint: Path | None) -> None:
        """Continue after a step, and record its checkpoint if the run folder has one."""
        self.step = -1 if checkpoint is None else step
        self._status.last_checkpoint = checkpoint

    def checkpoint(self, state: RunState) -> None:
        """Write `checkpoint_N.pth` after N batches, and remove the oldest checkpoints beyond `save_n_checkpoints`."""
        step = state.position.step
        self._save(state, CheckpointName("checkpoint", step))
        self.step = step

    def best_model(self, state: RunState) -> None:
        """Write `best_model_N.pth` after N completed batches."""
        step = state.position.step
        self._save(state, CheckpointName("best_model", step))
        self.best_step = step

    def finish(self, state: RunState) -> None:
        """Write a checkpoint of the last completed step if it is missing, and wait until it is on disk."""
        with self._status.phase("saving"):
            if self.step != state.position.step:
                self.checkpoint(state)
            self.writer.wait()
            state.ranks.wait()

    def _save(self, state: RunState, name: CheckpointName) -> None:
        """Copy the state and write the copy in the background."""
        with self._status.phase("saving"):
            self._flush()
            if not state.ranks.is_main:
                return
            file, keep = self._run / str(name), state.config.save_n_checkpoints
            logger.info(" > %s : %s", "BEST MODEL" if name.kind == "best_model" else "CHECKPOINT", file)
            # Wait for the previous write, so that there is at most one copy in memory.
            self.writer.wait()
            if self.best_step == state.position.step:
                # The best model of this step has the same content, so a second name for its file is enough.
                best = CheckpointName("best_model", self.best_step)
                self.writer.submit(self._write, name, save_second_name, self._run, str(best), str(name), keep)
            else:
                content = snapshot(checkpoint_state(state))
                self.writer.submit(self._write, name, save_step, content, self._run, str(name), keep)

    def _write(self, name: CheckpointName, write: Callable[..., None], *arguments: Any) -> None:
        """Write a checkpoint in the background, and report it once it is complete."""
        write(*arguments)
        if name.kind == "checkpoint":
            self._status.last_checkpoint = self._run / str(name)
