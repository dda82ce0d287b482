"""A reference recording becomes a voice, and text in that voice becomes audio, through the stock `Xtts`.

What of the GPT makes voices can be frozen here, for training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from xtts_extend.data.audio import LITTLE_SOUND, SILENCE_LEVEL, describe_sound, sound_share
from xtts_extend.errors import DataError
from xtts_extend.text.cleaners import lower_dotted_i
from xtts_extend.text.speakable import SpokenText, spoken_text
from xtts_extend.text.vocabulary import first_ten, name_character

logger = logging.getLogger("trainer")

#: Sample rate of reference audio, as `Xtts.get_conditioning_latents` loads it.
REFERENCE_RATE = 22050
#: What coqui's encoders need, in seconds.
_SHORTEST_S = 0.33
#: The voice side of coqui's `GPT`, which makes a voice of reference audio: the beginnings of its parameters' names.
#: XTTS v1 has no perceiver.
VOICE_PARTS = ("conditioning_encoder.", "conditioning_perceiver.")
#: What training does with it.
VOICE_MODES = ("frozen", "trained")


@dataclass(frozen=True)
class Voice:
    """What XTTS knows of a speaker: conditioning latents (1, 32, channels) and a speaker embedding (1, 512, 1)."""

    latents: Tensor
    embedding: Tensor


def voice_parameters(gpt: Any) -> list[Parameter]:
    """The parameters of the voice side of coqui's `GPT`."""
    return [parameter for name, parameter in gpt.named_parameters() if name.startswith(VOICE_PARTS)]


def freeze_voice(gpt: Any) -> None:
    """Let the voice side of coqui's `GPT` have no gradients, so that no graph is built of it and nothing moves it."""
    for parameter in voice_parameters(gpt):
        parameter.requires_grad_(False)


@torch.inference_mode()
def make_voice(xtts: Any, references: Sequence[Tensor], names: Sequence[str] = ()) -> Voice:
    """`Xtts.get_conditioning_latents` for audio that is loaded already: no FFmpeg is needed.

    Args:
        xtts: a stock `Xtts`.
        references: audio (1, samples) at `REFERENCE_RATE`, one or several of the same speaker.
        names: what they are called in messages.

    Raises:
        DataError: one of them is shorter than a third of a second, or silent.
    """
    config = xtts.config
    audios = [audio[:, : REFERENCE_RATE * config.max_ref_len].to(xtts.device) for audio in references]
    for audio, name in zip(audios, names or ["The reference voice"] * len(audios), strict=True):
        require_voice(audio, name)
    if config.sound_norm_refs:
        audios = [audio / audio.abs().max() * 0.75 for audio in audios]
    joined = torch.cat(audios, dim=-1)
    embeddings = [xtts.get_speaker_embedding(audio, REFERENCE_RATE) for audio in audios]
    latents = xtts.get_gpt_cond_latents(
        joined, REFERENCE_RATE, length=config.gpt_cond_len, chunk_length=config.gpt_cond_chunk_len
    )
    return Voice(latents=latents, embedding=torch.stack(embeddings).mean(dim=0))


def require_voice(audio: Tensor, name: str) -> None:
    """coqui's encoders fail on a recording that is too short, and make NaN of a silent one."""
    if audio.shape[-1] < REFERENCE_RATE * _SHORTEST_S:
        raise DataError(
            f"{name} is {audio.shape[-1] / REFERENCE_RATE:.2f} s long; a reference voice needs at least {_SHORTEST_S} "
            "s, and some 6 s are better. Give a longer recording."
        )
    if not audio.max() - audio.min() > 2 * SILENCE_LEVEL:
        raise DataError(f"{name} is silent: nobody can be heard in it. Give another recording of the reference voice.")


def require_speech(audio: Tensor, name: str) -> None:
    """Raise DataError for a reference with less sound in it than a voice needs; warn where most of it is silence."""
    require_voice(audio, name)
    share = sound_share(audio[0].numpy(), REFERENCE_RATE)
    if share >= LITTLE_SOUND:
        return
    if share * audio.shape[-1] < _SHORTEST_S * REFERENCE_RATE:
        raise DataError(
            f"{name} has hardly any speech in it: {describe_sound(share)}. A click makes no voice. Give a recording of "
            "some 6 s of speech."
        )
    logger.warning(
        " > %s is mostly silence: %s. A recording that is all speech gives a better voice.", name, describe_sound(share)
    )


def read_text(xtts: Any, text: str, language: str) -> SpokenText:
    """The sentences of a text that a model can speak; characters that its vocabulary lacks are named in a warning.

    Args:
        xtts: a stock `Xtts`.
        text: of any length.
        language: a code whose tag the vocabulary holds.

    Raises:
        DataError: nothing of the text is spoken.
    """
    # tokens that start and stop the text take two of the places
    spoken = spoken_text(xtts.tokenizer, text, language, int(xtts.args.gpt_max_text_tokens) - 2)
    if spoken.unknown:
        names = first_ten([name_character(character) for character in spoken.unknown])
        logger.warning(" > characters that the vocabulary lacks are left out, or written as other marks: %s", names)
    return spoken


def speak(xtts: Any, text: str, language: str, voice: Voice) -> Iterator[tuple[str, Any]]:
    """Speak text sentence by sentence, as `speak_sentences` does with those of `read_text`."""
    yield from speak_sentences(xtts, read_text(xtts, text, language).sentences, language, voice)


def speak_sentences(xtts: Any, sentences: Iterable[str], language: str, voice: Voice) -> Iterator[tuple[str, Any]]:
    """Speak sentences with the sampling settings of the model's configuration.

    Args:
        xtts: a stock `Xtts` that is ready for inference.
        sentences: from `read_text`.
        language: a code whose tag the vocabulary holds.
        voice: from `make_voice`.

    Yields:
        A sentence and what `Xtts.inference` returned for it: "wav" (samples,) at `xtts.config.audio.output_sample_rate`
        and "gpt_latents".
    """
    config = xtts.config
    for sentence in sentences:
        yield (
            sentence,
            xtts.inference(
                # it lower-cases before the cleaner sees the text
                lower_dotted_i(sentence, language),
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
