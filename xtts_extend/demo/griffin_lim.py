"""Convert audio codes to audio with the DVAE, which decodes them to mels, and Griffin-Lim, which estimates the phase.

The mini base's own vocoder (HiFi-GAN) is untrained and produces noise, so the demo uses this module to make words
audible.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor
from TTS.tts.layers.xtts.dvae import DiscreteVAE

#: Parameters of the spectrogram that `TorchMelSpectrogram` computes for the DVAE. The sample rate is in Hz.
_N_FFT, _HOP, _SAMPLE_RATE = 1024, 256, 22050


@torch.no_grad()
def codes_to_audio(codes: Tensor, dvae: DiscreteVAE, mel_stats: Tensor, *, iterations: int = 60) -> Tensor:
    """Decode audio codes to mels with the DVAE, and return a waveform reconstructed from the mels.

    Args:
        codes: int64 [codes], each below the DVAE's number of tokens (no start or stop codes).
        dvae: DVAE with a trained decoder.
        mel_stats: Mel statistics [80] by which the DVAE's mels were divided.
        iterations: Number of Griffin-Lim iterations.

    Returns:
        float32 [samples] at 22,050 Hz: 1,024 samples per code, minus 256 for the last code.
    """
    mels, _ = dvae.decode(codes[None])
    return mels_to_audio(mels[0] * mel_stats[:, None], iterations=iterations)


def mels_to_audio(log_mels: Tensor, *, iterations: int = 60) -> Tensor:
    """Reconstruct a waveform from log mels, approximately inverting `TorchMelSpectrogram`.

    The phase is initialized to zero, so the same mels always give the same samples.

    Args:
        log_mels: float32 [80, frames], not divided by the mel statistics.
        iterations: Number of Griffin-Lim iterations.

    Returns:
        float32 [256 * (frames - 1)] at 22,050 Hz.
    """
    to_linear = torchaudio.transforms.InverseMelScale(
        n_stft=_N_FFT // 2 + 1, n_mels=80, sample_rate=_SAMPLE_RATE, f_min=0, f_max=8000, norm="slaney"
    )
    to_audio = torchaudio.transforms.GriffinLim(
        n_fft=_N_FFT,
        hop_length=_HOP,
        n_iter=iterations,
        power=2,
        rand_init=False,
        length=_HOP * (log_mels.shape[1] - 1),
    )
    return to_audio(to_linear(log_mels.exp()))
