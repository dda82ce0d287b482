"""`xtts-extend recipe`: list, copy, and run, which is the script itself."""

import builtins
import json
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import Script, run
from runs import RECIPE, checkpoint, only_run

import xtts_extend
from xtts_extend import cli
from xtts_extend.errors import ConfigError

#: `python -m xtts_extend`, as a script.
COMMAND = Path(xtts_extend.__file__).with_name("__main__.py")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command; exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["xtts-extend"])

    def call(*arguments):
        try:
            code = cli.main(["recipe", *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def recipe_that(monkeypatch, tmp_path):
    """Puts a script of these lines in the place of the recipe."""

    def write(*lines):
        script = tmp_path / "ስክሪፕት script.py"
        script.write_text("\n".join(lines), encoding="utf-8")
        monkeypatch.setattr("xtts_extend.recipes.find_recipe", lambda name: script)
        return script

    return write


def test_list(command):
    summary = "Teach XTTS a new language, or resume an interrupted run."
    assert command("list") == (0, f"new_language  {summary}  {RECIPE}\n", "")
    code, out, _ = command("list", "--json", "--debug")
    assert code == 0
    assert json.loads(out) == {"recipes": [{"name": "new_language", "summary": summary, "path": str(RECIPE)}]}


def test_copy(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("copy", "new_language") == (0, "train_gpt_xtts.py\n", "")
    assert command("copy", "new_language", tmp_path / "a b") == (0, f"{tmp_path / 'a b' / 'train_gpt_xtts.py'}\n", "")
    code, out, err = command("copy", "new_language")
    assert (code, out) == (2, "")
    assert err == "error: train_gpt_xtts.py exists already and is not overwritten. Give another PATH.\n"


@pytest.mark.parametrize("action", ["copy", "run"])
def test_unknown_recipe(command, action):
    code, out, err = command(action, "old_language")
    assert (code, out) == (2, "")
    assert err == "error: There is no recipe 'old_language'. The recipes are: new_language.\n"


def test_it_needs_no_coqui(command, monkeypatch, recipe_that):
    """A script asks itself; its place and its text are there in a broken environment as well."""
    monkeypatch.setattr(cli, "require_environment", lambda: pytest.fail("the environment was asked for"))
    assert command("list")[0] == 0
    recipe_that("")
    assert command("run", "new_language")[0] == 0


def test_run_hands_everything_over(command, recipe_that, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = recipe_that("import os, sys", "print([__name__, os.getcwd(), *sys.argv])")
    given = ["--help", "--debug", "--json", "-h", "--coqpit.lr=1e-5", "--x", "-1", "--", "ሰላም ለዓለም", ""]
    assert command("run", "new_language", *given) == (0, f"{['__main__', str(tmp_path), str(script), *given]}\n", "")


@pytest.mark.parametrize(
    ("ending", "code"), [("", 0), ("raise SystemExit(130)", 130), ("raise SystemExit(1)", 1)], ids=["end", "130", "1"]
)
def test_run_ends_as_the_script(command, recipe_that, ending, code):
    recipe_that(ending)
    assert command("run", "new_language")[0] == code


@pytest.mark.parametrize("error", ["BrokenPipeError", "ZeroDivisionError", "KeyboardInterrupt"])
def test_errors_of_a_script_are_its_own(command, recipe_that, error):
    """A reader that has gone is no success of a training, as it is of a listing."""
    recipe_that(f"raise {error}")
    with pytest.raises(getattr(builtins, error)):
        command("run", "new_language")


def test_signals_are_the_scripts(command, recipe_that):
    before = signal.getsignal(signal.SIGTERM)
    recipe_that("import signal", "print(signal.getsignal(signal.SIGTERM))")
    assert command("run", "new_language")[1] == f"{before}\n"


def test_the_recipe_itself(command):
    code, out, _ = command("run", "new_language", "--help")
    assert code == 0
    assert out.startswith("usage: train_gpt_xtts.py ")
    assert "--train-manifest" in out
    code, _, err = command("run", "new_language", "--no-such-flag")
    assert code == 2
    assert "train_gpt_xtts.py: error: unrecognized arguments: --no-such-flag" in err
    code, _, err = command("run", "new_language", "--language", "am")
    assert code == 2
    assert err.startswith("error: Neither --base-dir nor --checkpoint is given")
    with pytest.raises(ConfigError):
        command("run", "new_language", "--language", "am", "--debug")


@pytest.mark.slow
def test_a_run_is_stopped_and_resumed(corpus, tmp_path):
    """SIGTERM leaves a checkpoint and exit code 143, as with the script; a resume ends with 0."""
    training = ["recipe", "run", "new_language"]
    flags = corpus.flags(output_dir=tmp_path / "runs", epochs=500, val_manifest=None)
    process = Script(COMMAND, *training, *flags, output=tmp_path / "log")
    while " > step " not in process.text:
        assert not process.ended, process.text
        time.sleep(0.02)
    process.send(signal.SIGTERM)
    assert process.wait() == 143, process.text
    folder = only_run(tmp_path / "runs")
    (saved,) = folder.glob("checkpoint_*.pth")
    last = int(saved.stem.removeprefix("checkpoint_")) + 2
    run(COMMAND, *training, "--checkpoint", folder, "--max-steps", last, output=tmp_path / "again")
    assert checkpoint(folder, last)["step"] == last
    # as of a script, it is the run's record of what was started
    assert (folder / RECIPE.name).read_bytes() == RECIPE.read_bytes()
