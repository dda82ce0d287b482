"""How the processes of torchrun select their GPUs and join."""

import logging
import os

import pytest
import torch
import torch.distributed as dist

from xtts_extend.errors import ConfigError
from xtts_extend.run.ranks import Ranks


@pytest.fixture
def two_gpus(monkeypatch, caplog):
    """Simulate two GPUs and two processes. Return the arguments with which process groups are created."""
    arguments = []
    # Ranks other than 0 raise this level. caplog restores it, so that later tests still see the log.
    caplog.set_level(logging.INFO, "trainer")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("This initializes CUDA too early."))
    monkeypatch.setattr(dist, "init_process_group", lambda backend: arguments.append(backend))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: arguments.append((backend, timeout.days)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return arguments


@pytest.mark.parametrize(("visible", "local", "expected"), [("", 1, "1"), ("5,3", 1, "3"), ("5,3", 0, "5")])
def test_each_process_selects_its_gpu(two_gpus, monkeypatch, visible, local, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("RANK", str(local))
    monkeypatch.setenv("LOCAL_RANK", str(local))
    with Ranks.join() as ranks:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
        assert (ranks.rank, ranks.size) == (local, 2)
    assert two_gpus == ["cpu:gloo,cuda:nccl", ("gloo", 7)]


def test_more_processes_than_gpus(two_gpus, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "2")
    expected = "Process 3 on this machine has no GPU: .* the number of visible GPUs is 2. .* --nproc_per_node 2"
    with pytest.raises(ConfigError, match=expected), Ranks.join():
        pass
