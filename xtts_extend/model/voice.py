"""A reference recording becomes a voice, and text in that voice becomes audio, through the stock `Xtts`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xtts_extend.errors import DataError
from xtts_extend.text.languages import split_sentences

#: Sample rate of reference audio, as `Xtts.get_conditioning_latents` loads it.
REFERENCE_RATE = 22050


@dataclass(frozen=True)
class Voice:
    """What XTTS knows of a speaker: conditioning latents (1, 32, channels) and a speaker embedding (1, 512, 1)."""

    latents: Tensor
    embedding: Tensor


@torch.inference_mode()
def make_voice(xtts: Any, references: Sequence[Tensor]) -> Voice:
    """`Xtts.get_conditioning_latents` for audio that is loaded already: no FFmpeg is needed.

    Args:
        xtts: a stock `Xtts`.
        references: audio (1, samples) at `REFERENCE_RATE`, one or several of the same speaker.

    Raises:
        DataError: together they are shorter than a third of a second, or silent.
    """
    config = xtts.config
    audios = [audio[:, : REFERENCE_RATE * config.max_ref_len].to(xtts.device) for audio in references]
    if config.sound_norm_refs:
        audios = [audio / audio.abs().max() * 0.75 for audio in audios]
    joined = torch.cat(audios, dim=-1)
    if joined.shape[-1] < REFERENCE_RATE * 0.33:
        raise DataError(
            f"The reference voice is {joined.shape[-1] / REFERENCE_RATE:.2f} s long; at least 0.33 s is needed and "
            "some 6 s are better. Give a longer recording."
        )
    if not joined.abs().max() > 0:
        raise DataError("The reference voice is silent: all its samples are zero. Give another recording.")
    embeddings = [xtts.get_speaker_embedding(audio, REFERENCE_RATE) for audio in audios]
    latents = xtts.get_gpt_cond_latents(
        joined, REFERENCE_RATE, length=config.gpt_cond_len, chunk_length=config.gpt_cond_chunk_len
    )
    return Voice(latents=latents, embedding=torch.stack(embeddings).mean(dim=0))


def speak(xtts: Any, text: str, language: str, voice: Voice) -> Iterator[tuple[str, Any]]:
    """Speak text sentence by sentence with the sampling settings of the model's configuration.

    Args:
        xtts: a stock `Xtts` that is ready for inference.
        text: of any length.
        language: a code whose tag the vocabulary holds.
        voice: from `make_voice`.

    Yields:
        A sentence and what `Xtts.inference` returned for it: "wav" (samples,) at `xtts.config.audio.output_sample_rate`
        and "gpt_latents".
    """
    config = xtts.config
    for sentence in split_sentences(text, language, xtts.tokenizer.char_limits[language.split("-")[0]]):
        yield (
            sentence,
            xtts.inference(
                sentence,
                language,
                voice.latents,
                voice.embedding,
                temperature=config.temperature,
                length_penalty=float(config.length_penalty),
                repetition_penalty=float(config.repetition_penalty),
                top_k=config.top_k,
                top_p=config.top_p,
            ),
        )
