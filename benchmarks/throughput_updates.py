"""Update several models on the same batches for throughput.py, to compare their losses and count their operations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mini_runs import table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.data.audio import load_audio
from xtts_extend.data.dataset import UtteranceDataset
from xtts_extend.data.manifest import read_manifests
from xtts_extend.data.sampler import EpochBatchSampler
from xtts_extend.model.coqui_trainer import GPTTrainer
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, xtts_weights
from xtts_extend.model.voice import freeze_voice
from xtts_extend.progress import with_progress
from xtts_extend.setup.base import config_for_base

_RATE = 22050
_CURVE_STEPS = 200
_CURVE_RATE = 1e-4
#: Number of utterances whose operations are counted; size of the matrix whose product is timed, and number of times.
_FLOP_UTTERANCES = 16
_MATRIX, _PRODUCTS = 4096, 5
_GPU = torch.cuda.is_available()


class Updates:
    """Models that start from one base model and are updated on the same batches.

    Args:
        folder: Folder with the base model and the speech.
        kinds: Classes of the models.
        batch: Batch size; samples are in random order, as in coqui's recipe.
        voice: "frozen" or "trained", the voice side of all models.
    """

    def __init__(self, folder: Path, kinds: Sequence[type], batch: int, voice: str) -> None:
        config = config_for_base(folder / "base")
        config.lr = _CURVE_RATE
        weights = xtts_weights(load_checkpoint(folder / "base" / "model.pth")[0]["model"])
        self.models = []
        for kind in kinds:
            model = kind(config)
            model.xtts.load_state_dict(weights)
            model.xtts.gpt.to("cuda" if _GPU else "cpu")
            if voice == "frozen":
                freeze_voice(model.xtts.gpt)
            model.eval()
            model.xtts.gpt.train()
            self.models.append(model)
        self._formatter = next(model for model in self.models if isinstance(model, ExtendedGPTTrainer))
        samples = read_manifests([str(folder / "speech" / "metadata.csv")], "en")
        limit, args = config.model_args.max_wav_length, config.model_args
        samples = [sample for sample in samples if load_audio(sample.audio_file, _RATE).shape[-1] < limit]
        self._data = UtteranceDataset(
            samples, self._formatter.xtts.tokenizer, sample_rate=_RATE, seed=1, is_eval=False, use_masking=True,
            min_conditioning_length=args.min_conditioning_length, max_conditioning_length=args.max_conditioning_length,
        )  # fmt: skip
        self._sampler = EpochBatchSampler(samples, batch, seed=1)

    def batches(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield the first `count` batches in the format of the models."""
        for step in range(count):
            epoch, index_in_epoch = divmod(step, len(self._sampler))
            if index_in_epoch == 0:
                self._sampler.set_position(epoch)
                self._data.set_epoch(epoch)
            collated = self._data.collate_fn([self._data[index] for index in self._sampler.batch(index_in_epoch)])
            yield self._formatter.formatted(collated)


def flops_per_second_of_audio(folder: Path, voice: str) -> float:
    """Return the operations of forward and backward pass per second of audio, for batches of one without padding."""
    updates = Updates(folder, [ExtendedGPTTrainer], 1, voice)
    audio, counter = 0.0, FlopCounterMode(display=False)
    # The counter supports matrix products on every device, unlike fused attention.
    with sdpa_kernel(SDPBackend.MATH), counter:
        for batch in updates.batches(_FLOP_UTTERANCES):
            audio += float(batch["wav_lengths"].sum()) / _RATE
            updates.models[0].train_step(batch, None)[1]["loss"].backward()
    return float(counter.get_total_flops() / audio)


def matrix_product_flops() -> float:
    """Return the operations per second of a large matrix product in bfloat16 on this machine, the median of several."""
    matrix = torch.randn(_MATRIX, _MATRIX, device="cuda" if _GPU else "cpu").bfloat16()
    seconds = []
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        matrix @ matrix
        if _GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * _MATRIX**3 / statistics.median(seconds)


def curves(folder: Path, batch: int) -> None:
    """Print the losses of the same updates with coqui's forward pass in float32 and with ours in bfloat16.

    The voice side is frozen in all models.
    """
    updates = Updates(folder, [GPTTrainer, GPTTrainer, ExtendedGPTTrainer], batch, "frozen")
    optimizers = [model.get_optimizer() for model in updates.models]
    losses: list[list[float]] = [[], [], []]
    for step, batch_of_step in enumerate(with_progress(updates.batches(_CURVE_STEPS), _CURVE_STEPS, "updates")):
        # Stock runs twice with different dropout, which shows how far apart two equal runs are.
        for number, (model, optimizer) in enumerate(zip(updates.models, optimizers, strict=True)):
            torch.manual_seed(1000 * number + step)
            losses[number].append(_update(model, optimizer, batch_of_step, ours=number == 2))
    rows = [["updates", "stock", "stock, other dropout", "ours"]]
    for end in range(25, _CURVE_STEPS + 1, 25):
        rows.append([f"{end - 24}–{end}", *(f"{statistics.fmean(curve[end - 25 : end]):.4f}" for curve in losses)])
    print(table(rows))
    gaps = [statistics.fmean(abs(a - b) for a, b in zip(losses[0], other, strict=True)) for other in losses[1:]]
    print(f"\nMean difference of the losses of an update: stock and stock {gaps[0]:.4f}, stock and ours {gaps[1]:.4f}.")


def _update(model: Any, optimizer: torch.optim.Optimizer, batch: Mapping[str, Any], *, ours: bool) -> float:
    if ours:
        with torch.autocast("cuda" if _GPU else "cpu", torch.bfloat16):
            loss = model.train_step(dict(batch), None)[1]["loss"]
    else:
        loss_text, loss_mel, _ = model.xtts.gpt(
            batch["text_inputs"], batch["text_lengths"], batch["audio_codes"], batch["wav_lengths"],
            cond_mels=batch["cond_mels"], cond_idxs=batch["cond_idxs"].clone(),
        )  # fmt: skip
        loss = 0.01 * loss_text + loss_mel
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
