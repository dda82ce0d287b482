"""Audio codes become sound without a vocoder: the DVAE decodes them to mels, Griffin-Lim finds a phase.

The mini base's own decoder (HiFi-GAN) is untrained and gives noise; this way words can be heard.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor
from TTS.tts.layers.xtts.dvae import DiscreteVAE

#: The spectrogram that `TorchMelSpectrogram` computes for the DVAE.
_N_FFT, _HOP, _SAMPLE_RATE = 1024, 256, 22050


@torch.no_grad()
def codes_to_audio(codes: Tensor, dvae: DiscreteVAE, mel_stats: Tensor, *, iterations: int = 60) -> Tensor:
    """Decode audio codes and reconstruct a waveform from the mels.

    Args:
        codes: int64 [codes], each below the DVAE's number of tokens (no start or stop code).
        dvae: with a trained decoder.
        mel_stats: [80], by which the DVAE's mels are divided.

    Returns:
        float32 [samples] at 22,050 Hz, 1,024 samples per code but 256 fewer for the last.
    """
    mels, _ = dvae.decode(codes[None])
    return mels_to_audio(mels[0] * mel_stats[:, None], iterations=iterations)


def mels_to_audio(log_mels: Tensor, *, iterations: int = 60) -> Tensor:
    """Invert `TorchMelSpectrogram`: log mels float32 [80, frames], not divided by statistics, to float32 [samples].

    The phase starts from zero, so that the same mels give the same samples; 22,050 Hz, 256 samples from frame to frame.
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
