"""The data loaders of a run, built from its configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from xtts_extend.data.dataset import UtteranceDataset
from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import values
from xtts_extend.data.sampler import EpochBatchSampler
from xtts_extend.errors import ConfigError
from xtts_extend.model.forward import AUDIO_STOPS, conditioning_frames
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.ranks import Ranks
from xtts_extend.training.batch_memory import find_batch_frames
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")


def _dataset(config: NewLanguageConfig, tokenizer: Any, samples: Sequence[Sample], is_eval: bool) -> UtteranceDataset:
    model_args = config.model_args
    return UtteranceDataset(
        samples,
        tokenizer,
        sample_rate=config.audio.sample_rate,
        min_conditioning_length=model_args.min_conditioning_length,
        max_conditioning_length=model_args.max_conditioning_length,
        seed=config.training_seed,
        is_eval=is_eval,
        use_masking=model_args.gpt_use_masking_gt_prompt_approach,
    )


def sample_frames(samples: Sequence[Sample], model_args: Any) -> list[int]:
    """Return the length of each sample in frames (positions in the transformer's sequence).

    A frame is a conditioning vector, a text token, or an audio code for 1,024 audio samples (46 ms).

    Args:
        samples: Encoded samples.
        model_args: The configuration's `model_args`.

    Raises:
        ConfigError: A sample is not encoded.

    >>> from types import SimpleNamespace
    >>> from xtts_extend.data.encoded import Encoded
    >>> codes = Encoded("part.arrow", row=0, wav_length=44100)
    >>> sample = Sample("Hello", "/data/a.wav", "en", "a.wav", text_tokens=5, encoded=codes)
    >>> sample_frames([sample], SimpleNamespace(gpt_use_perceiver_resampler=True, gpt_code_stride_len=1024))
    [86]
    """
    fixed, stride = conditioning_frames(model_args) + 1 + AUDIO_STOPS, int(model_args.gpt_code_stride_len)
    tokens, wav_lengths = values(samples, "text_tokens"), values(samples, "wav_length")
    for position, known in enumerate(zip(tokens, wav_lengths, strict=True)):
        if None in known:
            raise ConfigError(
                f"--batch-frames: {samples[position].manifest_audio_file} is not encoded, so its length in frames is "
                "unknown. Call encode_run and pass the samples that it returns."
            )
    return [fixed + count + -(-length // stride) for count, length in zip(tokens, wav_lengths, strict=True)]


def describe_padding(sampler: EpochBatchSampler, samples: Sequence[Sample], config: NewLanguageConfig) -> str:
    """Return a log line with the number of batches per epoch, their mean size and the share of padding in them."""
    batches = sampler.batches()
    size = max(1, round(sampler.samples_in_epoch / len(batches)))
    padding = batches.padding_share(sample_frames(samples, config.model_args))
    return f" > Batches per epoch: {len(batches)}, with {size} samples and {padding:.1%} padding on average."


def first_loader(state: RunState) -> DataLoader[Any]:
    """Return the training loader of the current epoch, or of the next one if the current epoch has ended.

    This also determines the batch size for `--batch-frames auto`.

    Args:
        state: The run's state; its configuration and position are updated.
    """
    config, position, samples = state.config, state.position, state.train_samples
    if config.batch_frames == 0:
        longest = max(sample_frames(samples, config.model_args))
        config.batch_frames = state.ranks.from_main(find_batch_frames(state, longest))
    loader = train_loader(config, state.model.xtts.tokenizer, samples, state.ranks)
    sampler = cast(EpochBatchSampler, loader.batch_sampler)
    sampler.set_position(position.epoch)
    if config.batch_frames:
        logger.info(describe_padding(sampler, samples, config))
    if position.batch > len(sampler):
        logger.info(
            " > Epoch %d now has fewer batches and is already complete, so the next epoch starts.", position.epoch
        )
        position.start_epoch(position.epoch + 1)
    return loader


def train_loader(config: NewLanguageConfig, tokenizer: Any, samples: Sequence[Sample], ranks: Ranks) -> DataLoader[Any]:
    """Return a loader whose batch order is a function of (seed, epoch); its `batch_sampler` is an `EpochBatchSampler`.

    Args:
        config: The run's configuration; `batch_size` and `batch_frames` are per process.
        tokenizer: coqui's tokenizer with the run's vocabulary.
        samples: The training set.
        ranks: The processes that share each batch.
    """
    dataset = _dataset(config, tokenizer, samples, is_eval=False)
    budget = config.batch_frames
    sampler = EpochBatchSampler(
        samples,
        config.batch_size * ranks.size,
        config.training_seed,
        batch_frames=budget and budget * ranks.size,
        frames=sample_frames(samples, config.model_args) if budget else None,
        language_weights=config.language_weights or None,
        replay_share=config.replay_share if any(values(samples, "replay")) else 0.0,
        rank=ranks.rank,
        ranks=ranks.size,
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=dataset.collate_fn,
        num_workers=config.num_loader_workers,
        pin_memory=torch.cuda.is_available(),
    )


def eval_loader(config: NewLanguageConfig, tokenizer: Any, samples: Sequence[Sample], ranks: Ranks) -> DataLoader[Any]:
    """Return a loader that yields the samples in order. With N processes, each process gets every Nth sample.

    Args:
        config: The run's configuration.
        tokenizer: coqui's tokenizer with the run's vocabulary.
        samples: The samples to evaluate.
        ranks: The processes that share the samples.
    """
    dataset = _dataset(config, tokenizer, samples[ranks.rank :: ranks.size], is_eval=True)
    return DataLoader(
        dataset,
        batch_size=config.eval_batch_size,
        collate_fn=dataset.collate_fn,
        num_workers=config.num_eval_loader_workers,
        pin_memory=torch.cuda.is_available(),
    )
