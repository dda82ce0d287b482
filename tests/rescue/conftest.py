"""Healthy checkpoints, which tests must not change."""

import pytest
from runs import stock_run_once


@pytest.fixture(scope="session")
def healthy_stock(corpus, made_once):
    """A checkpoint of coqui's Trainer whose new rows started at the mean, at a low learning rate."""
    return stock_run_once(made_once, "healthy stock", corpus, from_base="mean", rate=1e-5)


@pytest.fixture(params=["ours", "stock"])
def healthy(request):
    """A healthy checkpoint of each Trainer, with its vocabulary beside it or named in it."""
    if request.param == "stock":
        return request.getfixturevalue("healthy_stock")
    return request.getfixturevalue("short_run") / "checkpoint_4.pth"
