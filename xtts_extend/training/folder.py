"""The folder that a run writes to: made or taken up again, held by one process, and put in order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from xtts_extend.checkpoint.store import lock_run, make_run_folder, remove_leftovers, set_aside_later
from xtts_extend.files import atomic_path


class RunFolder:
    """A run folder, held by this process until `release`.

    Args:
        run: the folder of a run that goes on; None for a new one.
        output_dir: where new ones are made.
        run_name: begins the name of a new one.
        is_main: this process writes; the others, whose files do not count, get a temporary folder.

    Raises:
        ConfigError: another process trains in it, or there can be no folder.
        MachineError: it cannot be made.
    """

    def __init__(self, run: Path | None, output_dir: Path, run_name: str, *, is_main: bool) -> None:
        if is_main:
            self.path = run or make_run_folder(output_dir, run_name)
            self._lock = lock_run(self.path)
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="xtts_extend-")
            self.path = Path(self._scratch.name)

    def prepare(self, vocabulary: Path, step: int) -> None:
        """Remove what a killed process left, set later checkpoints aside, and take the vocabulary along."""
        remove_leftovers(self.path)
        set_aside_later(self.path, step)
        if vocabulary.absolute() != self.path / "vocab.json":
            with atomic_path(self.path / "vocab.json") as copy:
                shutil.copyfile(vocabulary, copy)

    def release(self) -> None:
        """Let another process train in it."""
        if hasattr(self, "_lock"):
            self._lock.release()
