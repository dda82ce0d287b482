"""Text and a reference voice become a wav file, through the stock `Xtts`, without FFmpeg."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

import xtts_extend
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.data.audio import load_audio
from xtts_extend.errors import CheckpointError, ConfigError, DataError, MachineError, PackError
from xtts_extend.files import atomic_path
from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.model.voice import REFERENCE_RATE, Voice, make_voice, read_text, require_speech, speak_sentences
from xtts_extend.pack.model_folder import ModelFolder, open_packs
from xtts_extend.pack.route import attach
from xtts_extend.run.config import read_json
from xtts_extend.text.tokenizer import load_tokenizer, require_cleanable


def load_model(folder: Path) -> Xtts:
    """A model folder as a stock `Xtts`, ready to speak every language whose tag its vocabulary holds, and its packs'.

    `Xtts.load_checkpoint` is not called: it writes a published file again in place, and this file is not ours.

    Raises:
        ConfigError: the folder lacks a file.
        CheckpointError: the weights are damaged or do not fit.
        PackError: a language pack is damaged, or of another base.
    """
    vocabulary = ModelFolder(folder).vocabulary
    if (folder / "adapter.safetensors").is_file():
        raise PackError(
            f"{folder} was exported with --keep-adapter by an earlier release. Export its run again: what was learned "
            "is a language pack now."
        )
    xtts_extend.enable()
    read_json(folder / "config.json")
    config = XttsConfig()
    config.load_json(folder / "config.json")
    # unknown until the tokenizer is there: otherwise coqui builds the GPT twice
    config.model_args.gpt_number_text_tokens = None
    content, _ = load_checkpoint(folder / "model.pth")
    with BlankWeights():
        model = Xtts(config)
        model.tokenizer = load_tokenizer(folder / "vocab.json")
        model.init_models()
    try:
        model.load_state_dict(xtts_weights(content.get("model", content)))
    except RuntimeError as error:
        raise CheckpointError(f"{folder / 'model.pth'} does not fit its config.json and vocab.json: {error}") from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    # Xtts.eval() prepares the GPT for inference
    model.eval()
    if packs := open_packs(folder):
        attach(model, packs, vocabulary)
    return model


def speak_to_file(
    folder: Path,
    language: str,
    references: Sequence[Path],
    text: str,
    output: Path,
    *,
    seed: int | None = None,
    on_sentence: Callable[[str, float], None] = lambda sentence, seconds: None,
) -> dict[str, Any]:
    """Speak text of any length; each sentence is written as soon as it is spoken.

    Args:
        folder: a model folder.
        language: a code whose tag the vocabulary holds.
        references: recordings of the voice.
        text: what to say.
        output: the wav file; it appears when all is spoken.
        seed: makes the sampling repeatable.
        on_sentence: called with each sentence and the seconds of audio that it gave.

    Returns:
        `sentences` (how many), `audio_s`, `compute_s`, `sample_rate`, `output`, and the `unknown_characters`, which the
        vocabulary lacks.

    Raises:
        ConfigError, CheckpointError, LanguageError, DataError: see the parts.
        MachineError: the output cannot be written.
    """
    if not text.strip():
        raise DataError("There is nothing to say: the text is empty.")
    if output.suffix.lower() != ".wav" or output.is_dir():
        raise ConfigError(f"{output} is no name for a wav file. Give an --output that ends in .wav.")
    if any(reference.exists() and output.exists() and output.samefile(reference) for reference in references):
        raise ConfigError(f"{output} is the recording of the voice, which stays as it is. Give another --output.")
    model = load_model(folder)
    require_cleanable(model.tokenizer, language)
    spoken = read_text(model, text, language)
    voice = load_voice(model, references)
    if seed is not None:
        torch.manual_seed(seed)
    rate = model.config.audio.output_sample_rate
    start, samples, sentences = time.monotonic(), 0, 0
    try:
        with (
            atomic_path(output) as temporary,
            soundfile.SoundFile(temporary, "w", samplerate=rate, channels=1, format="WAV") as file,
        ):
            for sentence, result in speak_sentences(model, spoken.sentences, language, voice):
                file.write(result["wav"])
                samples += len(result["wav"])
                sentences += 1
                on_sentence(sentence, len(result["wav"]) / rate)
    except soundfile.SoundFileError as error:
        raise MachineError(f"{output} cannot be written: {error}. Give another --output.") from error
    return {
        "output": str(output),
        "sentences": sentences,
        "audio_s": samples / rate,
        "compute_s": time.monotonic() - start,
        "sample_rate": rate,
        "unknown_characters": spoken.unknown,
    }


def load_voice(model: Xtts, references: Sequence[Path]) -> Voice:
    """The voice of recordings.

    Raises:
        DataError: recordings cannot be read, or cannot be a voice; each is named.
    """
    audios, faults = [], []
    for reference in references:
        try:
            audios.append(load_audio(reference, REFERENCE_RATE))
            require_speech(audios[-1], str(reference))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return make_voice(model, audios, [str(reference) for reference in references])
