"""A frozen voice side has no gradients, no graph and no moments."""

from __future__ import annotations

import pytest
import torch

from xtts_extend.model.forward import Layout, forward
from xtts_extend.model.voice import VOICE_PARTS, freeze_voice, voice_parameters


@pytest.fixture
def voice_names(extended):
    """The names of the voice side's parameters, which are in both of its parts."""
    names = {name for name, _ in extended.xtts.gpt.named_parameters() if name.startswith(VOICE_PARTS)}
    assert {name.split(".")[0] + "." for name in names} == set(VOICE_PARTS)
    return names


def names_with_gradients(gpt):
    """Return the names of the parameters that get a gradient in a forward and backward pass."""
    text, codes = torch.randint(2, 60, (2, 5)), torch.randint(1000, (2, 6))
    layout = Layout.of(torch.tensor([5, 3]), torch.tensor([6, 4]) * gpt.code_stride_len, None, gpt)
    outputs = forward(gpt, text, codes, torch.randn(2, 1, 80, 40), layout)
    (outputs.loss_text + outputs.loss_mel).backward()
    return {name for name, parameter in gpt.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_gradients_and_moments(extended, voice_names, frozen):
    gpt = extended.xtts.gpt.train()
    if frozen:
        extended.freeze_voice()
    assert extended.voice_frozen is frozen
    conditioning = gpt.get_style_emb(torch.randn(1, 1, 80, 40))
    assert (conditioning.grad_fn is None) is frozen
    trained = names_with_gradients(gpt)
    assert trained & voice_names == (set() if frozen else voice_names)
    # The modules after the voice side are trained in both cases.
    assert {"gpt.h.0.attn.c_attn.weight", "text_embedding.weight", "mel_head.weight"} <= trained
    names = {id(parameter): name for name, parameter in gpt.named_parameters()}
    optimizer = extended.get_optimizer()
    optimized = {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
    assert optimized == set(names.values()) - (voice_names if frozen else set())
    line = f"The voice side (conditioning encoder and perceiver) is {'frozen' if frozen else 'trained'}."
    assert line in extended.describe_rows("start: mean")


def test_the_voice_side_is_frozen_with_an_adapter(extended):
    extended.freeze_base_rows()
    extended.add_adapter(2)
    assert extended.voice_frozen


def test_freezing_works_without_a_perceiver():
    gpt = torch.nn.ModuleDict({"conditioning_encoder": torch.nn.Linear(2, 2), "gpt": torch.nn.Linear(2, 2)})
    freeze_voice(gpt)
    assert [parameter.requires_grad for parameter in voice_parameters(gpt)] == [False, False]
    assert all(parameter.requires_grad for parameter in gpt["gpt"].parameters())
