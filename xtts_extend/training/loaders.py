"""The data loaders of a run, from its configuration."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from xtts_extend.data.dataset import UtteranceDataset
from xtts_extend.data.sampler import EpochBatchSampler
from xtts_extend.training.ranks import Ranks


def _dataset(config: Any, tokenizer: Any, samples: list[Any], is_eval: bool) -> UtteranceDataset:
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


def train_loader(config: Any, tokenizer: Any, samples: list[Any], ranks: Ranks) -> DataLoader[Any]:
    """Batches in the order of (seed, epoch); `batch_sampler` is an `EpochBatchSampler`.

    Args:
        config: a `GPTTrainerConfig`; `language_weights` is read where it has them.
        tokenizer: coqui's.
        samples: of `data.manifest`.
        ranks: the processes that share each batch; `batch_size` is that of one.
    """
    dataset = _dataset(config, tokenizer, samples, is_eval=False)
    sampler = EpochBatchSampler(
        samples,
        config.batch_size * ranks.size,
        config.training_seed,
        language_weights=getattr(config, "language_weights", None) or None,
        replay_share=config.replay_share if any(sample.get("replay") for sample in samples) else 0.0,
        rank=ranks.rank,
        ranks=ranks.size,
    )
    return DataLoader(
        dataset, batch_sampler=sampler, collate_fn=dataset.collate_fn, num_workers=config.num_loader_workers
    )


def eval_loader(config: Any, tokenizer: Any, samples: list[Any], ranks: Ranks) -> DataLoader[Any]:
    """Samples in their order; of several processes each has every so-manieth."""
    dataset = _dataset(config, tokenizer, samples[ranks.rank :: ranks.size], is_eval=True)
    return DataLoader(
        dataset,
        batch_size=config.eval_batch_size,
        collate_fn=dataset.collate_fn,
        num_workers=config.num_eval_loader_workers,
    )
