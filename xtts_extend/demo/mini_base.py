"""A complete XTTS base directory of any size, with the published one's files and keys: for demos, tests, benchmarks."""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trainer import TrainerArgs
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.layers.xtts.dvae import DiscreteVAE
from TTS.tts.models.xtts import Xtts

import xtts_extend
from xtts_extend.data.audio import load_audio
from xtts_extend.demo import texts
from xtts_extend.demo.mini_dvae import log_mels, mel_statistics, train_dvae
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

#: Part of the cache's folder names: raise it when what `make_mini_base` makes changes.
VERSION = 4
#: GPT steps of the demo's base: two minutes on two cores.
DEMO_STEPS = 600
#: Entries of the built-in vocabulary.
VOCABULARY_SIZE = 400
AUDIO_CODES = 1024
#: Log mels of speech lie between -11.5 (silence) and 6; the trained statistics are about this large as well.
UNTRAINED_MEL_SCALE = 5.0
#: Of each language that it is trained on, the first ones.
SENTENCES = 400
#: Of both languages together: twenty minutes are enough for the DVAE.
_DVAE_UTTERANCES = 300
_DECODER_STEPS = 80


def make_mini_base(
    output: Path,
    *,
    vocab: Path | None = None,
    layers: int = 4,
    channels: int = 128,
    heads: int = 2,
    steps: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Make a base directory: config.json, model.pth, vocab.json, dvae.pth, mel_stats.pth and speakers_xtts.pth.

    Args:
        output: the folder to make; it appears when it is complete, or not at all.
        vocab: the vocabulary to build for; by default a small one for English and Spanish is learned.
        layers, channels, heads: sizes of the GPT.
        steps: batches on which the GPT is trained, on English and Spanish espeak-ng speech, after the DVAE; with 0
            nothing is trained and no speech is needed.
        seed: the same arguments give the same weights.
        progress: show bars on stderr.

    Raises:
        ConfigError: `output` exists and is not an empty folder, or the network cannot have these sizes.
        VocabularyError: `vocab` is not an XTTS vocabulary.
        LanguageError: it is to be trained, and `vocab` lacks the tag of English or Spanish.
        MachineError: the disk is full or cannot be written to; espeak-ng is needed and missing.
    """
    _require_sizes(layers, channels, heads, steps)
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
            mel_stats = _train_dvae(dvae, _recordings(manifests), seed, progress)
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
    """The demo's base, made once and kept in `files.cache_folder`.

    Raises:
        MachineError: as `make_mini_base`.
    """
    base = cache_folder() / f"mini-base-v{VERSION}-steps{steps}"
    if base.exists() and not all((base / name).is_file() for name in FILES):
        shutil.rmtree(base)
    if not base.exists():
        make_mini_base(base, steps=steps)
    return base


def mini_config(vocabulary: Vocabulary, *, layers: int, channels: int, heads: int) -> XttsConfig:
    """The published XTTS-v2's config with other sizes, for a vocabulary and its languages."""
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
            f"layers {layers}, channels {channels}, heads {heads}, steps {steps}: at least 1, 1, 1 and 0 were expected."
        )
    if channels % heads or channels % 8:
        raise ConfigError(f"{channels} channels with {heads} heads: expected a multiple of the heads and of 8.")


def _write_untrained(folder: Path, mel_stats: Tensor, layers: int, channels: int, heads: int) -> None:
    """Configuration, weights as drawn and a speaker, for the vocabulary in `folder`."""
    vocabulary = load_vocabulary(folder / "vocab.json")
    config = mini_config(vocabulary, layers=layers, channels=channels, heads=heads)
    # the keys of the published file: what newer releases of coqui-tts added is missing there as well
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
    """Manifests of espeak-ng speech, by language."""
    return {
        language: make_corpus(texts.sentences(language, SENTENCES, seed), language, work / language, progress=progress)
        for language in texts.BASE_LANGUAGES
    }


def _recordings(manifests: dict[str, Path]) -> list[Path]:
    return sorted(file for manifest in manifests.values() for file in (manifest.parent / "wavs").iterdir())


def _train_dvae(dvae: DiscreteVAE, recordings: list[Path], seed: int, progress: bool) -> Tensor:
    """Train the DVAE in place; returns the mel statistics [80]."""
    mels = log_mels(random.Random(seed).sample(recordings, _DVAE_UTTERANCES))
    mel_stats = mel_statistics(mels)
    report = train_dvae(dvae, mels / mel_stats[:, None], decoder_steps=_DECODER_STEPS, progress=progress)
    logger.info(
        " > DVAE: %d of %d codes in use, decoded mels miss %.0f %% of the variance",
        report.codes_used,
        AUDIO_CODES,
        100 * report.missed_variance,
    )
    return mel_stats


def train_base(base: Path, manifests: dict[str, Path], runs: Path, steps: int, seed: int) -> None:
    """Train `model.pth` with the recipe's steps; with the base's own vocabulary nothing is resized or frozen.

    Args:
        base: a base directory of ours; its `model.pth` is replaced.
        manifests: recordings by language.
        runs: the run folder is made in it.
        steps: how many batches of four.
        seed: of the run.
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
    # conditioning on 1.5 to 3 s instead of 3 to 6: the attention over it is most of the work in a small model
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
    # each batch would encode its own otherwise, and there are more of these than recordings
    samples = encode_run(samples, config, model.codec, model.xtts.tokenizer)
    trainer = ResumableTrainer(
        TrainerArgs(grad_accum_steps=config.grad_accum_steps), config, model=model, train_samples=samples.train
    )
    trainer.fit()
    _save({"model": xtts_weights(model.state_dict())}, base / "model.pth")


def _write_speakers(base: Path, recordings: list[Path]) -> None:
    """The voices of the corpus, each from its first recording."""
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
