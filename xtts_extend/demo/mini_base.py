"""Create small XTTS base models for demos, tests and benchmarks, with the same files and keys as XTTS-v2."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trainer import TrainerArgs
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.layers.xtts.dvae import DiscreteVAE
from TTS.tts.models.xtts import Xtts

import xtts_extend
from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.data.audio import load_audio
from xtts_extend.demo import texts
from xtts_extend.demo.mini_dvae import log_mels, mel_statistics, set_cepstral_encoder, train_dvae
from xtts_extend.demo.mini_vocabulary import write_vocabulary
from xtts_extend.demo.speech import SAMPLE_RATE, SPEAKERS, make_corpus
from xtts_extend.errors import ConfigError
from xtts_extend.files import atomic_folder, atomic_write, cache_folder
from xtts_extend.model.codec import make_dvae
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, xtts_weights
from xtts_extend.model.voice import Voice, make_voice
from xtts_extend.setup.base import FILES
from xtts_extend.setup.flags import Flags
from xtts_extend.setup.resolve import resolve_config
from xtts_extend.setup.samples import encode_run, load_samples
from xtts_extend.setup.start import start_from
from xtts_extend.setup.validate import validate_config
from xtts_extend.setup.weights import resize_embeddings
from xtts_extend.speech.speaking import load_model
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary
from xtts_extend.training.trainer import ResumableTrainer

logger = logging.getLogger("trainer")

#: Version number in the names of cached bases and DVAEs. Increment it when the output of `make_mini_base` changes.
VERSION = 4
#: Number of GPT training steps for the demo's base. They take two minutes on two cores.
DEMO_STEPS = 600
#: Number of entries in the built-in vocabulary.
VOCABULARY_SIZE = 400
#: Number of audio codes, not counting the start and stop codes.
AUDIO_CODES = 1024
#: Value of all mel statistics in an untrained base, similar to those of a trained base. Log mels range from -11.5
#: (silence) to 6.
UNTRAINED_MEL_SCALE = 5.0
#: Number of sentences per language that the base is trained on.
SENTENCES = 400


class Quality(Enum):
    """What the codes of a trained base keep: in `HIGH` quality more of the words."""

    STANDARD = "standard"
    HIGH = "high"


#: Number of utterances that the DVAE is made from, across all languages: twenty minutes of speech, or all of it.
_DVAE_UTTERANCES = {Quality.STANDARD: 300, Quality.HIGH: 2 * SENTENCES}
#: Number of training steps for the DVAE's decoder.
_DECODER_STEPS = {Quality.STANDARD: 80, Quality.HIGH: 300}


def make_mini_base(
    output: Path,
    *,
    vocab: Path | None = None,
    layers: int = 4,
    channels: int = 128,
    heads: int = 2,
    steps: int = 0,
    quality: Quality = Quality.STANDARD,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Create a base directory with config.json, model.pth, vocab.json, dvae.pth, mel_stats.pth and speakers_xtts.pth.

    Args:
        output: The folder to create. It appears only once it is complete.
        vocab: The vocabulary to use. By default, a small one for English and Spanish is learned.
        layers: Number of GPT layers.
        channels: Width of the GPT.
        heads: Number of attention heads.
        steps: Number of batches that the GPT is trained on, after the DVAE has been trained. Both are trained on
            English and Spanish speech from espeak-ng. With 0, nothing is trained and no speech is needed.
        quality: How well the DVAE keeps words. A trained base only.
        seed: Random seed. The same arguments give the same weights.
        progress: Show progress bars on stderr.

    Returns:
        The folder.

    Raises:
        ConfigError: `output` exists and is not an empty folder, the sizes do not make a valid network, or the quality
            of an untrained base is high.
        VocabularyError: `vocab` is not an XTTS vocabulary.
        LanguageError: `steps` is not 0, and `vocab` has no tag for English or Spanish.
        CheckpointError: The DVAE of high quality in the user's cache is damaged or unreadable. Delete it.
        MachineError: The disk is full or not writable, or espeak-ng is needed but missing.
    """
    _require_sizes(layers, channels, heads, steps)
    if quality is Quality.HIGH and not steps:
        raise ConfigError(
            "High quality needs a trained base, because an untrained one has no speech to compute codes from. Set the "
            "number of training steps with --steps."
        )
    if vocab is not None:
        load_vocabulary(vocab)
    with atomic_folder(Path(output)) as folder, torch.random.fork_rng(devices=[]):
        if vocab is None:
            corpus = {language: texts.sentences(language, 1500, seed) for language in texts.BASE_LANGUAGES}
            write_vocabulary(corpus, VOCABULARY_SIZE, folder / "vocab.json")
        else:
            shutil.copyfile(vocab, folder / "vocab.json")
        torch.manual_seed(seed)
        dvae, mel_stats = make_dvae(AUDIO_CODES), torch.full((80,), UNTRAINED_MEL_SCALE)
        work = folder / "work"
        if steps:
            manifests = _speak_corpora(work, seed, progress)
            mel_stats = _kept_codes(dvae, _recordings(manifests), quality, seed, progress)
        _save(dvae.state_dict(), folder / "dvae.pth")
        _save(mel_stats, folder / "mel_stats.pth")
        torch.manual_seed(seed)
        _write_untrained(folder, mel_stats, layers, channels, heads)
        if steps:
            train_base(folder, manifests, work / "runs", steps, seed)
            _write_speakers(folder, _recordings(manifests))
            shutil.rmtree(work)
    return Path(output)


