"""Initialization of new rows."""

import pytest
import torch

from xtts_extend.errors import ConfigError
from xtts_extend.model.embedding import TOKEN_TENSORS, extend_rows, extend_token_tensors, normal_rows

OLD = torch.arange(12, dtype=torch.float32).reshape(4, 3)


def test_romanized_rows_are_means_of_the_rows_of_their_spelling():
    rows = extend_rows(OLD, 3, "romanized", {4: [0, 2], 5: [], 6: [3]}, seed=0)
    assert torch.equal(rows[:4], OLD)
    assert torch.equal(rows[4], torch.tensor([3.0, 4.0, 5.0]))
    assert torch.equal(rows[5], OLD.mean(dim=0))
    assert torch.equal(rows[6], OLD[3])


def test_mean_rows_and_bias():
    assert torch.equal(extend_rows(OLD, 2, "mean", {}, seed=0)[4:], OLD.mean(dim=0).repeat(2, 1))
    bias = extend_rows(torch.tensor([1.0, 2.0, 6.0]), 2, "mean", {}, seed=0)
    assert torch.equal(bias, torch.tensor([1.0, 2.0, 6.0, 3.0, 3.0]))


def test_normal_rows_have_the_mean_and_covariance_of_the_old_rows():
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(500, 3, generator=generator) @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 0.1]]) + 5
    drawn = normal_rows(old, 20000, generator)
    assert (drawn.mean(dim=0) - old.mean(dim=0)).abs().max() < 0.05
    assert (torch.cov(drawn.T) - torch.cov(old.T)).abs().max() < 0.15


def test_normal_rows_depend_on_the_seed_only():
    first, again, other = (extend_rows(OLD, 5, "normal", {}, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_unknown_method():
    with pytest.raises(ConfigError, match="--init zeros is unknown"):
        extend_rows(OLD, 1, "zeros", {}, seed=0)


def test_only_token_tensors_grow():
    state = {f"gpt.{name}": torch.ones(4, 3) if name.endswith("weight") else torch.ones(4) for name in TOKEN_TENSORS}
    state["gpt.final_norm.weight"] = torch.ones(3)
    extended = extend_token_tensors(state, 6, "mean", {}, seed=0)
    assert {key: tuple(tensor.shape) for key, tensor in extended.items()} == {
        "gpt.text_embedding.weight": (6, 3),
        "gpt.text_head.weight": (6, 3),
        "gpt.text_head.bias": (6,),
        "gpt.final_norm.weight": (3,),
    }
