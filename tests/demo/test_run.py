"""A failing demo ends with one line that names the step and the log."""

import pytest

from xtts_extend import cli
from xtts_extend.demo import run
from xtts_extend.errors import MachineError


@pytest.fixture
def failing_demo(monkeypatch, tmp_path, capsys):
    """A function that runs a demo whose first step raises, and returns the exit code, stderr and the log."""

    def call(error):
        def broken():
            raise error

        monkeypatch.setattr(run, "cached_mini_base", broken)
        with pytest.raises(SystemExit) as caught:
            cli.main(["demo", "--output", str(tmp_path / "ሙከራ demo")])
        log = (tmp_path / "ሙከራ demo" / "demo.log").read_text(encoding="utf-8")
        return caught.value.code, capsys.readouterr().err, log

    return call


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (AttributeError("'NoneType' object has no attribute 'get_seq_length'"), 1, "no attribute 'get_seq_length'"),
        (MachineError("The disk is full."), 1, "The disk is full."),
        (ValueError(), 1, "ValueError"),
    ],
    ids=["a bug in a library", "an error of ours", "without a message"],
)
def test_a_failing_demo_names_the_step_and_the_log(failing_demo, tmp_path, error, code, reason):
    exit_code, printed, log = failing_demo(error)
    assert exit_code == code
    (line,) = printed.splitlines()
    assert line.startswith('error: The demo failed at step "1. Base model for English and Spanish": ')
    assert reason in line
    assert line.endswith(f"See the log: {tmp_path / 'ሙከራ demo' / 'demo.log'}")
    assert "Traceback" in log
    assert "===== 1. Base model" in log
    assert failing_demo(error)[0] == code, "the folder of a failed demo can be used again"


def test_the_recipes_output_goes_to_the_log(monkeypatch, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "print(' > step 1/2')\nprint('a warning from a library')\nraise SystemExit(3)\n", encoding="utf-8"
    )
    with (
        run._logged_to(tmp_path / "demo.log"),
        pytest.raises(run.CheckFailed, match="exit with code 0, got 3"),
    ):
        run._run(recipe, [], expected=0)
    assert "a warning from a library" in (tmp_path / "demo.log").read_text(encoding="utf-8")
