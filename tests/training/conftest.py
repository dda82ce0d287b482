"""The run that all others are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import only_run


@pytest.fixture(scope="session")
def uninterrupted(corpus, recipe, tmp_path_factory) -> Path:
    """Two epochs in one go, evaluated in the middle as well: the run that all others are compared with."""
    output = tmp_path_factory.mktemp("uninterrupted")
    recipe(corpus.flags(output_dir=output, eval_step=4, save_step=4, warmup_steps=6))
    return only_run(output)


@pytest.fixture
def fails(recipe, capsys):
    """Runs the recipe and returns exit code and message of its error."""

    def call(flags):
        with pytest.raises(SystemExit) as caught:
            recipe(flags)
        return caught.value.code, capsys.readouterr().err

    return call
