"""Adapters: they change no output at first, leave the base unchanged, and can be merged into it exactly."""

import copy

import pytest
import torch

from xtts_extend.errors import ConfigError
from xtts_extend.model.adapter import merge


@pytest.fixture
def adapted(extended):
    extended.freeze_base_rows()
    extended.add_adapter(4)
    return extended.eval()


def hidden(model) -> torch.Tensor:
    inputs = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.xtts.gpt.gpt(inputs_embeds=inputs, return_dict=True).last_hidden_state


def train(model, steps: int = 5) -> None:
    optimizer = model.get_optimizer()
    for step in range(steps):
        inputs = torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(step))
        gpt = model.xtts.gpt
        rows = gpt.text_head(gpt.gpt(inputs_embeds=inputs, return_dict=True).last_hidden_state)
        (rows.square().mean() + gpt.text_embedding.new.weight.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_new_adapter_changes_no_output_and_no_name(extended):
    before, names = hidden(extended.eval()), extended.checkpoint_state().keys()
    extended.freeze_base_rows()
    extended.add_adapter(4)
    assert torch.equal(hidden(extended), before)
    assert extended.checkpoint_state().keys() == names
    # Two factors of four matrices in each of two layers.
    assert len(extended.adapter_state()) == 16


def test_training_changes_adapters_and_new_rows_only(adapted):
    adapted.config.lr = 1e-2
    before = {key: tensor.clone() for key, tensor in adapted.checkpoint_state().items()}
    factors = {key: tensor.clone() for key, tensor in adapted.adapter_state().items()}
    train(adapted)
    changed = {key for key, tensor in adapted.checkpoint_state().items() if not torch.equal(tensor, before[key])}
    assert changed == {f"xtts.gpt.{name}" for name in ("text_embedding.weight", "text_head.weight", "text_head.bias")}
    rows = adapted.base_rows
    for key in changed:
        assert torch.equal(adapted.checkpoint_state()[key][:rows], before[key][:rows])
    assert all(not torch.equal(tensor, factors[key]) for key, tensor in adapted.adapter_state().items())


def test_merged_weights_compute_what_base_and_adapter_compute(adapted, extended):
    adapted.config.lr = 1e-2
    train(adapted)
    expected = hidden(adapted)
    weights = {key.removeprefix("xtts."): tensor.clone() for key, tensor in adapted.checkpoint_state().items()}
    merged = merge(weights, adapted.adapter_state())
    for module in adapted.xtts.gpt.gpt.modules():
        if hasattr(module, "merge"):
            module.merge()
    by_peft = adapted.plain_state()
    for key in merged:
        if ".c_" in key and key.endswith(".weight"):
            assert torch.equal(merged[key], by_peft[f"xtts.{key}"]), key
            assert not torch.equal(merged[key], weights[key])
    assert (hidden(adapted) - expected).abs().max() < 1e-4


def test_adapter_state_is_saved_and_restored(adapted, mini_base, larger_vocab):
    adapted.config.lr = 1e-2
    train(adapted)
    state = {key: tensor.clone() for key, tensor in adapted.checkpoint_state().items()}
    adapter = {key: tensor.clone() for key, tensor in adapted.adapter_state().items()}
    train(adapted)
    assert not torch.equal(adapted.adapter_state()[next(iter(adapter))], next(iter(adapter.values())))
    adapted.restore_state(state, adapter)
    for key, tensor in adapter.items():
        assert torch.equal(adapted.adapter_state()[key], tensor)


def test_initialization_depends_on_the_seed_only(extended, mini_base, larger_vocab):
    extended.freeze_base_rows()
    other = copy.deepcopy(extended)
    torch.manual_seed(1)
    extended.add_adapter(4)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    other.add_adapter(4)
    for key, tensor in extended.adapter_state().items():
        assert torch.equal(tensor, other.adapter_state()[key])
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_adapter_needs_frozen_rows(extended):
    with pytest.raises(ConfigError, match="An adapter requires frozen base rows"):
        extended.add_adapter(4)
