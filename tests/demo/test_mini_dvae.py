"""The cepstral encoder: exact, blind to pitch, and with a decoder whose bypassed blocks stay bypassed."""

from __future__ import annotations

import pytest
import torch
import torchaudio
from TTS.tts.layers.xtts.dvae import DiscreteVAE, ResBlock

from xtts_extend.demo.mini_dvae import CEPSTRA, FRAMES_PER_CODE, mel_statistics, set_cepstral_encoder, train_dvae

CODES = 32


def small_dvae() -> DiscreteVAE:
    """Return a DVAE like the published one, but narrow."""
    return DiscreteVAE(
        channels=80,
        normalization=None,
        positional_dims=1,
        num_tokens=CODES,
        codebook_dim=96,
        hidden_dim=64,
        num_resnet_blocks=2,
        kernel_size=3,
        num_layers=2,
        use_transposed_convs=False,
    )


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def log_mels() -> torch.Tensor:
    """Four spectra in turn, each for eight frames and with a little noise, as log mels [80, 2048]."""
    spectra = 3 * torch.randn(4, 80) - 5
    return spectra[torch.arange(2048) // 8 % 4].T + 0.1 * torch.randn(80, 2048)


def with_cepstra(log_mels: torch.Tensor) -> tuple[DiscreteVAE, torch.Tensor, torch.Tensor]:
    """Return a DVAE with a cepstral encoder, the mels divided by their statistics, and the statistics."""
    stats = mel_statistics(log_mels)
    mels = log_mels / stats[:, None]
    dvae = small_dvae().eval()
    set_cepstral_encoder(dvae, mels, stats)
    return dvae, mels, stats


@torch.no_grad()
def test_outputs_have_the_distances_of_the_cepstra(log_mels):
    dvae, mels, _ = with_cepstra(log_mels)
    outputs = dvae.encoder(mels[None, :, :400])[0].T
    cosines = torchaudio.functional.create_dct(CEPSTRA, 80, norm="ortho")
    cepstra = (log_mels[:, :400].T @ cosines).reshape(100, FRAMES_PER_CODE * CEPSTRA)
    assert outputs.shape == (100, 96)
    # The distance between each code's values and the next one's.
    moved, expected = (values.diff(dim=0).norm(dim=1) for values in (outputs, cepstra))
    assert expected.max() > 10
    assert moved == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
def test_the_mean_spectrum_becomes_zero(log_mels):
    dvae, mels, _ = with_cepstra(log_mels)
    mean = mels.mean(dim=1, keepdim=True).expand(80, 40)
    assert dvae.encoder(mean[None]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("order", "is_heard"), [(CEPSTRA - 1, True), (CEPSTRA, False), (40, False)])
def test_only_the_envelope_is_heard(log_mels, order, is_heard):
    dvae, mels, stats = with_cepstra(log_mels)
    ripple = 4 * torchaudio.functional.create_dct(80, 80, norm="ortho")[:, order]
    changed = mels + (ripple / stats)[:, None]
    # The mean that the encoder subtracts stays the same, so each frame of a code moves its output by the ripple.
    moved = (dvae.encoder(changed[None]) - dvae.encoder(mels[None])).norm(dim=1)
    expected = 4 * FRAMES_PER_CODE**0.5 if is_heard else 0.0
    assert moved == pytest.approx(torch.full_like(moved, expected), abs=1e-2)


def test_the_decoder_trains_without_its_residual_blocks(log_mels):
    dvae, mels, _ = with_cepstra(log_mels)
    before = {name: weight.clone() for name, weight in dvae.decoder.named_parameters()}
    report = train_dvae(dvae, mels, decoder_steps=20, progress=False)
    changed = {
        name.split(".")[0] for name, weight in dvae.decoder.named_parameters() if not torch.equal(weight, before[name])
    }
    blocks = {str(index) for index, layer in enumerate(dvae.decoder) if isinstance(layer, ResBlock)}
    assert len(blocks) == 2
    assert changed == {str(index) for index in range(len(dvae.decoder))} - blocks
    assert report.codes_used == CODES
    assert report.missed_variance < 0.6
    inputs = torch.randn(1, 128, 5)
    assert all(torch.equal(dvae.decoder[int(index)](inputs), inputs) for index in blocks)
