"""Compute voices from reference recordings, synthesize speech in them, and freeze the voice side for training."""

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
#: Duration in seconds of the shortest recording that coqui's encoders accept.
_SHORTEST_S = 0.33
#: Prefixes of the parameters of the voice side, the part of coqui's `GPT` that computes a voice from reference audio.
#: XTTS v1 has no perceiver.
VOICE_PARTS = ("conditioning_encoder.", "conditioning_perceiver.")
#: The ways in which training can treat the voice side.
VOICE_MODES = ("frozen", "trained")


@dataclass(frozen=True)
class Voice:
    """XTTS's representation of a speaker.

    Attributes:
        latents: Conditioning latents, (1, 32, channels).
        embedding: Speaker embedding, (1, 512, 1).
    """

    latents: Tensor
    embedding: Tensor


def voice_parameters(gpt: Any) -> list[Parameter]:
    """Return the parameters of the voice side of coqui's `GPT`."""
    return [parameter for name, parameter in gpt.named_parameters() if name.startswith(VOICE_PARTS)]


def freeze_voice(gpt: Any) -> None:
    """Freeze the voice side of coqui's `GPT`, so that no gradients or autograd graph are computed for it."""
    for parameter in voice_parameters(gpt):
        parameter.requires_grad_(False)


@torch.inference_mode()
def make_voice(xtts: Any, references: Sequence[Tensor], names: Sequence[str] = ()) -> Voice:
    """Compute a voice as `Xtts.get_conditioning_latents` does, but from audio that is already loaded, without FFmpeg.

    Args:
        xtts: A stock `Xtts`.
        references: One or more recordings of a speaker, (1, samples) each, at `REFERENCE_RATE`.
        names: Names that error messages use for the recordings.

    Raises:
        DataError: A recording is shorter than 0.33 s, or is silent.
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
    """Raise DataError if a recording is too short or silent, because coqui's encoders would fail or return NaN.

    Args:
        audio: The recording, (1, samples), at `REFERENCE_RATE`.
        name: Name of the recording in the message.
    """
    if audio.shape[-1] < REFERENCE_RATE * _SHORTEST_S:
        raise DataError(
            f"{name} is {audio.shape[-1] / REFERENCE_RATE:.2f} s long. A reference voice requires at least "
            f"{_SHORTEST_S} s, and about 6 s is better. Use a longer recording."
        )
    if not audio.max() - audio.min() > 2 * SILENCE_LEVEL:
        raise DataError(f"{name} is silent. Use a different recording.")


def require_speech(audio: Tensor, name: str) -> None:
    """Raise DataError if a recording has too little speech for a reference voice; warn if it is mostly silence.

    Args:
        audio: The recording, (1, samples), at `REFERENCE_RATE`.
        name: Name of the recording in the message.
    """
    require_voice(audio, name)
    share = sound_share(audio[0].numpy(), REFERENCE_RATE)
    if share >= LITTLE_SOUND:
        return
    if share * audio.shape[-1] < _SHORTEST_S * REFERENCE_RATE:
        raise DataError(
            f"{name} contains hardly any speech: {describe_sound(share)}. Use a recording with about 6 s of speech."
        )
    logger.warning(
        " > %s is mostly silence: %s. A recording without pauses gives a better voice.", name, describe_sound(share)
    )


def read_text(xtts: Any, text: str, language: str) -> SpokenText:
    """Split a text into sentences that a model can speak, and log the characters that are not in its vocabulary.

    Args:
        xtts: A stock `Xtts`.
        text: Text of any length.
        language: Language code whose tag is in the vocabulary.

    Raises:
        DataError: The text contains nothing that the model can speak.
    """
    # The start and stop tokens take up two positions.
    spoken = spoken_text(xtts.tokenizer, text, language, int(xtts.args.gpt_max_text_tokens) - 2)
    if spoken.unknown:
        names = first_ten([name_character(character) for character in spoken.unknown])
        logger.warning(" > Characters that are not in the vocabulary were omitted or replaced: %s.", names)
    return spoken


def speak(xtts: Any, text: str, language: str, voice: Voice) -> Iterator[tuple[str, Any]]:
    """Speak a text sentence by sentence; see `read_text` and `speak_sentences`."""
    yield from speak_sentences(xtts, read_text(xtts, text, language).sentences, language, voice)


def speak_sentences(xtts: Any, sentences: Iterable[str], language: str, voice: Voice) -> Iterator[tuple[str, Any]]:
    """Speak sentences with the sampling settings of the model's configuration.

    Args:
        xtts: A stock `Xtts` that is ready for inference.
        sentences: Sentences from `read_text`.
        language: Language code whose tag is in the vocabulary.
        voice: Voice from `make_voice`.

    Yields:
        Each sentence and the result of `Xtts.inference`: "wav" (samples,) at `xtts.config.audio.output_sample_rate`,
        and "gpt_latents".
    """
    config = xtts.config
    for sentence in sentences:
        yield (
            sentence,
            xtts.inference(
                # Xtts.inference lowercases the text before the cleaner runs.
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
