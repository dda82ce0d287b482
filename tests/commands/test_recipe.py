"""`xtts-extend recipe`: list, copy and run."""

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

#: The script of `python -m xtts_extend`.
COMMAND = Path(xtts_extend.__file__).with_name("__main__.py")


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs a command and returns its exit code, standard output and standard error."""
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
    """A function that replaces the recipe with a script of the given lines."""

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
    assert err == "error: train_gpt_xtts.py already exists and will not be overwritten. Choose a different PATH.\n"


@pytest.mark.parametrize("action", ["copy", "run"])
def test_unknown_recipe(command, action):
    code, out, err = command(action, "old_language")
    assert (code, out) == (2, "")
    assert err == "error: There is no recipe named 'old_language'. Choose one of: new_language.\n"


def test_recipe_commands_do_not_need_coqui(command, monkeypatch, recipe_that):
    """The script checks the environment itself. Listing and copying work in a broken environment as well."""
    monkeypatch.setattr(cli, "require_environment", lambda: pytest.fail("the environment was checked"))
    assert command("list")[0] == 0
    recipe_that("")
    assert command("run", "new_language")[0] == 0


def test_run_passes_all_arguments_to_the_script(command, recipe_that, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = recipe_that("import os, sys", "print([__name__, os.getcwd(), *sys.argv])")
    flags = ["--help", "--debug", "--json", "-h", "--coqpit.lr=1e-5", "--x", "-1", "--", "ሰላም ለዓለም", ""]
    assert command("run", "new_language", *flags) == (0, f"{['__main__', str(tmp_path), str(script), *flags]}\n", "")


@pytest.mark.parametrize(
    ("ending", "code"), [("", 0), ("raise SystemExit(130)", 130), ("raise SystemExit(1)", 1)], ids=["end", "130", "1"]
)
def test_run_returns_the_scripts_exit_code(command, recipe_that, ending, code):
    recipe_that(ending)
    assert command("run", "new_language")[0] == code


@pytest.mark.parametrize("error", ["BrokenPipeError", "ZeroDivisionError", "KeyboardInterrupt"])
def test_errors_of_a_script_are_not_handled(command, recipe_that, error):
    """A closed pipe counts as success for a listing, but not for training."""
    recipe_that(f"raise {error}")
    with pytest.raises(getattr(builtins, error)):
        command("run", "new_language")


def test_run_installs_no_signal_handler(command, recipe_that):
    before = signal.getsignal(signal.SIGTERM)
    recipe_that("import signal", "print(signal.getsignal(signal.SIGTERM))")
    assert command("run", "new_language")[1] == f"{before}\n"


def test_run_with_the_real_recipe(command):
    code, out, _ = command("run", "new_language", "--help")
    assert code == 0
    assert out.startswith("usage: train_gpt_xtts.py ")
    assert "--train-manifest" in out
    code, _, err = command("run", "new_language", "--no-such-flag")
    assert code == 2
    assert "train_gpt_xtts.py: error: unrecognized arguments: --no-such-flag" in err
    code, _, err = command("run", "new_language", "--language", "am")
    assert code == 2
    assert err.startswith("error: Neither --base-dir nor --checkpoint is set")
    with pytest.raises(ConfigError):
        command("run", "new_language", "--language", "am", "--debug")


@pytest.mark.slow
def test_a_run_is_stopped_and_resumed(corpus, tmp_path):
    """As with the script, SIGTERM leads to a checkpoint and exit code 143. The resumed run exits with 0."""
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
    # The run's record of the script that started it, as without the command.
    assert (folder / RECIPE.name).read_bytes() == RECIPE.read_bytes()
