"""The notebook is valid, its commands exist, and it goes from recordings to a pack, across a disconnect."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
from runs import only_run
from test_docs import unknown_in

from xtts_extend import cli
from xtts_extend.pack.file import Pack

NOTEBOOK = Path(__file__).parents[1] / "docs" / "colab.ipynb"
#: Tag of the cells that install, download and publish.
NEEDS_NETWORK = "needs-network"
#: Tag of the cell with the settings, after which other values can be set.
PARAMETERS = "parameters"
_COMMAND = re.compile(r"^( *)[!%](.+)$", re.MULTILINE)


def code_cells() -> list[dict]:
    """Return the notebook's code cells, each with its text as `source`."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [{**cell, "source": "".join(cell["source"])} for cell in content["cells"] if cell["cell_type"] == "code"]


def tags(cell: dict) -> list[str]:
    """Return a cell's tags."""
    return cell["metadata"].get("tags", [])


def as_python(source: str) -> str:
    """Return a cell as plain Python, in which `!` and `%` lines call `shell` with what IPython would run."""
    joined = source.replace("\\\n", " ")
    return _COMMAND.sub(lambda found: f"{found[1]}shell(f{found[2]!r})", joined)


@dataclass
class Session:
    """What a session of the notebook displayed, and which of its commands failed."""

    shown: list[object] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def shell(self, command: str) -> None:
        """Run an `xtts-extend` command in this process."""
        name, *arguments = shlex.split(command)
        assert name == "xtts-extend"
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = stop.code
        if code:
            self.failed.append(command)


@pytest.fixture
def run_cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Session]:
    """A function that runs the notebook's cells up to a named one, without those that need the network."""

    def run(until: str, **settings: object) -> Session:
        session = Session()
        display = ModuleType("IPython.display")
        display.HTML = lambda filename: Path(filename).read_text(encoding="utf-8")
        display.Audio = lambda file: soundfile.read(file)[0]
        display.display = session.shown.append
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        # The notebook exports to a temporary folder.
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        # `recipe run` replaces the arguments.
        monkeypatch.setattr(sys, "argv", ["xtts-extend"])
        namespace: dict[str, object] = {"shell": session.shell}
        for cell in code_cells():
            if NEEDS_NETWORK not in tags(cell):
                exec(compile(as_python(cell["source"]), cell["id"], "exec"), namespace)
            if PARAMETERS in tags(cell):
                assert settings.keys() <= namespace.keys()
                namespace.update({name: str(value) for name, value in settings.items()})
            if cell["id"] == until:
                return session
        raise AssertionError(f"There is no cell named {until}.")

    return run


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 digest of each file in a folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_the_file_is_a_clean_notebook():
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert {cell["cell_type"] for cell in content["cells"]} == {"code", "markdown"}
    ids = [cell["id"] for cell in content["cells"]]
    assert len(ids) == len(set(ids))
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())
    assert [cell["id"] for cell in code_cells() if PARAMETERS in tags(cell)] == ["settings"]
    assert {tag for cell in code_cells() for tag in tags(cell)} == {PARAMETERS, NEEDS_NETWORK}


def test_only_installing_downloading_and_publishing_needs_the_network():
    needing = [cell["id"] for cell in code_cells() if NEEDS_NETWORK in tags(cell)]
    assert needing == ["install", "base", "dataset", "publish"]


def test_pages_that_it_mentions_exist():
    pages = set(re.findall(r"docs/[\w-]+\.md", NOTEBOOK.read_text(encoding="utf-8")))
    assert "docs/tutorial.md" in pages
    assert [page for page in pages if not (NOTEBOOK.parents[1] / page).is_file()] == []


def test_commands_have_valid_flags():
    # Indented lines count as examples.
    lines = "\n".join(cell["source"] for cell in code_cells()).splitlines()
    text = "\n".join(f"    {line.strip().removeprefix('!')}" for line in lines)
    assert text.count("xtts-extend recipe run new_language ") == 2
    assert unknown_in(text) == []
    assert unknown_in(text.replace("--keep-checkpoints", "--keep")) == ["recipe --keep"]


@pytest.mark.parametrize("cell", code_cells(), ids=lambda cell: cell["id"])
def test_cells_compile(cell):
    compile(as_python(cell["source"]), cell["id"], "exec")


def test_commands_become_python():
    source = 'if x:\n    !a --b "{B}" \\\n        --c {C[-1]}\n%cd {D}\n'
    done: list[str] = []
    exec(as_python(source), {"x": True, "B": "ለ b", "C": [1, 2], "D": "d", "shell": done.append})
    assert [shlex.split(command) for command in done] == [["a", "--b", "ለ b", "--c", "2"], ["cd", "d"]]


@pytest.mark.slow
def test_from_recordings_to_a_pack_across_a_disconnect(run_cells, corpus, tmp_path):
    data, output = tmp_path / "ውሂብ my data", tmp_path / "ውጤት my drive"
    shutil.copytree(corpus.train.parent, data)
    before = digests(corpus.base)
    settings = {
        "TEXT": 'ሰላም "$HOME" ለዓለም\'s',
        "DATA": data,
        "VOICE": data / "wavs" / corpus.voice.name,
        "OUTPUT": output,
        "BASE": corpus.base,
    }
    flags = "--batch-size 2 --grad-accum-steps 1 --learning-rate 1e-3 --amp none --max-steps"
    first = run_cells("train", **settings, CODES=tmp_path / "codes 1", FLAGS=f"{flags} 2")
    run = only_run(output / "runs")
    assert [file.name for file in run.glob("checkpoint_*.pth")] == ["checkpoint_2.pth"]
    # Two validation texts have letters that do not occur in the training texts.
    (failed,) = first.failed
    assert failed.startswith(f'xtts-extend check-data --manifest "{data}/val.csv"')
    assert len((output / "clean-val.csv").read_text(encoding="utf-8").splitlines()) == 3

    # In the next session, the machine's own disk is empty.
    second = run_cells("finish", **settings, CODES=tmp_path / "codes 2", FLAGS=f"{flags} 5")
    assert second.failed == [failed.replace("codes 1", "codes 2")]
    assert only_run(output / "runs") == run
    assert {file.name for file in run.glob("checkpoint_*.pth")} == {"checkpoint_2.pth", "checkpoint_5.pth"}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in metrics if not line.get("eval")] == [1, 2, 3, 4, 5]
    report, speech = second.shown
    assert run.name in report
    assert len(speech) > 0
    pack = Pack.open(output / "am.safetensors")
    pack.require_intact()
    assert (pack.info.language, pack.info.training.steps) == ("am", 5)
    assert digests(corpus.base) == before
