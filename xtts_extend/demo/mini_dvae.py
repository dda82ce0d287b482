"""A DVAE for espeak-ng speech that is made in a minute on two cores.

If a small DVAE is trained by gradient descent, it collapses to a handful of codes. Here, the encoder is not trained. By
default it stays random, because its outputs, scaled to unit variance, preserve the differences between sounds.
`set_cepstral_encoder` sets its weights instead, so that the codes keep more of the words. The codebook is computed from
the encoder's outputs with k-means. Only the decoder is trained, so that codes can be made audible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchaudio
from torch import Tensor
from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram
from TTS.tts.layers.xtts.dvae import DiscreteVAE, ResBlock

from xtts_extend.data.audio import load_audio
from xtts_extend.demo.speech import SAMPLE_RATE
from xtts_extend.progress import with_progress

#: Number of mel frames per code. The encoder has two layers with stride 2.
FRAMES_PER_CODE = 4
#: Number of cepstral coefficients per frame that a cepstral encoder outputs.
CEPSTRA = 16
#: Number of mel frames per encoder call. This is long compared with the encoder's receptive field of 13 codes.
_ENCODED_FRAMES = 1024
_CROP_CODES = 32
_CROPS = 4
_KMEANS_ROUNDS = 12


@dataclass(frozen=True)
class DvaeReport:
    """Results of training a DVAE.

    Attributes:
        codes_used: Number of distinct codes in the training data.
        missed_variance: Share of the mels' variance that the reconstruction loses.
    """

    codes_used: int
    missed_variance: float


def log_mels(audio_files: Sequence[Path]) -> Tensor:
    """Return the concatenated log mel spectrograms that XTTS computes for the DVAE, before dividing by mel statistics.

    Args:
        audio_files: Paths of the recordings.

    Returns:
        float32 [80, frames], where frames is a multiple of the number of frames per encoder call.
    """
    spectrogram = TorchMelSpectrogram(mel_norm_file=None, sampling_rate=SAMPLE_RATE)
    mels = torch.cat([spectrogram(load_audio(file, SAMPLE_RATE))[0] for file in audio_files], dim=1)
    return mels[:, : mels.shape[1] // _ENCODED_FRAMES * _ENCODED_FRAMES]


def mel_statistics(mels: Tensor) -> Tensor:
    """Return the contents of `mel_stats.pth`: the mean magnitude per channel [80], by which mels are divided."""
    return mels.abs().mean(dim=1)


@torch.no_grad()
def set_cepstral_encoder(dvae: DiscreteVAE, mels: Tensor, mel_stats: Tensor) -> None:
    """Set the encoder's weights so that it outputs the low cepstral coefficients of each code's four frames.

    These are the first terms of the cosine transform of a log mel spectrum. They describe its envelope, from which
    words are recognized, and hardly the pitch. The means are subtracted, and a random isometry rotates the values into
    the codebook's dimensions, which keeps all distances. The decoder's residual blocks are bypassed and frozen, because
    without them it trains in a fraction of the time.

    Args:
        dvae: Untrained DVAE, which is changed in place.
        mels: float32 [80, frames], divided by the statistics.
        mel_stats: The statistics, [80].
    """
    first, second, last = dvae.encoder[0][0], dvae.encoder[1][0], dvae.encoder[-1]
    for layer in (first, second, last):
        layer.weight.zero_()
        layer.bias.zero_()
    for block in (*dvae.encoder, *dvae.decoder):
        if isinstance(block, ResBlock):
            block.net[-1].weight.zero_()
            block.net[-1].bias.zero_()
            block.requires_grad_(False)
    cosines = torchaudio.functional.create_dct(CEPSTRA, len(mel_stats), norm="ortho").T * mel_stats
    # ReLU follows, so each value is passed as two: its positive and its negative part.
    signed = torch.cat([cosines, -cosines])
    values = len(signed)
    # The first layer sees three frames, of which the second is an even frame, and the third is the one after it.
    for frame in range(2):
        channels = slice(frame * values, (frame + 1) * values)
        first.weight[channels, :, 1 + frame] = signed
        first.bias[channels] = -signed @ mels.mean(dim=1)
    # Likewise, the second layer sees three pairs of frames, of which the code describes the second and the third.
    for pair in range(2):
        channels = slice(2 * pair * values, 2 * (pair + 1) * values)
        second.weight[channels, : 2 * values, 1 + pair] = torch.eye(2 * values)
    rotation = torch.nn.init.orthogonal_(torch.empty(len(last.weight), FRAMES_PER_CODE * CEPSTRA))
    by_frame = rotation.unflatten(1, (FRAMES_PER_CODE, CEPSTRA))
    last.weight[:, : FRAMES_PER_CODE * values, 0] = torch.cat([by_frame, -by_frame], dim=2).flatten(1)


@torch.no_grad()
def fit_codebook(dvae: DiscreteVAE, mels: Tensor, progress: bool = True) -> Tensor:
    """Scale the encoder's outputs to unit variance and compute the codebook from them with k-means.

    Args:
        dvae: DVAE with its encoder set, which is changed in place.
        mels: float32 [80, frames], divided by the statistics.
        progress: Show progress bars on stderr.

    Returns:
        int64 [frames / 4]: one code for every four frames.
    """
    dvae.eval()
    blocks = mels.unflatten(1, (-1, _ENCODED_FRAMES)).transpose(0, 1)
    outputs = torch.cat(
        [
            dvae.encoder(block[None])[0].T
            for block in with_progress(blocks, len(blocks), "speech blocks encoded", progress)
        ]
    )
    scale = outputs.std()
    outputs /= scale
    last = dvae.encoder[-1]
    last.weight /= scale
    last.bias /= scale
    centers = outputs[torch.randperm(len(outputs))[: dvae.num_tokens]].clone()
    for _ in with_progress(range(_KMEANS_ROUNDS), _KMEANS_ROUNDS, "k-means rounds", progress):
        counts = torch.zeros(len(centers))
        sums = torch.zeros_like(centers)
        for part in outputs.split(8192):
            nearest = _nearest(part, centers)
            counts += torch.bincount(nearest, minlength=len(centers))
            sums.index_add_(0, nearest, part)
        used = counts > 0
        centers[used] = sums[used] / counts[used, None]
    dvae.codebook.embed.copy_(centers.T)
    dvae.codebook.embed_avg.copy_(centers.T)
    return torch.cat([_nearest(part, centers) for part in outputs.split(8192)])


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    return (centers.pow(2).sum(1) - 2 * points @ centers.T).argmin(1)


def train_decoder(dvae: DiscreteVAE, mels: Tensor, codes: Tensor, steps: int, progress: bool = True) -> float:
    """Train the decoder to reconstruct mels from their codes.

    Args:
        dvae: DVAE with a fitted codebook, which is changed in place.
        mels: float32 [80, frames], divided by the statistics.
        codes: Codes of the mels, int64 [frames / 4].
        steps: Number of training steps.
        progress: Show progress bars on stderr.

    Returns:
        Share of the variance that the decoder does not reproduce in the last tenth of the mels, which is held out.
    """
    held_out = len(codes) // 10
    last = len(codes) - held_out - _CROP_CODES
    with torch.no_grad():
        dvae.decoder[-1].bias.copy_(mels.mean(dim=1))
    # Frozen blocks are bypassed ones, which change nothing.
    decoder = torch.nn.Sequential(
        *(layer for layer in dvae.decoder if all(weight.requires_grad for weight in layer.parameters()))
    )
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in with_progress(range(steps), steps, "DVAE decoder training steps", progress):
        starts = torch.randint(last, (_CROPS,)).tolist()
        crop = torch.stack([codes[start : start + _CROP_CODES] for start in starts])
        frames = [slice(FRAMES_PER_CODE * start, FRAMES_PER_CODE * (start + _CROP_CODES)) for start in starts]
        target = torch.stack([mels[:, span] for span in frames])
        decoded = decoder(dvae.codebook.embed_code(crop).transpose(1, 2))
        loss = torch.nn.functional.mse_loss(decoded, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        decoded, _ = dvae.decode(codes[None, -held_out:])
        target = mels[:, -FRAMES_PER_CODE * held_out :]
        return float((decoded[0] - target).pow(2).mean() / (target - mels.mean(1, keepdim=True)).pow(2).mean())


def train_dvae(dvae: DiscreteVAE, mels: Tensor, *, decoder_steps: int, progress: bool = True) -> DvaeReport:
    """Fit the codebook, train the decoder and report the results. Random numbers come from torch's global generator.

    Args:
        dvae: DVAE with a random or cepstral encoder, which is changed in place.
        mels: float32 [80, frames], divided by the statistics.
        decoder_steps: Number of training steps for the decoder.
        progress: Show progress bars on stderr.
    """
    codes = fit_codebook(dvae, mels, progress)
    missed = train_decoder(dvae, mels, codes, decoder_steps, progress)
    return DvaeReport(codes_used=len(codes.unique()), missed_variance=missed)
