"""Examples in docstrings run in a folder like a user's."""

from __future__ import annotations

import doctest
import importlib
import sys
from pathlib import Path

import pytest
from packs import make_pack

PACKAGE = Path(__file__).resolve().parents[1] / "xtts_extend"
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
}


@pytest.fixture
def user_folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the module's examples use.

    `XTTS`: a base model. `train.csv`, `val.csv`, `am.txt`: an Amharic corpus. `am/vocab.json`: its extended vocabulary.
    `runs/RUN`: a run of four steps. `am.safetensors`: a pack for Amharic, made for the base model.
    """
    source = MODULES[request.getfixturevalue("module")].read_text(encoding="utf-8")
    if any(name in source for name in ("XTTS", "am/vocab.json", "train.csv", "am.txt", "runs/RUN")):
        corpus = request.getfixturevalue("corpus")
        (tmp_path / "XTTS").symlink_to(corpus.base)
        (tmp_path / "am").mkdir()
        (tmp_path / "am" / "vocab.json").symlink_to(corpus.folder / "vocab.json")
        (tmp_path / "am.txt").symlink_to(corpus.folder / "am.txt")
        for file in [*(corpus.folder / "am").glob("*.csv"), corpus.folder / "am" / "wavs"]:
            (tmp_path / file.name).symlink_to(file)
    if "am.safetensors" in source:
        make_pack(request.getfixturevalue("mini_base"), "am", tmp_path / "am.safetensors")
    if "runs/RUN" in source:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "RUN").symlink_to(request.getfixturevalue("short_run"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, user_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examined = importlib.import_module(module)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder(exclude_empty=True).find(examined, globs={**vars(examined)}):
        runner.run(example, out=sys.stdout.write)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
    assert runner.tries > 0
