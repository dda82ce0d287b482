"""Functions named as module:function: which names are functions, and errors in them."""

import numpy as np
import pytest

from xtts_extend.errors import ConfigError
from xtts_extend.speech.plugs import is_plug, load_plug, plug_digest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder that is on the import path only during the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my_asr:run", True),
        ("tools.asr:run", True),
        ("ሰማ:run", True),
        ("openai/whisper-small", False),
        ("C:\\models\\asr", False),
        ("C:/models/asr", False),
        ("my_asr:", False),
        ("a-b:run", False),
        ("a:b", False),
    ],
)
def test_names_of_functions(folder, name, expected):
    (folder / "a:b").mkdir()
    assert is_plug(name) is expected


def test_a_function_of_a_module_in_the_current_folder(folder):
    (folder / "tools_of_mine").mkdir()
    file = folder / "tools_of_mine" / "double.py"
    file.write_text("def run(audio, rate):\n    return (2 * audio).tolist(), rate\n")
    function = load_plug("--aligner", "tools_of_mine.double:run")
    assert function(np.ones(2, dtype=np.float32), 8000) == ([2.0, 2.0], 8000)
    before = plug_digest("tools_of_mine.double:run")
    file.write_text(file.read_text() + "# changed\n")
    assert plug_digest("tools_of_mine.double:run") != before


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("no_such_module:run", "", "--asr no_such_module:run: there is no module 'no_such_module' in "),
        ("plug1.part:run", "", "there is no module 'plug1.part' in"),
        ("plug2:run", "import no_such_package", "the module needs 'no_such_package', which is not installed"),
        ("plug3:run", "1 / 0", "plug3:run cannot be imported: ZeroDivisionError: division by zero"),
        ("plug4:run", "def", "plug4:run cannot be imported: SyntaxError"),
        ("plug5:run", "walk = 1", "expected a function 'run' in plug5, but .*plug5.py does not define it"),
        ("plug6:run", "run = 1", "plug6.py defines it as int"),
    ],
)
def test_functions_that_cannot_be_loaded(folder, name, source, message):
    if source or "." in name:
        (folder / f"{name.split(':')[0].split('.')[0]}.py").write_text(source)
    with pytest.raises(ConfigError, match=message):
        load_plug("--asr", name)


def test_a_function_that_raises(folder):
    (folder / "plug7.py").write_text("def run(audio, rate):\n    raise IndexError('no audio')\n")
    with pytest.raises(ConfigError, match="--asr plug7:run failed: IndexError: no audio. Fix the module."):
        load_plug("--asr", "plug7:run")(None, 16000)
