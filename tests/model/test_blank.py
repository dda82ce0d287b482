"""Networks are built once and without random numbers, and are otherwise coqui's."""

import pytest
import torch
from networks import base_weights
from torch import nn
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer
from TTS.tts.models.xtts import Xtts, wav_to_mel_cloning

from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.codec import Codec, make_style_spectrogram
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.setup.base import config_for_base


def build():
    modules = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 3), nn.Embedding(8, 8), nn.LayerNorm(8))
    # Torch calls no initializer that can be skipped for these.
    nn.init.kaiming_normal_(modules[0].weight)
    modules[2].weight.data.uniform_()
    return modules


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
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert vars(ours.config.model_args) == vars(stock.config.model_args)
    ours.load_base(weights, ours.vocab_size)
    stock.xtts.load_state_dict(weights)
    for actual, expected in (
        (dict(ours.named_parameters()), dict(stock.named_parameters())),
        (dict(ours.named_buffers()), dict(stock.named_buffers())),
    ):
        assert actual.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in actual.items())
        assert all(tensor.requires_grad == expected[key].requires_grad for key, tensor in actual.items())
    for (name, module), (stock_name, stock_module) in zip(ours.named_modules(), stock.named_modules(), strict=True):
        assert (name, module.training) == (stock_name, stock_module.training)


def test_the_vocoder_is_built_once(mini_base, monkeypatch):
    built, init_models = [], Xtts.init_models
    monkeypatch.setattr(Xtts, "init_models", lambda xtts: built.append(xtts) or init_models(xtts))
    model = ExtendedGPTTrainer(config_for_base(mini_base))
    assert built == [model.xtts]


@pytest.mark.parametrize("perceiver", [True, False])
def test_conditioning_slices_have_coquis_spectrogram(mini_base, perceiver):
    """A voice is computed from the same spectrogram of a recording."""
    config = config_for_base(mini_base)
    config.model_args.gpt_use_perceiver_resampler = perceiver
    spectrogram = make_style_spectrogram(config.model_args, 22050)
    sizes = {"n_fft": 2048, "hop_length": 256, "win_length": 1024}
    sizes = sizes if perceiver else {"n_fft": 4096, "hop_length": 1024, "win_length": 4096}
    sound = torch.randn(1, 22050, generator=torch.Generator().manual_seed(1))
    expected = wav_to_mel_cloning(sound, mel_norms=spectrogram.mel_norms, sample_rate=22050, **sizes)
    assert torch.equal(spectrogram(sound), expected)


def test_the_dvae_has_the_weights_of_its_file(mini_base, tmp_path):
    """They are float32 even if the file has half precision, and changing them does not change the file."""
    config, file = config_for_base(mini_base), tmp_path / "dvae.pth"
    config.model_args.dvae_checkpoint = str(file)
    saved = {"encoder.0.0.weight": torch.randn(512, 80, 3), "encoder.0.0.bias": torch.randn(512).half()}
    torch.save(saved, file)
    before = file.read_bytes()
    layer = Codec.load(config).dvae.encoder[0][0]
    assert torch.equal(layer.weight, saved["encoder.0.0.weight"])
    assert torch.equal(layer.bias, saved["encoder.0.0.bias"].float())
    assert layer.bias.dtype == torch.float32
    with torch.no_grad():
        layer.weight.zero_()
    assert file.read_bytes() == before
