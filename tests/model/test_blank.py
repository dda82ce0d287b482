"""`BlankWeights` skips random initialization and nothing else."""

import torch
from networks import base_weights
from torch import nn
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.setup.base import config_for_base


def build():
    return nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 3), nn.Embedding(8, 8), nn.LayerNorm(8))


def test_no_weights_are_drawn():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with BlankWeights():
        blank = build()
    assert torch.equal(torch.get_rng_state(), before)
    initialized = build()
    assert not torch.equal(torch.get_rng_state(), before)
    assert {key: value.shape for key, value in blank.state_dict().items()} == {
        key: value.shape for key, value in initialized.state_dict().items()
    }
    blank.load_state_dict(initialized.state_dict())
    assert all(torch.equal(value, initialized.state_dict()[key]) for key, value in blank.state_dict().items())


def test_a_loaded_network_equals_coquis_including_all_buffers(mini_base):
    """This includes buffers that are not in the state dict: spectrogram filters, masks, positions."""
    weights = base_weights(mini_base)
    ours, stock = ExtendedGPTTrainer(config_for_base(mini_base)), GPTTrainer(config_for_base(mini_base))
    ours.load_base(weights, ours.vocab_size)
    stock.xtts.load_state_dict(weights)
    for actual, expected in (
        (dict(ours.named_parameters()), dict(stock.named_parameters())),
        (dict(ours.named_buffers()), dict(stock.named_buffers())),
    ):
        assert actual.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in actual.items())
