"""Encode audio into codes with the base's DVAE, as coqui's trainer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor
from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram
from TTS.tts.layers.xtts.dvae import DiscreteVAE

from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.model.blank import BlankWeights


def make_dvae(num_tokens: int) -> DiscreteVAE:
    """Return an untrained DVAE with the dimensions that coqui's `GPTTrainer` uses.

    Args:
        num_tokens: Size of the codebook.
    """
    return DiscreteVAE(
        channels=80,
        normalization=None,
        positional_dims=1,
        num_tokens=num_tokens,
        codebook_dim=512,
        hidden_dim=512,
        num_resnet_blocks=3,
        kernel_size=3,
        num_layers=2,
        use_transposed_convs=False,
    )


def make_style_spectrogram(model_args: Any, sample_rate: int) -> TorchMelSpectrogram:
    """Return the spectrogram of conditioning slices that coqui's `GPTTrainer` uses.

    Args:
        model_args: The section of a configuration, with `gpt_use_perceiver_resampler` and `mel_norm_file`.
        sample_rate: Samples per second of the slices.
    """
    if model_args.gpt_use_perceiver_resampler:
        frames = {"filter_length": 2048, "hop_length": 256, "win_length": 1024}
    else:
        frames = {"filter_length": 4096, "hop_length": 1024, "win_length": 4096}
    return TorchMelSpectrogram(sampling_rate=sample_rate, mel_norm_file=model_args.mel_norm_file, **frames)


class Codec:
    """A DVAE with its spectrogram and sample rates. `load` reads it from a base's files.

    Args:
        dvae: coqui's `DiscreteVAE`, in evaluation mode.
        spectrogram: coqui's `TorchMelSpectrogram` for this DVAE.
        audio: The audio section of a configuration, with `sample_rate` and `dvae_sample_rate`.
        code_stride: Number of audio samples per code.
    """

    def __init__(self, dvae: Any, spectrogram: Any, audio: Any, code_stride: int) -> None:
        self.dvae, self.spectrogram, self.audio, self.code_stride = dvae, spectrogram, audio, code_stride

    @classmethod
    def load(cls, config: Any) -> Codec:
        """Load the codec from the files that the configuration's `model_args` name.

        The weights are mapped from the DVAE's file, so runs whose recordings are encoded already never read it.

        Raises:
            CheckpointError: A file is missing or unreadable, or would run code.
        """
        model_args, audio = config.model_args, config.audio
        with BlankWeights():
            dvae = make_dvae(model_args.gpt_num_audio_tokens - 2).eval()
        weights = load_pickled(Path(model_args.dvae_checkpoint), map_location="cpu")
        # Tensors in half precision are converted, because assigning keeps their type.
        dvae.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False, assign=True)
        spectrogram = TorchMelSpectrogram(mel_norm_file=model_args.mel_norm_file, sampling_rate=audio.dvae_sample_rate)
        return cls(dvae, spectrogram, audio, model_args.gpt_code_stride_len)

    def to(self, device: torch.device) -> Codec:
        """Move the DVAE and the spectrogram to a device, and return the codec."""
        self.dvae.to(device)
        self.spectrogram.to(device)
        return self

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """Encode one recording, resampled in the same way as in coqui.

        coqui encodes batches that are padded with zeros. The padding changes the last codes of shorter recordings,
        which then depend on the rest of the batch. Encoding each recording alone avoids that.

        Args:
            wav: The recording, (1, samples).

        Returns:
            Its codes, int64 (codes,), on the recording's device.
        """
        self.to(wav.device)
        count = -(-wav.shape[-1] // self.code_stride)
        if self.audio.sample_rate != self.audio.dvae_sample_rate:
            wav = torchaudio.functional.resample(
                wav,
                orig_freq=self.audio.sample_rate,
                new_freq=self.audio.dvae_sample_rate,
                lowpass_filter_width=64,
                rolloff=0.9475937167399596,
                resampling_method="kaiser_window",
                beta=14.769656459379492,
            )
        codes: Tensor = self.dvae.get_codebook_indices(self.spectrogram(wav.unsqueeze(0)))
        return codes[0, :count]
