"""Faster kernels compute the same results. test_forward.py compares them in the forward pass."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from xtts_extend.model import kernels
from xtts_extend.model.kernels import QuickDropout, attention_forward, quick_dropout


def test_dropout_drops_the_expected_fraction_and_scales_the_rest():
    torch.manual_seed(0)
    x = torch.rand(1000, 1003) + 0.5
    dropped = quick_dropout(x, 0.1)
    kept = dropped != 0
    # For a million elements, the standard deviation is 0.0003.
    assert abs(1 - kept.double().mean().item() - 0.1) < 0.0015
    assert torch.equal(dropped[kept], (x * (1 / 0.9))[kept])
    # Neighbors are dropped independently.
    pairs = (~kept[:, :-1] & ~kept[:, 1:]).double().mean().item()
    assert abs(pairs - 0.01) < 0.001
    torch.manual_seed(0)
    torch.rand(1000, 1003)
    assert torch.equal(quick_dropout(x, 0.1), dropped)


def test_dropout_passes_the_gradient_of_kept_elements():
    x = torch.ones(5000, requires_grad=True)
    dropped = quick_dropout(x, 0.5)
    dropped.sum().backward()
    assert torch.equal(x.grad, 2.0 * (dropped.detach() != 0))


def test_dropout_is_only_active_in_training():
    x = torch.rand(100)
    module = QuickDropout(0.5)
    assert not torch.equal(module(x), x)
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(QuickDropout(0.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_attention_with_dropout_is_causal_attention_if_nothing_is_dropped(monkeypatch, dtype):
    monkeypatch.setattr(kernels, "quick_dropout", lambda x, p: x)
    module = torch.nn.Module()
    module.is_causal = True
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 17, 8, generator=generator, dtype=dtype) for _ in range(3))
    ours, _ = attention_forward(module, query, key, value, None, dropout=0.1, scaling=8**-0.5)
    theirs, _ = sdpa_attention_forward(module, query, key, value, None, dropout=0.0, scaling=8**-0.5)
    assert ours.shape == theirs.shape == (2, 17, 3, 8)
    assert (ours - theirs).abs().max() < (1e-14 if dtype == torch.float64 else 1e-6)