def cached_mini_base(*, steps: int = DEMO_STEPS) -> Path:
    """Return the folder of the demo's base. If it does not exist yet, create it in `files.cache_folder`.

    Args:
        steps: Number of batches that the GPT is trained on.

    Raises:
        MachineError: The disk is full or not writable, or espeak-ng is missing.
    """
    base = cache_folder() / f"mini-base-v{VERSION}-steps{steps}"
    if base.exists() and not all((base / name).is_file() for name in FILES):
        shutil.rmtree(base)
    if not base.exists():
        make_mini_base(base, steps=steps)
    return base


def mini_config(vocabulary: Vocabulary, *, layers: int, channels: int, heads: int) -> XttsConfig:
    """Return XTTS-v2's configuration, but with the given sizes and for the given vocabulary and its languages."""
    return XttsConfig(
        model_args=XttsArgs(
            gpt_layers=layers,
            gpt_n_model_channels=channels,
            gpt_n_heads=heads,
            decoder_input_dim=channels,
            gpt_number_text_tokens=vocabulary.size,
            gpt_num_audio_tokens=AUDIO_CODES + 2,
            gpt_start_audio_token=AUDIO_CODES,
            gpt_stop_audio_token=AUDIO_CODES + 1,
            gpt_use_perceiver_resampler=True,
        ),
        languages=vocabulary.languages,
        temperature=0.75,
        repetition_penalty=5.0,
        gpt_cond_len=30,
        max_ref_len=30,
    )


def _require_sizes(layers: int, channels: int, heads: int, steps: int) -> None:
    if min(layers, channels, heads) < 1 or steps < 0:
        raise ConfigError(
            "Expected at least 1 layer, 1 channel, 1 head and 0 steps, got "
            f"layers={layers}, channels={channels}, heads={heads} and steps={steps}."
        )
    if channels % heads or channels % 8:
        raise ConfigError(
            f"Expected channels to be a multiple of 8 and of the number of heads ({heads}), got {channels}."
        )


def _write_untrained(folder: Path, mel_stats: Tensor, layers: int, channels: int, heads: int) -> None:
    """Write a configuration, random weights and a speaker that match the folder's vocabulary."""
    vocabulary = load_vocabulary(folder / "vocab.json")
    config = mini_config(vocabulary, layers=layers, channels=channels, heads=heads)
    # XTTS-v2's config.json lacks the keys that newer releases of coqui-tts added.
    values: dict[str, Any] = config.to_dict() | {"model_dir": None}
    for key in ("speakers", "_supports_cloning"):
        values.pop(key)
    del values["audio"]["dvae_sample_rate"]
    (folder / "config.json").write_text(json.dumps(values, indent=4), encoding="utf-8")
    xtts = Xtts(config)
    xtts.mel_stats.copy_(mel_stats)
    _save({"model": xtts.state_dict()}, folder / "model.pth")
    voice = Voice(torch.randn(1, 32, channels), torch.nn.functional.normalize(torch.randn(1, 512, 1), dim=1))
    _save({"untrained": _speaker(voice)}, folder / "speakers_xtts.pth")


def _speak_corpora(work: Path, seed: int, progress: bool) -> dict[str, Path]:
    """Synthesize sentences with espeak-ng, and return each language's manifest."""
    return {
        language: make_corpus(texts.sentences(language, SENTENCES, seed), language, work / language, progress=progress)
        for language in texts.BASE_LANGUAGES
    }


def _recordings(manifests: dict[str, Path]) -> list[Path]:
    return sorted(file for manifest in manifests.values() for file in (manifest.parent / "wavs").iterdir())


