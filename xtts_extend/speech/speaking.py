"""Synthesize speech into a WAV file with the stock `Xtts`, without FFmpeg."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

import xtts_extend
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.data.audio import load_audio
from xtts_extend.errors import CheckpointError, ConfigError, DataError, MachineError, PackError
from xtts_extend.files import atomic_path
from xtts_extend.model.blank import build_xtts
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.model.voice import REFERENCE_RATE, Voice, make_voice, read_text, require_speech, speak_sentences
from xtts_extend.pack.model_folder import ModelFolder, open_packs
from xtts_extend.pack.route import attach
from xtts_extend.run.config import read_json
from xtts_extend.text.tokenizer import load_tokenizer, require_cleanable


def load_model(folder: Path) -> Xtts:
    """Load a model folder as a stock `Xtts`, ready to speak the languages of its vocabulary and its packs.

    Args:
        folder: A folder that `export` wrote, or a base directory.

    Raises:
        ConfigError: A file is missing from the folder.
        CheckpointError: The weights are damaged, or do not match config.json and vocab.json.
        PackError: A language pack is damaged, or belongs to a different base.

    >>> model = load_model(Path("XTTS"))
    >>> model.config.audio.output_sample_rate
    24000
    """
    model = load_base(folder)
    if packs := open_packs(folder):
        attach(model, packs, ModelFolder(folder).vocabulary)
    return model


def load_base(folder: Path) -> Xtts:
    """Load a model folder without its packs.

    This does not call `Xtts.load_checkpoint`, which would rewrite a published model file in place.

    Raises:
        ConfigError, CheckpointError: See `load_model`.
    """
    vocabulary = ModelFolder(folder).vocabulary
    if (folder / "adapter.safetensors").is_file():
        raise PackError(
            f"{folder} was exported with --keep-adapter by an earlier release, whose format is no longer supported. "
            "Export the run again, as a language pack."
        )
    read_json(folder / "config.json")
    config = XttsConfig()
    config.load_json(folder / "config.json")
    content, _ = load_checkpoint(folder / "model.pth")
    return build_model(config, vocabulary.path, xtts_weights(content.get("model", content)), folder / "model.pth")


def build_model(config: XttsConfig, vocab: Path, weights: Mapping[str, Tensor], source: Path) -> Xtts:
    """Return a stock `Xtts` that is ready to speak.

    Args:
        config: Architecture and sampling settings.
        vocab: Vocabulary file.
        weights: Tensors under the names of `Xtts`.
        source: The file that the weights came from, for messages.

    Raises:
        CheckpointError: The weights do not match the configuration and the vocabulary.
    """
    xtts_extend.enable()
    model = build_xtts(config, load_tokenizer(vocab))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source} does not match its configuration and vocabulary. Use the files that belong to these weights. "
            f"{error}"
        ) from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    # This also prepares the GPT for inference.
    model.eval()
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
    """Synthesize speech from a text of any length, sentence by sentence, and write it to a WAV file.

    Args:
        folder: A model folder.
        language: Language code whose tag is in the vocabulary.
        references: Recordings of the speaker.
        text: Text to speak.
        output: The WAV file, which is created once all sentences have been spoken.
        seed: Random seed for reproducible sampling.
        on_sentence: Function that is called with each sentence and the duration of its audio in seconds.

    Returns:
        `output`, `sentences` (their number), `audio_s`, `compute_s`, `sample_rate` and `unknown_characters` (the
        characters that are not in the vocabulary).

    Raises:
        ConfigError: The output is not a WAV file name or is one of the references, or a file is missing from the
            folder.
        CheckpointError: The weights are damaged, or do not match config.json and vocab.json.
        PackError: A language pack is damaged, or belongs to a different base.
        LanguageError: The model does not support the language.
        DataError: The text contains nothing to say, or a reference cannot be used.
        MachineError: The output cannot be written.

    >>> voice = [Path("wavs/am_00001.wav")]
    >>> result = speak_to_file(Path("XTTS"), "en", voice, "Hello. How are you?", Path("hello.wav"), seed=0)
    >>> result["sentences"], result["sample_rate"]
    (2, 24000)
    """
    if not text.strip():
        raise DataError("The text is empty. Use --text to pass the text to be spoken.")
    if output.suffix.lower() != ".wav" or output.is_dir():
        raise ConfigError(f"{output} is not the name of a WAV file. Choose an --output that ends in .wav.")
    if any(reference.exists() and output.exists() and output.samefile(reference) for reference in references):
        raise ConfigError(
            f"{output} is a reference recording and will not be overwritten. Choose a different --output."
        )
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
        raise MachineError(f"{output} cannot be written: {error}. Choose a different --output.") from error
    return {
        "output": str(output),
        "sentences": sentences,
        "audio_s": samples / rate,
        "compute_s": time.monotonic() - start,
        "sample_rate": rate,
        "unknown_characters": spoken.unknown,
    }


def load_voice(model: Xtts, references: Sequence[Path]) -> Voice:
    """Compute a voice from recordings of a speaker.

    Raises:
        DataError: Recordings cannot be read or used. The message has one line for each of them.
    """
    audios, problems = [], []
    for reference in references:
        try:
            audios.append(load_audio(reference, REFERENCE_RATE))
            require_speech(audios[-1], str(reference))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return make_voice(model, audios, [str(reference) for reference in references])
