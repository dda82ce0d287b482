"""A shared run with settings other than the defaults. Tests must not write to it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tuned_run(run_once) -> Path:
    """A run of two steps."""
    return run_once("tuned", max_steps=2, weight_decay=0.05, text_loss_weight=0.5, seed=7)
