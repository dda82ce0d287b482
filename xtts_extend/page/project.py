"""A project: a folder whose files hold all of its data. The page and the command line see the same files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_extend.checkpoint.names import named_checkpoints
from xtts_extend.corpus.dataset_files import TRAIN_FILE, VALIDATION_FILE
from xtts_extend.data.columns import has_suffix
from xtts_extend.data.paths import FOLDERS
from xtts_extend.errors import ConfigError, MachineError, XttsExtendError
from xtts_extend.files import atomic_write, require_creatable
from xtts_extend.pack.file import SUFFIX
from xtts_extend.page.listings import Entry, Listing, list_folder
from xtts_extend.page.run_view import view_run
from xtts_extend.text.languages import language_tag, validate_code
from xtts_extend.text.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from xtts_extend.page.jobs import Job

SETTINGS = "project.json"
DATA, PREPARED, VOICES, VOCABULARIES, RUNS, MODELS = "data", "prepared", "voices", "vocabularies", "runs", "models"
RECORDINGS, COMPARED, JOBS = "recordings", "compared", "jobs"
FOLDERS_OF_PROJECT = (RECORDINGS, DATA, PREPARED, VOICES, VOCABULARIES, RUNS, MODELS, COMPARED, JOBS)
#: The file in `DATA` that `corrections.py` reads and writes.
CORRECTIONS = "corrections.jsonl"
#: The folder in `DATA` that make-dataset writes. Besides manifests, it has tables that are none.
DATASET = "dataset"
#: File extensions of manifests and text files.
TEXTS = (".csv", ".tsv", ".psv", ".txt", ".lst", ".list", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow")
_BASE_FILES = ("config.json", "model.pth")
_MODEL_FILES = (*_BASE_FILES, "vocab.json")


@dataclass(frozen=True)
class Settings:
    """The content of `project.json`; an empty string means that nothing has been chosen yet.

    Attributes:
        language: Code of the language to learn.
        base_dir: Absolute path of the base model's folder.
    """

    language: str = ""
    base_dir: str = ""


@dataclass(frozen=True)
class NextStep:
    """The next step in a project.

    Attributes:
        sentence: What to do.
        screen: Where to do it: the name of a tab, such as "Data".
    """

    sentence: str
    screen: str


@dataclass(frozen=True)
class Project:
    """A project, as this module describes it.

    Attributes:
        folder: Absolute path.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, base_dir: Path | None = None) -> Project:
        """Open a project, and create whatever is missing in its folder.

        Args:
            folder: A project, an empty folder, or one that does not exist yet.
            base_dir: Base model's folder, to be recorded in the settings.

        Raises:
            ConfigError: `folder` is a file or not a project, `base_dir` is not a base model, or the settings are
                damaged.
            MachineError: The folder cannot be written to.
        """
        folder = folder.expanduser().absolute()
        require_creatable(folder)
        project = cls(folder)
        try:
            names = {path.name for path in folder.iterdir()} if folder.exists() else set()
            is_ours = SETTINGS in names or not names.isdisjoint(FOLDERS_OF_PROJECT)
            if not is_ours and any(not name.startswith(".") for name in names):
                raise ConfigError(
                    f"{folder} is not empty and is not a project: it has no {SETTINGS} and none of the folders "
                    f"{', '.join(FOLDERS_OF_PROJECT)}. Pass a new folder."
                )
            for name in FOLDERS_OF_PROJECT:
                if not (folder / name).is_dir():
                    (folder / name).mkdir(parents=True)
        except FileExistsError as error:
            raise ConfigError(
                f"{error.filename} is not a folder, but the project needs a folder with that name. Rename it."
            ) from error
        except OSError as error:
            raise MachineError(
                f"The project {folder} cannot be opened: {error.strerror}. Free disk space, make the folder "
                "writable, or pass a different folder."
            ) from error
        settings = project.settings
        if base_dir is not None:
            project.save(Settings(settings.language, str(_require_base(base_dir))))
        elif not (folder / SETTINGS).exists():
            project.save(settings)
        return project

    @property
    def settings(self) -> Settings:
        """The settings.

        Raises:
            ConfigError: The file is damaged or cannot be read.
        """
        file = self.folder / SETTINGS
        try:
            content = json.loads(file.read_bytes())
            values = {name: content.get(name) or "" for name in ("language", "base_dir")}
            if not all(isinstance(value, str) for value in values.values()):
                raise TypeError("language and base_dir must be strings")
            language = validate_code(values["language"]) if values["language"] else ""
            return Settings(language, values["base_dir"])
        except FileNotFoundError:
            return Settings()
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, XttsExtendError) as error:
            raise ConfigError(
                f"{file} is damaged: {error}. Correct it or delete it. It contains only the language and the path of "
                "the base model, which can be chosen again."
            ) from error

    def save(self, settings: Settings) -> None:
        """Write the settings.

        Raises:
            LanguageError: The language is malformed.
            MachineError: The file cannot be written.
        """
        if settings.language:
            validate_code(settings.language)
        with atomic_write(self.folder / SETTINGS) as file:
            file.write(json.dumps(asdict(settings), ensure_ascii=False, indent=2).encode())

    def manifests(self) -> Listing:
        """Return the manifests and text files in `data` and its subfolders."""
        data = self.folder / DATA

        def is_text(path: Path) -> str | None:
            return "" if path.suffix.lower() in TEXTS and path.name != CORRECTIONS and path.is_file() else None

        def is_split(path: Path) -> str | None:
            return is_text(path) if path.name in (TRAIN_FILE, VALIDATION_FILE) else None

        found = list_folder(data, is_text)
        for folder in list_folder(data, lambda path: "" if path.is_dir() and path.name not in FOLDERS else None):
            below = list_folder(folder.path, is_split if folder.name == DATASET else is_text, f"{folder.name}/")
            found.entries.extend(below.entries)
            found.skipped.extend(below.skipped)
        found.entries.sort(key=lambda entry: entry.name)
        return found

    def voices(self) -> Listing:
        """Return the recordings in `voices`."""
        return list_folder(self.folder / VOICES, lambda path: "" if has_suffix(path.name) and path.is_file() else None)

    def vocabularies(self) -> Listing:
        """Return the vocabularies that were made in the project."""
        return list_folder(
            self.folder / VOCABULARIES,
            lambda path: "" if path.suffix == ".json" and path.is_file() else None,
        )

    def runs(self) -> Listing:
        """Return the run folders: ours and the stock Trainer's."""

        def check(path: Path) -> str | None:
            if not path.is_dir():
                return None
            is_run = (path / "config.json").is_file() or any(named_checkpoints(path))
            return "" if is_run else "contains neither config.json nor a checkpoint, so it is not a run"

        return list_folder(self.folder / RUNS, check)

    def checkpoints(self, run: Path) -> Listing:
        """Return the checkpoints of a run, sorted by the steps in their names."""
        try:
            steps = {path: (name.step, name.kind) for path, name in named_checkpoints(run)}
        except OSError as error:
            return Listing([], [f"{run} cannot be read: {error.strerror}."])
        found = list_folder(run, lambda path: "" if path in steps else None)
        found.entries.sort(key=lambda entry: steps[entry.path])
        return found

    def models(self) -> Listing:
        """Return the model folders that were exported."""

        def check(path: Path) -> str | None:
            if not path.is_dir():
                return None
            missing = [name for name in _MODEL_FILES if not (path / name).is_file()]
            return f"is not a model folder, because it lacks {' and '.join(missing)}" if missing else ""

        return list_folder(self.folder / MODELS, check)

    def packs(self) -> Listing:
        """Return the language packs that were exported as files."""
        return list_folder(self.folder / MODELS, lambda path: "" if path.suffix == SUFFIX and path.is_file() else None)

    def bases(self) -> Listing:
        """Return the base models: the chosen one, and the project's folders with config.json and model.pth."""

        def check(path: Path) -> str | None:
            return "" if path.name not in FOLDERS_OF_PROJECT and _is_base(path) else None

        found = list_folder(self.folder, check)
        chosen = Path(self.settings.base_dir)
        if self.settings.base_dir and chosen not in [entry.path for entry in found]:
            problem = _base_problem(chosen)
            if problem:
                found.skipped.append(f"{chosen} {problem}.")
            else:
                found.entries.insert(0, Entry(str(chosen), chosen))
        return found

    def compared(self) -> Listing:
        """Return the comparisons."""
        return list_folder(self.folder / COMPARED, lambda path: "" if (path / "compared.json").is_file() else None)

    def jobs(self) -> list[Job]:
        """Return the jobs. See `jobs.jobs`."""
        from xtts_extend.page.jobs import jobs

        return jobs(self.folder)

    def speaks(self, vocabulary: Path) -> bool:
        """Return whether a vocabulary has the tag of the project's language."""
        try:
            return language_tag(self.settings.language) in load_vocabulary(vocabulary).tokens
        except XttsExtendError:
            return False

    def next_step(self) -> NextStep:
        """Return the next step: what to do, and on which screen."""
        try:
            return self._preparation() or self._training()
        except XttsExtendError as error:
            return NextStep(str(error), "Project")

    def _preparation(self) -> NextStep | None:
        """Return what is missing before training can start."""
        settings = self.settings
        if not settings.base_dir:
            return NextStep("Choose the folder of the base model, XTTS-v2.", "Project")
        base = Path(settings.base_dir)
        if problem := _base_problem(base):
            return NextStep(f"{base} {problem}. Choose the folder of the base model again.", "Project")
        if not settings.language:
            return NextStep("Choose the language to learn.", "Project")
        runs = self.runs()
        if not self.manifests().entries:
            if runs.entries:
                return None
            if list_folder(self.folder / RECORDINGS, lambda path: "").entries:
                return NextStep("Make a data set from your recordings.", "Recordings")
            return NextStep(
                "Add a manifest and its recordings, or add long recordings on the Recordings screen.", "Data"
            )
        if runs.entries:
            return None
        checks = sorted((job for job in self.jobs() if job.kind == "check-data"), key=lambda job: job.name)
        if checks and checks[-1].state == "failed":
            return NextStep("The last check found problems in the data. Correct them, then check again.", "Data")
        if not any(self.speaks(file) for file in (base / "vocab.json", *(one.path for one in self.vocabularies()))):
            return NextStep(f"Create a vocabulary with the letters of '{settings.language}'.", "Vocabulary")
        return None

    def _training(self) -> NextStep:
        """Return the next step once training can start."""
        # Run names begin with the start time; folders from older tools are sorted by modification time.
        runs = sorted(self.runs(), key=lambda entry: _time(entry.path))
        views = [view_run(entry.path) for entry in runs]
        if live := next((view for view in reversed(views) if view.is_live), None):
            return NextStep(f"{live.name} is training. Watch it and listen to its test sentences.", "Train")
        if any(job.kind == "train" and job.state in ("waiting", "running") for job in self.jobs()):
            return NextStep("Training is starting or waiting for the GPU.", "Train")
        if not views:
            return NextStep("Start training.", "Train")
        last = views[-1]
        exported = [entry.path for entry in (*self.models(), *self.packs())]
        if exported and max(map(_time, exported)) >= _time(last.folder):
            names = ", ".join(path.name for path in exported[:10])
            return NextStep(f"Exported: {names}. Compare with the base, and listen to the old languages.", "Compare")
        if last.phase == "finished":
            return NextStep(f"{last.name} is finished. Listen to it on the Compare screen, then export it.", "Export")
        if last.phase == "failed":
            return NextStep(f"{last.name} failed: {last.error} Resume it once that is fixed.", "Resume")
        return NextStep(f"{last.name} stopped at step {last.step:,}. Resume it, or export what it learned.", "Resume")


def _require_base(folder: Path) -> Path:
    """Return the absolute path of a base model's folder.

    Raises:
        ConfigError: It is not a base model's folder.
    """
    folder = folder.expanduser().absolute()
    if problem := _base_problem(folder):
        raise ConfigError(f"{folder} {problem}. Pass the folder of the base model, XTTS-v2.")
    return folder


def _is_base(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _BASE_FILES)


def _base_problem(folder: Path) -> str:
    """Return why a folder is not a base model, or an empty string."""
    try:
        if not folder.is_dir():
            return "is not a folder" if folder.exists() else "does not exist"
        missing = [name for name in _BASE_FILES if not (folder / name).is_file()]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return f"is not a base model, because it lacks {' and '.join(missing)}" if missing else ""


def _time(path: Path) -> float:
    """Return when a file or folder was last changed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
