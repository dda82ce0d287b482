"""Fixtures for all tests."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from filelock import FileLock

from xtts_extend import cli, notices
from xtts_extend.commands import inspect_path
from xtts_extend.environment import IGNORE_VARIABLE

# Must be set before torch is imported. Otherwise each pytest-xdist worker starts one thread per core, and the workers'
# threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The imports of all test modules create objects that stay; searching them for garbage takes seconds.
gc.disable()

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _say_again() -> None:
    """Show warnings that are shown once per process once per test."""
    notices._logged.clear()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real-world test data; tests that need it are skipped if it is missing."""
    folder = Path(os.environ.get("XTTS_EXTEND_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"There is no test data in {folder}. Set XTTS_EXTEND_TEST_DATA.")
    return folder


@pytest.fixture(autouse=True)
def nothing_is_said_of_ignored_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the environment check if conflicts are ignored, so that its warnings do not appear in tested output."""
    if IGNORE_VARIABLE in os.environ:
        for module in (cli, inspect_path):
            monkeypatch.setattr(module, "require_environment", lambda: None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that fills a named folder once and returns it; all pytest-xdist workers share the folder."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, complete = shared / name, shared / f"{name}.complete"
        with FileLock(shared / f"{name}.lock"):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                complete.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def mini_base(made_once) -> Path:
    """An untrained base model of 2 layers × 64 channels that generates short audio; read-only."""
    import torch

    from xtts_extend.demo.mini_base import make_mini_base

    def fill(folder: Path) -> None:
        base = make_mini_base(folder / "mini", layers=2, channels=64, heads=2)
        content = torch.load(base / "model.pth", weights_only=True)
        content["model"]["gpt.mel_head.bias"][-1] += 4
        torch.save(content, base / "model.pth")

    return made_once("base", fill) / "mini"


@pytest.fixture(scope="session")
def corpus(mini_base, made_once):
    """A small corpus in a new language with its vocabulary, as `runs.Corpus`."""
    pytest.importorskip("espeakng_loader", reason="speech for training needs the extra 'demo'")
    from runs import Corpus

    from xtts_extend.demo.speech import make_corpus
    from xtts_extend.demo.texts import sentences
    from xtts_extend.text.extend import extend_vocabulary

    def fill(folder: Path) -> None:
        amharic = sentences("am", 16)
        lines = make_corpus(amharic, "am", folder / "am", progress=False).read_text(encoding="utf-8").splitlines(True)
        (folder / "am" / "train.csv").write_text("".join(lines[:13]), encoding="utf-8")
        (folder / "am" / "val.csv").write_text("".join(lines[:1] + lines[13:]), encoding="utf-8")
        make_corpus(sentences("en", 3), "en", folder / "en", progress=False)
        (folder / "am.txt").write_text("\n".join(amharic), encoding="utf-8")
        extend_vocabulary(mini_base / "vocab.json", "am", folder / "vocab.json", texts=[folder / "am.txt"], size=150)

    return Corpus(mini_base, made_once("ንግግር corpus", fill))


@pytest.fixture(scope="session")
def recipe() -> Callable[[Iterable[object]], None]:
    """The recipe's `main` in this process; flags may be paths and numbers."""
    from runs import RECIPE

    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda flags: module.main([str(flag) for flag in flags])


@pytest.fixture(scope="session")
def run_once(corpus, recipe, made_once) -> Callable[..., Path]:
    """A function that returns the named run of some flags, trained once for all tests; read-only."""
    from runs import only_run

    def run(name: str, **flags: object) -> Path:
        return only_run(made_once(name, lambda folder: recipe(corpus.flags(output_dir=folder, **flags))))

    return run


@pytest.fixture(scope="session")
def short_run(run_once) -> Path:
    """A run that stopped after four of twelve steps; read-only."""
    return run_once("short", max_steps=4, val_manifest=None)


@pytest.fixture(scope="session")
def two_steps(run_once) -> Path:
    """A run of two steps that was evaluated before the first one; read-only."""
    return run_once("two steps", max_steps=2)


@pytest.fixture(scope="session")
def stock_file(corpus, made_once) -> Path:
    """`checkpoint_4.pth` of coqui's Trainer, started from the base with random rows for new tokens; read-only."""
    from runs import stock_run_once

    return stock_run_once(made_once, "stock", corpus, from_base="stock")


@pytest.fixture(scope="session")
def healthy_stock(corpus, made_once) -> Path:
    """A checkpoint of coqui's Trainer whose new rows started at the mean, at a low learning rate; read-only.

    The learning rate was given on the command line.
    """
    from runs import stock_run_once

    return stock_run_once(made_once, "healthy stock", corpus, command_line=["--coqpit.lr", "1e-5"])


@pytest.fixture(scope="session")
def uninterrupted(run_once) -> Path:
    """A run of two epochs without interruption, the reference for resumed runs; read-only."""
    from runs import UNINTERRUPTED

    return run_once("uninterrupted", **UNINTERRUPTED)


@pytest.fixture(scope="session")
def trainer_of(recipe):
    """A function that returns the recipe's trainer for some flags, before training."""
    from xtts_extend.training.trainer import ResumableTrainer

    def make(flags):
        trainers = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ResumableTrainer, "fit", lambda trainer: trainers.append(trainer))
            recipe(flags)
        (trainer,) = trainers
        return trainer

    return make


@pytest.fixture
def fails(recipe, capsys):
    """A function that runs the recipe, requires it to fail, and returns exit code and stderr."""

    def call(flags):
        with pytest.raises(SystemExit) as caught:
            recipe(flags)
        return caught.value.code, capsys.readouterr().err

    return call


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hugging Face Hub whose address is set in HF_ENDPOINT. The user is not logged in.

    huggingface_hub does not wait before it tries again.
    """
    from fake_hub import fake_hub
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    # The fake hub stores large files itself.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # Interrupted downloads keep whole chunks.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(file_download, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with fake_hub() as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        yield started


def pytest_collection_finish() -> None:
    """Start garbage collection, but exclude all objects that exist after the imports, which saves time."""
    gc.collect()
    gc.freeze()
    gc.enable()
