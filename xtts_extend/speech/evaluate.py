"""How well a model folder speaks a language: its losses on recordings, and what its own speech is like."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from TTS.tts.models.xtts import Xtts

from xtts_extend.data.audio import load_audio
from xtts_extend.data.check import check_samples
from xtts_extend.data.manifest import read_manifests
from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError, DataError
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.model.voice import REFERENCE_RATE, make_voice, speak
from xtts_extend.pack.route import routed
from xtts_extend.progress import with_progress
from xtts_extend.run.config import NewLanguageConfig, read_json
from xtts_extend.run.ranks import Ranks
from xtts_extend.setup.base import config_for_base, require_codec
from xtts_extend.setup.samples import limits_of
from xtts_extend.speech.recognition import Recogniser, character_errors
from xtts_extend.speech.speaking import load_model
from xtts_extend.text.tokenizer import require_tag
from xtts_extend.text.vocabulary import load_vocabulary
from xtts_extend.training.evaluation import mean_losses
from xtts_extend.training.loaders import eval_loader

logger = logging.getLogger("trainer")


def evaluate(
    model: Path,
    manifests: Sequence[str],
    language: str,
    *,
    manifest_format: str = "auto",
    columns: Mapping[str, str] | None = None,
    base_dir: Path | None = None,
    recognise: Recogniser | None = None,
    count: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Losses on all samples of a language, and measurements of the first `count`, spoken by the model.

    A text is spoken in the voice of its own recording.

    Args:
        model: a folder that `export` wrote, or a base directory.
        manifests: PATH or PATH:LANG each; samples in other languages are left out.
        language: the one to evaluate.
        manifest_format, columns: as for the recipe.
        base_dir: where `dvae.pth` and `mel_stats.pth` are; by default the folder, or the base that it names.
        recognise: a speech recogniser, for the character error rate.
        count: how many samples are spoken; 0 for none.
        seed: of the sampling.
        progress: show a bar.

    Returns:
        `language`, `samples`, `loss_text_ce`, `loss_mel_ce`, `loss`; and with spoken samples `spoken`,
        `speaker_similarity` (cosine of the model's own speaker embeddings), `characters_per_s` of what was spoken and
        `recorded_characters_per_s`, `runaway_share` of the sentences without an end, and, with a recogniser,
        `character_error_rate`.

    Raises:
        ConfigError: the folder lacks files.
        DataError: a manifest cannot be read, or holds nothing usable in the language.
        LanguageError: the model does not know the language.
    """
    speaking = load_model(model)
    tokenizer = speaking.tokenizer
    require_tag(tokenizer, language)
    config = _configure(model, base_dir)
    samples = read_manifests(manifests, language, manifest_format, columns)
    samples = [sample for sample in samples if sample.language == language]
    if not samples:
        raise DataError(f"No sample in {', '.join(manifests)} is in {language}.")
    report = check_samples(samples, tokenizer, limits_of(config), progress=progress)
    logger.info(" > %s", report.summary())
    if not report.usable:
        raise DataError("There is not one usable sample. The problems are named above.")
    result: dict[str, Any] = {"language": language, "samples": len(report.usable)}
    with _vocabulary_file(speaking, model, language) as config.model_args.tokenizer_file, routed(speaking, language):
        result |= _losses(speaking, config, report.usable, progress)
    # texts of marks alone have a loss, and cannot be spoken
    speakable = [sample for sample in report.usable if any(map(str.isalnum, sample.text))]
    if count and speakable:
        torch.manual_seed(seed)
        result |= _speech(speaking, speakable[:count], language, recognise, progress)
    return result


def _configure(model: Path, base_dir: Path | None) -> NewLanguageConfig:
    """The configuration of the losses: the model's sizes, and somebody's DVAE."""
    about = model / "xtts_extend.json"
    recorded = read_json(about).get("base_dir") if about.is_file() else None
    candidates = [base_dir] if base_dir else [model, Path(str(recorded or model))]
    found = next((folder for folder in candidates if (folder / "dvae.pth").is_file()), None)
    if found is None:
        raise ConfigError(
            f"Losses need the base's dvae.pth and mel_stats.pth, which are not in {' or '.join(map(str, candidates))}. "
            "Give their folder with --base-dir."
        )
    config = config_for_base(found, model / "vocab.json", model=model)
    require_codec(config)
    return config


@contextmanager
def _vocabulary_file(speaking: Xtts, model: Path, language: str) -> Iterator[str]:
    """The vocabulary file of a language: the folder's, or while the context lasts that of its pack."""
    packs = getattr(speaking, "packs", None)
    pack = packs.packs.get(language.split("-")[0]) if packs else None
    if pack is None:
        yield str(model / "vocab.json")
        return
    with tempfile.TemporaryDirectory(prefix="xtts_extend-") as folder:
        file = Path(folder, "vocab.json")
        file.write_bytes(pack.info.vocabulary.joined(load_vocabulary(model / "vocab.json")).content.encode())
        yield str(file)


def _losses(speaking: Xtts, config: NewLanguageConfig, samples: list[Sample], progress: bool) -> dict[str, float]:
    trainer = ExtendedGPTTrainer(config)
    own = trainer.xtts.state_dict()
    state = {key: value for key, value in speaking.state_dict().items() if key in own}
    trainer.load_base(state, trainer.vocab_size)
    trainer.to(speaking.device)
    loader = eval_loader(config, trainer.xtts.tokenizer, samples, Ranks())
    return mean_losses(trainer, with_progress(loader, len(loader), "batches", progress), Ranks())


def _speech(
    xtts: Xtts, samples: Sequence[Sample], language: str, recognise: Recogniser | None, progress: bool
) -> dict[str, Any]:
    rate = xtts.config.audio.output_sample_rate
    similarities: list[float] = []
    errors = letters = characters = sentences = runaway = 0
    spoken_s = recorded_s = 0.0
    for sample in with_progress(samples, len(samples), "samples spoken", progress):
        recording = load_audio(sample.audio_file, REFERENCE_RATE)
        voice = make_voice(xtts, [recording], [sample.audio_file])
        parts = []
        for _, result in speak(xtts, sample.text, language, voice):
            parts.append(np.asarray(result["wav"], dtype=np.float32))
            sentences += 1
            runaway += result["gpt_latents"].shape[-2] >= xtts.gpt.max_gen_mel_tokens
        audio = np.concatenate(parts)
        embedding = xtts.get_speaker_embedding(torch.from_numpy(audio).unsqueeze(0), rate)
        similarities.append(float(torch.nn.functional.cosine_similarity(embedding, voice.embedding, dim=1).mean()))
        spoken_s += len(audio) / rate
        recorded_s += recording.shape[-1] / REFERENCE_RATE
        characters += len(sample.text)
        if recognise is not None:
            wrong, count = character_errors(sample.text, recognise(audio, rate))
            errors, letters = errors + wrong, letters + count
    result = {
        "spoken": len(samples),
        "speaker_similarity": sum(similarities) / len(similarities),
        "characters_per_s": characters / spoken_s,
        "recorded_characters_per_s": characters / recorded_s,
        "runaway_share": runaway / sentences,
    }
    return result | ({"character_error_rate": errors / letters} if recognise is not None else {})
