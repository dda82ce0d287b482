"""A demo that fails ends with one line that names the step and the log."""

import pytest

from xtts_extend import cli
from xtts_extend.demo import run
from xtts_extend.errors import MachineError


@pytest.fixture
def fails(monkeypatch, tmp_path, capsys):
    """Exit code and standard error of a demo whose first step raises, and what is in its log."""

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
    ids=["a bug of a library", "an error of ours", "without a message"],
)
def test_a_failing_demo_names_the_step_and_the_log(fails, tmp_path, error, code, reason):
    found, printed, log = fails(error)
    assert found == code
    (line,) = printed.splitlines()
    assert line.startswith("error: The demo failed at step 1  a base model that knows English and Spanish: ")
    assert reason in line
    assert line.endswith(f"The log: {tmp_path / 'ሙከራ demo' / 'demo.log'}")
    assert "Traceback" in log
    assert "===== 1  a base model" in log
    assert fails(error)[0] == code, "the folder of a failed demo is taken again"


def test_the_recipes_output_goes_to_the_log(monkeypatch, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("print(' > step 1/2')\nprint('a warning of a library')\nraise SystemExit(3)\n", encoding="utf-8")
    with (
        run._logged_to(tmp_path / "demo.log"),
        pytest.raises(run.CheckFailed, match="exit code 3, expected 0"),
    ):
        run._run(recipe, [], expected=0)
    assert "a warning of a library" in (tmp_path / "demo.log").read_text(encoding="utf-8")
