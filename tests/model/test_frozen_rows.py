"""Old rows cannot change, new rows can, and the state dict has one ordinary tensor."""

import pytest
import torch
from torch import nn

from xtts_extend.model.frozen_rows import FrozenRowsEmbedding, FrozenRowsLinear

OLD, NEW, CHANNELS = 80, 20, 16


def modules() -> tuple[nn.Embedding, nn.Linear]:
    torch.manual_seed(0)
    return nn.Embedding(OLD + NEW, CHANNELS), nn.Linear(CHANNELS, OLD + NEW)


def test_forward_equals_the_ordinary_module():
    embedding, linear = modules()
    ids = torch.tensor([[0, OLD - 1, OLD, OLD + NEW - 1], [5, 99, 80, 79]])
    assert torch.equal(FrozenRowsEmbedding(embedding, OLD)(ids), embedding(ids))
    logits = FrozenRowsLinear(linear, OLD)(embedding(ids))
    assert logits.shape == (2, 4, OLD + NEW)
    assert (logits - linear(embedding(ids))).abs().max() < 1e-6


def test_only_new_rows_are_parameters():
    embedding, linear = modules()
    shapes = {name: tuple(p.shape) for name, p in FrozenRowsEmbedding(embedding, OLD).named_parameters()}
    assert shapes == {"new.weight": (NEW, CHANNELS)}
    shapes = {name: tuple(p.shape) for name, p in FrozenRowsLinear(linear, OLD).named_parameters()}
    assert shapes == {"new.weight": (NEW, CHANNELS), "new.bias": (NEW,)}


@pytest.mark.parametrize("which", [0, 1])
def test_state_dict_equals_the_ordinary_modules(which):
    ordinary = modules()[which]
    frozen = (FrozenRowsEmbedding, FrozenRowsLinear)[which](ordinary, OLD)
    wrapped = nn.ModuleDict({"inner": frozen})
    state = wrapped.state_dict()
    assert list(state) == [f"inner.{key}" for key in ordinary.state_dict()]
    for key, tensor in ordinary.state_dict().items():
        assert torch.equal(state[f"inner.{key}"], tensor)

    other = {f"inner.{key}": tensor + 1 for key, tensor in ordinary.state_dict().items()}
    wrapped.load_state_dict(other)
    for key, tensor in wrapped.state_dict().items():
        assert torch.equal(tensor, other[key])


def test_loading_names_tensors_that_do_not_match():
    wrapped = nn.ModuleDict({"inner": FrozenRowsEmbedding(modules()[0], OLD)})
    with pytest.raises(RuntimeError, match=r"Missing key.*inner\.weight"):
        wrapped.load_state_dict({})
    with pytest.raises(RuntimeError, match=r"size mismatch for inner\.weight: expected \(100, 16\), got \(99, 16\)"):
        wrapped.load_state_dict({"inner.weight": torch.zeros(99, CHANNELS)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*inner\.stranger"):
        wrapped.load_state_dict({"inner.weight": torch.zeros(100, CHANNELS), "inner.stranger": torch.zeros(1)})


def test_a_thousand_adamw_steps_change_all_new_rows_and_no_old_row():
    """With a gradient hook, weight decay and moments from earlier steps would change old rows."""
    embedding, linear = modules()
    before = {
        "e": embedding.weight.detach().clone(),
        "w": linear.weight.detach().clone(),
        "b": linear.bias.detach().clone(),
    }
    frozen_embedding, frozen_linear = FrozenRowsEmbedding(embedding, OLD), FrozenRowsLinear(linear, OLD)
    parameters = [*frozen_embedding.parameters(), *frozen_linear.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.tensor(50.0),
            "exp_avg": torch.ones_like(parameter),
            "exp_avg_sq": torch.ones_like(parameter),
        }
    generator = torch.Generator().manual_seed(1)
    for _ in range(1000):
        ids = torch.randint(0, OLD + NEW, (2, 32), generator=generator)
        loss = nn.functional.cross_entropy(frozen_linear(frozen_embedding(ids)).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = {"e": frozen_embedding.weight, "w": frozen_linear.weight, "b": frozen_linear.state_dict()["bias"]}
    for name, rows in after.items():
        assert torch.equal(rows[:OLD], before[name][:OLD])
        changed = (rows[OLD:] != before[name][OLD:]).reshape(NEW, -1).any(dim=1)
        assert changed.all()
