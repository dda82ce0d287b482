"""Healthy checkpoints; not to be written to."""

import pytest
from runs import stock_run


@pytest.fixture(scope="session")
def healthy_stock(corpus, tmp_path_factory):
    """coqui's Trainer, new rows at the mean and a low rate."""
    with pytest.MonkeyPatch.context() as patch:
        return stock_run(corpus, tmp_path_factory.mktemp("healthy") / "run", patch, from_base="mean", rate=1e-5)


@pytest.fixture(params=["ours", "stock"])
def healthy(request):
    """A healthy checkpoint of each Trainer, its vocabulary beside it or named in it."""
    if request.param == "stock":
        return request.getfixturevalue("healthy_stock")
    return request.getfixturevalue("short_run") / "checkpoint_4.pth"
