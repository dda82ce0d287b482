"""Healthy checkpoints, which tests must not change."""

import pytest


@pytest.fixture(params=["ours", "stock"])
def healthy(request):
    """A healthy checkpoint of each Trainer, with its vocabulary beside it or named in it."""
    if request.param == "stock":
        return request.getfixturevalue("healthy_stock")
    return request.getfixturevalue("short_run") / "checkpoint_4.pth"
