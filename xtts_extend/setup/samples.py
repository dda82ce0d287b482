"""Read and check a run's samples from manifests and replay sets. Unusable samples are reported and skipped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

import xtts_extend
from xtts_extend.data.check import DataLimits, check_samples
from xtts_extend.data.codes import encode_samples
from xtts_extend.data.encoded import is_encoded_set, read_encoded, require_free
from xtts_extend.data.manifest import read_manifest
from xtts_extend.data.processes import SINGLE_PROCESS, Processes, main_first
from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import SampleTable
from xtts_extend.data.sampler import EpochBatchSampler
from xtts_extend.errors import ConfigError, DataError, MachineError
from xtts_extend.files import file_digest, require_creatable
from xtts_extend.model.codec import Codec
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.text.tokenizer import load_tokenizer, require_tag
from xtts_extend.text.vocabulary import load_vocabulary

logger = logging.getLogger("trainer")
#: Name of the data check's cache file in an output folder or a set of codes.
CHECKED = ".data-check.jsonl"


@dataclass(frozen=True)
class RunSamples:
    """The usable samples of a run.

    Attributes:
        train: Training samples. Replayed samples come last and are marked with `replay`.
        evaluation: Validation samples; empty if the run has no validation data.
    """

    train: Sequence[Sample]
    evaluation: Sequence[Sample]


def data_digest(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of the file names (as written), texts and languages in the manifests, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        values = [sample.manifest_audio_file, sample.text, sample.language]
        if sample.encoded is not None and sample.encoded.part_digest is not None:
            values.append(sample.encoded.part_digest)
        for value in values:
            digest.update(value.encode() + b"\0")
        if sample.replay:
            digest.update(b"replay\0")
    return digest.hexdigest()


def limits_of(config: NewLanguageConfig) -> DataLimits:
    """Return the configured maximum lengths of audio and text, capped at the model's number of positions."""
    model_args = config.model_args
    # GPT.forward adds three codes, a silence and a start token to the audio, and start and stop tokens to the text.
    positions = (model_args.gpt_max_audio_tokens + 3 - 5) * model_args.gpt_code_stride_len
    return DataLimits(
        sample_rate=config.audio.sample_rate,
        max_wav_length=min(model_args.max_wav_length, positions),
        max_text_length=min(model_args.max_text_length, model_args.gpt_max_text_tokens - 2),
    )


def load_samples(config: NewLanguageConfig, processes: Processes = SINGLE_PROCESS) -> RunSamples:
    """Read and check manifests and replay sets. Unusable samples are reported and skipped.

    Args:
        config: The run's configuration.
        processes: The processes that call this function with the same configuration and divide the recordings. Each of
            them returns the same samples.

    Raises:
        ConfigError: A replay set contains the language to learn.
        DataError: A manifest cannot be read, no sample is usable, or a larger share than `max_bad_share` is unusable.
        MachineError: The cache's folder cannot be created.
    """
    tokenizer = load_tokenizer(Path(config.model_args.tokenizer_file))
    if config.codes:
        require_free(Path(config.codes))
    # Shared with `encode` and earlier runs, so that recordings are not measured again.
    cache = Path(config.codes or config.output_path) / CHECKED
    require_creatable(cache.parent)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"Cannot create the folder {cache.parent}: {error.strerror}. Choose a different --output-dir or --codes."
        ) from error
    usable: dict[str, list[Sample]] = {}
    parts = {"training": config.train_manifests, "replay": config.replay, "evaluation": config.val_manifests}
    for name, specs in parts.items():
        if not specs:
            continue
        # Rank 0 extracts recordings that are embedded in tables.
        with main_first(processes):
            samples = _read(specs, config)
        languages = sorted({sample.language for sample in samples})
        for language in languages:
            require_tag(tokenizer, language)
        if name == "replay" and config.language in languages:
            raise ConfigError(
                f"--replay contains utterances in {config.language}, the language to learn. Replay is for languages "
                "that the base already knows. Pass speech in the new language with --train-manifest."
            )
        report = check_samples(samples, tokenizer, limits_of(config), cache=cache, processes=processes)
        logger.info(" > Checked the %s data:\n%s", name, report.summary(20, name_warnings=False))
        if report.unusable_share > config.max_bad_share:
            raise DataError(
                f"{len(samples) - len(report.usable)} of {len(samples)} {name} samples are unusable "
                f"({report.unusable_share:.1%}; --max-bad-share allows {config.max_bad_share:.1%}). They are listed "
                "above. Fix them, write a manifest of the usable ones with check-data --write-clean, or raise the "
                "limit."
            )
        if not report.usable:
            raise DataError(f"No {name} sample is usable. Fix the problems listed above.")
        usable[name] = report.usable
    _warn_of_overlap(usable["training"], usable.get("evaluation", []))
    train = usable["training"] + [replace(sample, replay=True) for sample in usable.get("replay", [])]
    # Constructed only to check the language weights: the sampler raises an error if they do not match the languages.
    EpochBatchSampler(
        train,
        config.batch_size,
        config.training_seed,
        config.language_weights or None,
        replay_share=config.replay_share if config.replay else 0.0,
    )
    return RunSamples(train, usable.get("evaluation", []))


