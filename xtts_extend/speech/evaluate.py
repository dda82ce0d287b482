"""Evaluate a model folder by its losses on recordings and by measurements of the speech that it generates."""

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
from xtts_extend.speech.recognition import Recogniser, character_errors, transcribe
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
    """Compute a model's losses on all samples in a language, and evaluate its speech for the first `count` texts.

    Each text is spoken in the voice of its own recording.

    Args:
        model: A folder that `export` wrote, or a base directory.
        manifests: The manifests, each as PATH or PATH:LANG. Samples in other languages are skipped.
        language: Code of the language to evaluate.
        manifest_format: `auto`, or the name of a formatter registered with coqui.
        columns: Role → column of the manifests, as in the recipe's `--columns`.
        base_dir: Folder with `dvae.pth` and `mel_stats.pth`. By default, `model` itself or the base that it records.
        recognise: The speech recognizer with which the character error rate is measured.
        count: Number of samples to speak; 0 for none.
        seed: Random seed for sampling.
        progress: Whether to show progress.

    Returns:
        `language`, `samples`, `loss_text_ce`, `loss_mel_ce` and `loss`. If samples are spoken, also `spoken`,
        `speaker_similarity` (cosine similarity of the model's speaker embeddings), `characters_per_s` of the speech,
        `recorded_characters_per_s` of the recordings, `runaway_share` (share of sentences whose speech did not end)
        and, with a recognizer, `character_error_rate`.

    Raises:
        ConfigError: A file is missing from the folder.
        DataError: A manifest cannot be read, or has no usable sample in the language.
        LanguageError: The model does not support the language.

    >>> from xtts_extend.speech.export import export
    >>> exported = export(Path("runs/RUN"), Path("model"))
    >>> losses = evaluate(Path("model"), ["val.csv"], "am", count=0, progress=False)
    >>> list(losses)
    ['language', 'samples', 'loss_text_ce', 'loss_mel_ce', 'loss']
    """
    xtts = load_model(model)
    tokenizer = xtts.tokenizer
    require_tag(tokenizer, language)
    config = _evaluation_config(model, base_dir)
    samples = read_manifests(manifests, language, manifest_format, columns)
    samples = [sample for sample in samples if sample.language == language]
    if not samples:
        raise DataError(
            f"No samples for language {language} were found in {', '.join(manifests)}. Pass different manifests or a "
            "different --language."
        )
    report = check_samples(samples, tokenizer, limits_of(config), progress=progress)
    logger.info(" > %s", report.summary())
    if not report.usable:
        raise DataError("No sample is usable. Fix the problems listed above.")
    result: dict[str, Any] = {"language": language, "samples": len(report.usable)}
    with _vocabulary_file(xtts, model, language) as config.model_args.tokenizer_file, routed(xtts, language):
        result |= _losses(xtts, config, report.usable, progress)
    # Texts without letters or digits have a loss but cannot be spoken.
    speakable = [sample for sample in report.usable if any(map(str.isalnum, sample.text))]
    if count and speakable:
        torch.manual_seed(seed)
        result |= _speech(xtts, speakable[:count], language, recognise, progress)
    return result


def _evaluation_config(model: Path, base_dir: Path | None) -> NewLanguageConfig:
    """Return the configuration for computing losses, with the model's dimensions and the base's DVAE."""
    metadata = model / "xtts_extend.json"
    recorded = read_json(metadata).get("base_dir") if metadata.is_file() else None
    candidates = [base_dir] if base_dir else [model, Path(str(recorded or model))]
    base = next((folder for folder in candidates if (folder / "dvae.pth").is_file()), None)
    if base is None:
        raise ConfigError(
            "Computing losses requires the base's dvae.pth and mel_stats.pth, which are not in "
            f"{' or '.join(map(str, candidates))}. Pass the folder that contains them with --base-dir."
        )
    config = config_for_base(base, model / "vocab.json", model=model)
    require_codec(config)
    return config


@contextmanager
def _vocabulary_file(xtts: Xtts, model: Path, language: str) -> Iterator[str]:
    """Yield the vocabulary file of a language: the folder's own, or a temporary one for the language's pack."""
    packs = getattr(xtts, "packs", None)
    pack = packs.packs.get(language.split("-")[0]) if packs else None
    if pack is None:
        yield str(model / "vocab.json")
        return
    with tempfile.TemporaryDirectory(prefix="xtts_extend-") as folder:
        file = Path(folder, "vocab.json")
        file.write_bytes(pack.info.vocabulary.joined(load_vocabulary(model / "vocab.json")).content.encode())
        yield str(file)


def _losses(xtts: Xtts, config: NewLanguageConfig, samples: list[Sample], progress: bool) -> dict[str, float]:
    trainer = ExtendedGPTTrainer(config)
    trained = trainer.xtts.state_dict()
    state = {key: value for key, value in xtts.state_dict().items() if key in trained}
    trainer.load_base(state, trainer.vocab_size)
    trainer.to(xtts.device)
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
            wrong, count = character_errors(sample.text, transcribe(recognise, audio, rate))
            errors, letters = errors + wrong, letters + count
    result = {
        "spoken": len(samples),
        "speaker_similarity": sum(similarities) / len(similarities),
        "characters_per_s": characters / spoken_s,
        "recorded_characters_per_s": characters / recorded_s,
        "runaway_share": runaway / sentences,
    }
    return result | ({"character_error_rate": errors / letters} if recognise is not None else {})
