"""Adapters: nothing changes at first, the base never does, and merged weights do what the two did together."""

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


def test_it_changes_nothing_at_first_and_no_name(extended):
    before, names = hidden(extended.eval()), extended.checkpoint_state().keys()
    extended.freeze_base_rows()
    extended.add_adapter(4)
    assert torch.equal(hidden(extended), before)
    assert extended.checkpoint_state().keys() == names
    # two factors of four matrices in each of two layers
    assert len(extended.adapter_state()) == 16


def test_the_base_does_not_move_and_adapters_and_new_rows_do(adapted):
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


def test_merged_weights_do_what_base_and_adapter_did(adapted, extended):
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


def test_state_goes_there_and_back(adapted, mini_base, larger_vocab):
    adapted.config.lr = 1e-2
    train(adapted)
    state = {key: tensor.clone() for key, tensor in adapted.checkpoint_state().items()}
    adapter = {key: tensor.clone() for key, tensor in adapted.adapter_state().items()}
    train(adapted)
    assert not torch.equal(adapted.adapter_state()[next(iter(adapter))], next(iter(adapter.values())))
    adapted.restore_state(state, adapter)
    for key, tensor in adapter.items():
        assert torch.equal(adapted.adapter_state()[key], tensor)


def test_its_start_is_a_function_of_the_seed(extended, mini_base, larger_vocab):
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


def test_it_needs_frozen_rows(extended):
    with pytest.raises(ConfigError, match="An adapter needs frozen base rows"):
        extended.add_adapter(4)
