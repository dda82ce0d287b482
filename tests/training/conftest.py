"""The run that all others are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def uninterrupted(run_once) -> Path:
    """Two epochs in one go, evaluated in the middle as well: the run that all others are compared with."""
    return run_once("uninterrupted", eval_step=4, save_step=4, warmup_steps=6)


@pytest.fixture
def fails(recipe, capsys):
    """Runs the recipe and returns exit code and message of its error."""

    def call(flags):
        with pytest.raises(SystemExit) as caught:
            recipe(flags)
        return caught.value.code, capsys.readouterr().err

    return call
