"""The data loaders of a run, from its configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from xtts_extend.data.dataset import UtteranceDataset
from xtts_extend.data.sample import Sample
from xtts_extend.data.sampler import EpochBatchSampler, padding_share
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
    """Places of the transformer's sequence that each encoded sample takes: conditioning, text and audio.

    A place of audio is 1,024 samples, 46 ms.

    Raises:
        ConfigError: one is not encoded.
    """
    fixed = conditioning_frames(model_args) + 1 + AUDIO_STOPS
    return [fixed + tokens + codes for tokens, codes in _sample_lengths(samples, int(model_args.gpt_code_stride_len))]


def _sample_lengths(samples: Sequence[Sample], stride: int) -> Iterator[tuple[int, int]]:
    """Of each encoded sample the tokens of its text, and the codes of its audio."""
    for sample in samples:
        if sample.text_tokens is None or sample.encoded is None:
            raise ConfigError(
                f"--batch-frames: {sample.manifest_audio_file} is not encoded, so that its length is not known. Give "
                "the trainer what load_samples and encode_run return."
            )
        yield sample.text_tokens, -(-sample.encoded.wav_length // stride)


def describe_padding(sampler: EpochBatchSampler, samples: Sequence[Sample], config: NewLanguageConfig) -> str:
    """How many batches an epoch has, and how much of them is padding."""
    batches = sampler.batches()
    size = max(1, round(sum(map(len, batches)) / len(batches)))
    padding = padding_share(batches, sample_frames(samples, config.model_args))
    return f" > {len(batches)} batches of {size} samples on average; padding {padding:.1%}"


def first_loader(state: RunState) -> DataLoader[Any]:
    """The batches that a run goes on with, as large as it says; where its epoch is over by now, those of the next one.

    `--batch-frames auto` is decided here.
    """
    config, position, samples = state.config, state.position, state.train_samples
    if config.batch_frames == 0:
        widest = max(sample_frames(samples, config.model_args))
        config.batch_frames = state.ranks.from_main(find_batch_frames(state, widest))
    loader = train_loader(config, state.model.xtts.tokenizer, samples, state.ranks)
    sampler = cast(EpochBatchSampler, loader.batch_sampler)
    sampler.set_position(position.epoch)
    if config.batch_frames:
        logger.info(describe_padding(sampler, samples, config))
    if position.batch > len(sampler):
        logger.info(" > epoch %d has fewer batches now, and is over: the next one begins.", position.epoch)
        position.start_epoch(position.epoch + 1)
    return loader


def train_loader(config: NewLanguageConfig, tokenizer: Any, samples: Sequence[Sample], ranks: Ranks) -> DataLoader[Any]:
    """Batches in the order of (seed, epoch); `batch_sampler` is an `EpochBatchSampler`.

    Args:
        config: of the run.
        tokenizer: coqui's.
        samples: of `data.manifest`.
        ranks: the processes that share each batch; `batch_size` and `batch_frames` are those of one.
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
        replay_share=config.replay_share if any(sample.replay for sample in samples) else 0.0,
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
    """Samples in their order; of several processes each has every so-manieth."""
    dataset = _dataset(config, tokenizer, samples[ranks.rank :: ranks.size], is_eval=True)
    return DataLoader(
        dataset,
        batch_size=config.eval_batch_size,
        collate_fn=dataset.collate_fn,
        num_workers=config.num_eval_loader_workers,
        pin_memory=torch.cuda.is_available(),
    )
