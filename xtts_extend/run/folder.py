"""The folder that a run writes to: creation, locking and cleanup."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from xtts_extend.checkpoint.store import lock_run, make_run_folder, move_later_checkpoints, remove_leftovers
from xtts_extend.files import atomic_path, atomic_write
from xtts_extend.text.vocabulary import load_vocabulary

#: Subfolder for a run's synthesized test sentences, in files named STEP-NUMBER-LANG.wav.
SAMPLES = "samples"


class RunFolder:
    """A run folder that this process keeps locked until `release` is called.

    Until `prepare` is called, only the lock file is written to the folder of a resumed run.

    Args:
        run: Folder of the run to resume; None to create a new one.
        output_dir: Folder in which a new run folder is created.
        run_name: Prefix of a new folder's name.
        is_main: Whether this process writes the run's files. Other processes use a temporary folder.

    Attributes:
        path: The run folder, or `scratch` in processes that do not write.
        scratch: Temporary folder for files that are written before the run has started successfully.
        is_new: Whether this run created the folder.

    Raises:
        ConfigError: Another process is training in the folder, or `output_dir` or one of its parents is a file.
        MachineError: The folder cannot be created.
    """

    def __init__(self, run: Path | None, output_dir: Path, run_name: str, *, is_main: bool) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="xtts_extend-")
        self.path = self.scratch = Path(self._scratch.name)
        self.is_new = run is None
        if is_main:
            self.path = run or make_run_folder(output_dir, run_name)
            self._lock = lock_run(self.path)

    def prepare(self, vocabulary: Path, step: int) -> None:
        """Prepare the folder for training.

        Remove leftovers of killed processes, move later checkpoints aside, and copy the configuration and the
        vocabulary.

        Args:
            vocabulary: The run's vocabulary file.
            step: Step at which the run starts or resumes.
        """
        remove_leftovers(self.path)
        move_later_checkpoints(self.path, step)
        if self.path != self.scratch:
            with atomic_path(self.path / "config.json") as copy:
                shutil.copyfile(self.scratch / "config.json", copy)
        if vocabulary.absolute() != self.path / "vocab.json":
            with atomic_write(self.path / "vocab.json") as file:
                file.write(load_vocabulary(vocabulary).content.encode())

    def discard(self) -> None:
        """Release the folder, and remove it if this run created it."""
        self.release()
        if self.is_new and self.path != self.scratch:
            shutil.rmtree(self.path, ignore_errors=True)

    def release(self) -> None:
        """Unlock the folder and remove the temporary one."""
        if hasattr(self, "_lock"):
            self._lock.release()
        self._scratch.cleanup()
