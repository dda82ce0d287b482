"""A DVAE that turns espeak-ng speech into codes and back, made in a minute on two cores.

Trained by gradients, a small one falls into a handful of codes. Here the encoder stays as it was drawn: its outputs,
scaled to unit variance, keep what distinguishes sounds, and the codebook is their k-means. Only the decoder is trained,
so that codes can be heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram
from TTS.tts.layers.xtts.dvae import DiscreteVAE

from xtts_extend.data.audio import load_audio
from xtts_extend.demo.speech import SAMPLE_RATE
from xtts_extend.progress import with_progress

#: Mel frames per code: two layers of stride two.
FRAMES_PER_CODE = 4
#: Frames that the encoder sees at once, long against the 13 codes that its convolutions reach.
_ENCODED_FRAMES = 1024
_CROP_CODES = 32
_CROPS = 4
_KMEANS_ROUNDS = 12


@dataclass(frozen=True)
class DvaeReport:
    """What came out: codes in use, and the share of the mels' variance that the decoded codes miss."""

    codes_used: int
    missed_variance: float


def log_mels(audio_files: Sequence[Path]) -> Tensor:
    """Log mel spectrograms as XTTS makes them for the DVAE, not yet divided by the statistics; one after the other.

    Returns:
        float32 [80, frames], the frames a multiple of what the encoder sees at once.
    """
    spectrogram = TorchMelSpectrogram(mel_norm_file=None, sampling_rate=SAMPLE_RATE)
    mels = torch.cat([spectrogram(load_audio(file, SAMPLE_RATE))[0] for file in audio_files], dim=1)
    return mels[:, : mels.shape[1] // _ENCODED_FRAMES * _ENCODED_FRAMES]


def mel_statistics(mels: Tensor) -> Tensor:
    """What `mel_stats.pth` holds: per channel the mean magnitude of the log mels [80], by which they are divided."""
    return mels.abs().mean(dim=1)


@torch.no_grad()
def fit_codebook(dvae: DiscreteVAE, mels: Tensor, progress: bool = True) -> Tensor:
    """Scale the encoder's outputs to unit variance and make the codebook their k-means.

    Args:
        dvae: untrained; changed in place.
        mels: float32 [80, frames], divided by the statistics.

    Returns:
        The code of each group of four frames, int64 [frames / 4].
    """
    dvae.eval()
    blocks = mels.unflatten(1, (-1, _ENCODED_FRAMES)).transpose(0, 1)
    outputs = torch.cat(
        [
            dvae.encoder(block[None])[0].T
            for block in with_progress(blocks, len(blocks), "blocks of speech encoded", progress)
        ]
    )
    scale = outputs.std()
    outputs /= scale
    last = dvae.encoder[-1]
    last.weight /= scale
    last.bias /= scale
    centres = outputs[torch.randperm(len(outputs))[: dvae.num_tokens]].clone()
    for _ in with_progress(range(_KMEANS_ROUNDS), _KMEANS_ROUNDS, "rounds of k-means", progress):
        counts = torch.zeros(len(centres))
        sums = torch.zeros_like(centres)
        for part in outputs.split(8192):
            nearest = _nearest(part, centres)
            counts += torch.bincount(nearest, minlength=len(centres))
            sums.index_add_(0, nearest, part)
        used = counts > 0
        centres[used] = sums[used] / counts[used, None]
    dvae.codebook.embed.copy_(centres.T)
    dvae.codebook.embed_avg.copy_(centres.T)
    return torch.cat([_nearest(part, centres) for part in outputs.split(8192)])


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return (centres.pow(2).sum(1) - 2 * points @ centres.T).argmin(1)


def train_decoder(dvae: DiscreteVAE, mels: Tensor, codes: Tensor, steps: int, progress: bool = True) -> float:
    """Train the decoder to give the mels back from their codes.

    Args:
        dvae: its codebook is fitted; changed in place.
        mels: float32 [80, frames], divided by the statistics.
        codes: int64 [frames / 4].

    Returns:
        Share of the mels' variance that it misses on the last tenth, on which it is not trained.
    """
    held_out = len(codes) // 10
    last = len(codes) - held_out - _CROP_CODES
    with torch.no_grad():
        dvae.decoder[-1].bias.copy_(mels.mean(dim=1))
    optimizer = torch.optim.AdamW(dvae.decoder.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in with_progress(range(steps), steps, "steps of the DVAE's decoder", progress):
        starts = torch.randint(last, (_CROPS,)).tolist()
        crop = torch.stack([codes[start : start + _CROP_CODES] for start in starts])
        frames = [slice(FRAMES_PER_CODE * start, FRAMES_PER_CODE * (start + _CROP_CODES)) for start in starts]
        target = torch.stack([mels[:, span] for span in frames])
        loss = torch.nn.functional.mse_loss(dvae.decode(crop)[0], target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(dvae.decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        decoded, _ = dvae.decode(codes[None, -held_out:])
        target = mels[:, -FRAMES_PER_CODE * held_out :]
        return float((decoded[0] - target).pow(2).mean() / (target - mels.mean(1, keepdim=True)).pow(2).mean())


def train_dvae(dvae: DiscreteVAE, mels: Tensor, *, decoder_steps: int, progress: bool = True) -> DvaeReport:
    """`fit_codebook`, then `train_decoder`; the randomness is torch's."""
    codes = fit_codebook(dvae, mels, progress)
    missed = train_decoder(dvae, mels, codes, decoder_steps, progress)
    return DvaeReport(codes_used=len(codes.unique()), missed_variance=missed)
