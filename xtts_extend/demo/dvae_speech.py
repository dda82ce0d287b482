"""Speech of a mini base, whose vocoder is untrained: the codes that its GPT generates, decoded by its DVAE."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from TTS.tts.models.xtts import Xtts

from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.demo.griffin_lim import codes_to_audio
from xtts_extend.model.codec import make_dvae
from xtts_extend.pack.route import routed


class DvaeSpeech:
    """Speaks with a model's GPT, and with a base's DVAE and Griffin-Lim instead of the model's vocoder.

    Args:
        base: A trained base from `make_mini_base`.
    """

    def __init__(self, base: Path) -> None:
        weights = load_pickled(base / "dvae.pth", map_location="cpu")
        self._dvae = make_dvae(weights["codebook.embed"].shape[1])
        self._dvae.load_state_dict(weights)
        self._dvae.eval()
        self._mel_stats = load_pickled(base / "mel_stats.pth", map_location="cpu")

    def speak(self, xtts: Xtts, text: str, language: str, latents: Tensor, seed: int = 0) -> Tensor:
        """Return a sentence as audio, float32 [samples] at 22,050 Hz. The same seed always gives the same samples.

        Args:
            xtts: A model from `load_model`, with the base's codes.
            text: A sentence of the model's language.
            language: Language code.
            latents: Latents of the voice.
            seed: Random seed.
        """
        tokens = torch.tensor([xtts.tokenizer.encode(text, language)])
        torch.manual_seed(seed)
        with torch.no_grad(), routed(xtts, language):
            codes = xtts.gpt.generate(
                cond_latents=latents, text_inputs=tokens, do_sample=True, top_k=50, top_p=0.85, temperature=0.75
            )[0]
        codes = codes[codes < xtts.args.gpt_start_audio_token]
        return self.decode(codes) if len(codes) > 1 else torch.zeros(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the audio of codes, int64 [codes]: float32 [samples] at 22,050 Hz."""
        return codes_to_audio(codes, self._dvae, self._mel_stats)