def _kept_codes(dvae: DiscreteVAE, recordings: Sequence[Path], quality: Quality, seed: int, progress: bool) -> Tensor:
    """Do what `make_codes` does. A DVAE of high quality, which takes a minute or more, is kept in the user's cache."""
    if quality is not Quality.HIGH:
        return make_codes(dvae, recordings, quality, seed, progress)
    file = cache_folder() / f"mini-dvae-v{VERSION}-seed{seed}.pth"
    if not file.is_file():
        mel_stats = make_codes(dvae, recordings, quality, seed, progress)
        _save({"dvae": dvae.state_dict(), "mel_stats": mel_stats}, file)
    kept: dict[str, Any] = load_pickled(file, map_location="cpu")
    dvae.load_state_dict(kept["dvae"])
    stats: Tensor = kept["mel_stats"]
    return stats


def make_codes(
    dvae: DiscreteVAE, recordings: Sequence[Path], quality: Quality, seed: int, progress: bool = True
) -> Tensor:
    """Train an untrained DVAE in place on some of the recordings, and return the mel statistics [80]."""
    mels = log_mels(random.Random(seed).sample(recordings, _DVAE_UTTERANCES[quality]))
    mel_stats = mel_statistics(mels)
    mels /= mel_stats[:, None]
    if quality is Quality.HIGH:
        set_cepstral_encoder(dvae, mels, mel_stats)
    report = train_dvae(dvae, mels, decoder_steps=_DECODER_STEPS[quality], progress=progress)
    logger.info(
        " > The DVAE uses %d of %d codes, and its reconstruction loses %.0f%% of the variance of the mels.",
        report.codes_used,
        AUDIO_CODES,
        100 * report.missed_variance,
    )
    return mel_stats


def train_base(base: Path, manifests: dict[str, Path], runs: Path, steps: int, seed: int) -> None:
    """Train a base with the recipe's code and the base's own vocabulary, so that nothing is resized or frozen.

    Args:
        base: A base directory from `make_mini_base`. Its `model.pth` is overwritten.
        manifests: A manifest of recordings for each language.
        runs: Folder in which the run folder is created.
        steps: Number of training batches, each of four samples.
        seed: Random seed for the run.
    """
    values = {
        "language": next(iter(manifests)),
        "train_manifest": [f"{manifest}:{language}" for language, manifest in manifests.items()],
        "output_dir": str(runs),
        "max_steps": steps,
        "save_step": steps,
        "batch_size": 4,
        "grad_accum_steps": 1,
        "learning_rate": 2e-3,
        "grad_clip": 1.0,
        "seed": seed,
    }
    # Condition on 1.5 to 3 s instead of 3 to 6 s, because attention over the reference dominates a small model's work.
    overrides = [
        "--coqpit.model_args.min_conditioning_length=33075",
        "--coqpit.model_args.max_conditioning_length=66150",
        "--coqpit.run_eval=false",
    ]
    xtts_extend.enable()
    start = start_from(base / "model.pth")
    config = resolve_config(Flags(base_dir=str(base), warmup_steps=50, values=values, overrides=overrides), start)
    validate_config(config, start)
    samples = load_samples(config)
    model = ExtendedGPTTrainer(config)
    model.load_base(*resize_embeddings(start, config))
    # Otherwise, every batch would encode its audio, although the same recordings are used in several batches.
    samples = encode_run(samples, config, model.codec, model.xtts.tokenizer)
    trainer = ResumableTrainer(
        TrainerArgs(grad_accum_steps=config.grad_accum_steps), config, model=model, train_samples=samples.train
    )
    trainer.fit()
    _save({"model": xtts_weights(model.state_dict())}, base / "model.pth")


def _write_speakers(base: Path, recordings: list[Path]) -> None:
    """Write the voices of the corpus, each computed from the speaker's first recording."""
    xtts = load_model(base)
    voices = {
        speaker.name: make_voice(xtts, [load_audio(file, SAMPLE_RATE)])
        for speaker, file in zip(SPEAKERS, recordings, strict=False)
    }
    _save({name: _speaker(voice) for name, voice in voices.items()}, base / "speakers_xtts.pth")


def _speaker(voice: Voice) -> dict[str, Tensor]:
    return {"gpt_cond_latent": voice.latents.cpu(), "speaker_embedding": voice.embedding.cpu()}


def _save(content: Any, path: Path) -> None:
    with atomic_write(path) as file:
        torch.save(content, file)