def _warn_of_overlap(train: Sequence[Sample], evaluation: Sequence[Sample]) -> None:
    """Warn if validation recordings are also used for training. Files are compared by content."""
    trained = {sample.audio_digest for sample in train if sample.audio_digest is not None}
    overlap = [sample.manifest_audio_file for sample in evaluation if sample.audio_digest in trained]
    if overlap:
        logger.warning(
            " > Validation recordings that are also training recordings: %d of %d (%s%s). Losses on these recordings "
            "say nothing about unseen speech, yet they help determine which model is best. Remove the recordings from "
            "one of the manifests.",
            len(overlap),
            len(evaluation),
            ", ".join(overlap[:5]),
            ", …" if len(overlap) > 5 else "",
        )


def encode_run(
    samples: RunSamples,
    config: NewLanguageConfig,
    codec: Codec,
    tokenizer: VoiceBpeTokenizer,
    processes: Processes = SINGLE_PROCESS,
) -> RunSamples:
    """Add codes and token ids to the samples.

    Both are computed once and cached in the `codes` folder or, by default, next to the run folders. Several processes
    divide the recordings.

    Raises:
        ConfigError: The codes folder contains something other than a set, or codes from a different DVAE.
        DataError: A recording cannot be read.
        MachineError: The disk is full.
    """
    digest = codec_digest(config)
    folder = Path(config.codes or Path(config.output_path).absolute() / ".codes" / digest[:16])
    encoded, count = encode_into(
        folder, [*samples.train, *samples.evaluation], config, codec, tokenizer, digest, processes=processes
    )
    # Free GPU memory, because the codec is no longer needed.
    codec.to(torch.device("cpu"))
    if count:
        logger.info(" > Number of newly encoded recordings: %d. Their codes were saved in %s.", count, folder)
    trained = len(samples.train)
    return RunSamples(encoded.part(0, trained), encoded.part(trained, len(encoded)))


def encode_into(
    folder: Path,
    samples: Sequence[Sample],
    config: NewLanguageConfig,
    codec: Codec,
    tokenizer: VoiceBpeTokenizer,
    digest: str,
    progress: bool = True,
    processes: Processes = SINGLE_PROCESS,
) -> tuple[SampleTable, int]:
    """Run `encode_samples` with a configuration's vocabulary and sample rate, on the GPU if there is one.

    Args:
        folder: Folder for the set of codes.
        samples: Samples to encode.
        config: Configuration with the vocabulary and the sample rate.
        codec: DVAE that computes the codes.
        tokenizer: Tokenizer of the vocabulary.
        digest: The configuration's `codec_digest`.
        progress: Whether to show a progress bar.
        processes: The processes that divide the recordings.

    Returns:
        The samples with codes and token ids, and the number of recordings encoded by this call.
    """
    vocabulary = load_vocabulary(Path(config.model_args.tokenizer_file))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return encode_samples(
        samples,
        lambda wav: codec.encode(wav.to(device)).cpu(),
        tokenizer.encode,
        folder,
        codec_digest=digest,
        # A different release may clean texts differently.
        text_digest=f"{vocabulary.digest} {xtts_extend.__version__}",
        sample_rate=config.audio.sample_rate,
        progress=progress,
        processes=processes,
    )


def codec_digest(config: NewLanguageConfig) -> str:
    """Return the SHA-256 of the DVAE and mel statistics, which determine the codes of a recording."""
    files = (config.model_args.dvae_checkpoint, config.model_args.mel_norm_file)
    return hashlib.sha256("".join(file_digest(Path(file)) for file in files).encode()).hexdigest()


def _read(specs: Sequence[str], config: NewLanguageConfig) -> list[Sample]:
    """Read the samples of manifests (PATH or PATH:LANG) and replay sets."""
    samples: list[Sample] = []
    for spec in specs:
        if is_encoded_set(Path(spec)):
            samples += read_encoded(Path(spec), config.model_args.gpt_code_stride_len, config.audio.sample_rate)
        else:
            samples += read_manifest(spec, config.language, config.manifest_format, config.columns)
    return samples
