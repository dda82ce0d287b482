"""The folder that a run writes to: made or taken up again, held by one process, and put in order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from xtts_extend.checkpoint.store import lock_run, make_run_folder, move_later_checkpoints, remove_leftovers
from xtts_extend.files import atomic_path, atomic_write
from xtts_extend.text.vocabulary import load_vocabulary

#: Folder of a run with its test sentences, as STEP-NUMBER-LANG.wav.
SAMPLES = "samples"


class RunFolder:
    """A run folder, held by this process until `release`.

    Nothing but the lock is written into the folder of a run that goes on before `prepare`.

    Args:
        run: the folder of a run that goes on; None for a new one.
        output_dir: where new ones are made.
        run_name: begins the name of a new one.
        is_main: this process writes; the others, whose files do not count, get a temporary folder.

    Attributes:
        path: the folder; of processes that do not write, `scratch`.
        scratch: a temporary folder for what is written before a start has succeeded.
        is_new: this run made it.

    Raises:
        ConfigError: another process trains in it, or there can be no folder.
        MachineError: it cannot be made.
    """

    def __init__(self, run: Path | None, output_dir: Path, run_name: str, *, is_main: bool) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="xtts_extend-")
        self.path = self.scratch = Path(self._scratch.name)
        self.is_new = run is None
        if is_main:
            self.path = run or make_run_folder(output_dir, run_name)
            self._lock = lock_run(self.path)

    def prepare(self, vocabulary: Path, step: int) -> None:
        """Remove what a killed process left, set later checkpoints aside, take configuration and vocabulary along."""
        remove_leftovers(self.path)
        move_later_checkpoints(self.path, step)
        if self.path != self.scratch:
            with atomic_path(self.path / "config.json") as copy:
                shutil.copyfile(self.scratch / "config.json", copy)
        if vocabulary.absolute() != self.path / "vocab.json":
            with atomic_write(self.path / "vocab.json") as file:
                file.write(load_vocabulary(vocabulary).content.encode())

    def discard(self) -> None:
        """Remove the folder if this run made it."""
        self.release()
        if self.is_new and self.path != self.scratch:
            shutil.rmtree(self.path, ignore_errors=True)

    def release(self) -> None:
        """Let another process train in it."""
        if hasattr(self, "_lock"):
            self._lock.release()
        self._scratch.cleanup()
