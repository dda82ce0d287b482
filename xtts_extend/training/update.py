"""Training on one batch: forward pass, backward pass, and the optimizer step at the end of an accumulation.

This replaces the stock Trainer's `optimize`, which updates the weights even if the loss is not finite, waits for the
GPU after every batch to read its losses, ends the run when memory runs out, and, with several processes, calls the
module inside DDP directly, so gradients are never synchronized.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from trainer import Trainer

from xtts_extend.data.dataset import UtteranceDataset, split_batch
from xtts_extend.data.sampler import EpochBatchSampler
from xtts_extend.errors import CheckFailed, MachineError
from xtts_extend.model.forward import Layout
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.training.state import RunState

logger = logging.getLogger("trainer")
#: Number of consecutive skipped updates after which the run stops.
MAX_FAILED_UPDATES = 3
#: Text for an out-of-memory error that has no message.
_NO_DETAILS = "PyTorch gave no details."


def out_of_memory_error(message: str) -> MachineError:
    """Return the error that ends a run when the GPU is out of memory; `message` is torch's error message."""
    first_line = (message or _NO_DETAILS).splitlines()[0]
    return MachineError(
        f"The GPU is out of memory: {first_line} Resume from the newest checkpoint with smaller batches "
        "(--batch-frames or --batch-size, plus --allow-changes) or with --gradient-checkpointing."
    )


class _TrainingLosses(nn.Module):
    """A module that computes the training losses in `forward`, where DDP prepares gradient synchronization.

    Only the GPT is trained.
    """

    def __init__(self, model: ExtendedGPTTrainer) -> None:
        super().__init__()
        self.gpt = model.xtts.gpt
        self._train_step = model.train_step

    def forward(self, batch: dict[str, Any]) -> Mapping[str, Tensor]:
        losses: Mapping[str, Tensor] = self._train_step(batch, None)[1]
        return losses


@dataclass
class _AccumulatedBatch:
    """A batch of the current gradient accumulation: its step, index in the epoch, sample names and losses."""

    step: int
    index: int
    names: Sequence[str]
    losses: dict[str, Tensor]


class Hooks:
    """The trainer callbacks that an update calls."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def before_backward(self, losses: Mapping[str, Tensor]) -> None:
        """Call the trainer's callbacks with the losses of a micro-batch."""
        self._trainer.callbacks.before_backward_pass(self._trainer, losses)

    def before_clipping(self) -> None:
        """Call the trainer's callbacks when the gradients of an update are complete."""
        self._trainer.callbacks.before_gradient_clipping(self._trainer)


class Updater:
    """The object that trains a run's model on batches, with gradient accumulation.

    Args:
        state: The run's state; its model, optimizer and position are updated.
        hooks: The trainer callbacks to call.
    """

    def __init__(self, state: RunState, hooks: Hooks) -> None:
        self.state, self.ranks, self._hooks = state, state.ranks, hooks
        self._losses: nn.Module = _TrainingLosses(state.model)
        if self.ranks.size > 1:
            self._losses = DistributedDataParallel(self._losses, broadcast_buffers=False)
        self._loss_names = ["loss_text_ce", "loss_mel_ce"]
        if state.model.distill_weight:
            self._loss_names.append("loss_distill")
        self._accumulated: list[_AccumulatedBatch] = []

    def step(
        self, batch: dict[str, Any], names: Sequence[str], loader: DataLoader[Any], *, completes_update: bool
    ) -> dict[str, Tensor]:
        """Train on this process's share of a batch.

        If a loss or gradient in an accumulation is not finite, the update is skipped. If a batch does not fit in GPU
        memory, it and all later batches are split into two micro-batches; the gradient is still that of the full batch.

        Args:
            batch: This process's share of the batch, collated. If there are fewer samples than processes, the last
                processes get a dummy sample of weight zero.
            names: Names of all samples in the batch.
            loader: The training loader, from which the accumulation's batches are read again if they have to be split.
            completes_update: Whether the optimizer steps after this batch.

        Returns:
            `loss` and its parts, on the device, with the names that `ExtendedGPTTrainer.train_step` uses. `read`
            converts them to numbers.

        Raises:
            CheckFailed: `MAX_FAILED_UPDATES` updates in a row were skipped.
            MachineError: A micro-batch does not fit in GPU memory.
        """
        position = self.state.position
        trained = _AccumulatedBatch(position.step + 1, position.batch, names, {})
        self._accumulated.append(trained)
        if message := self._catch_out_of_memory(lambda: self._train(trained, batch, completes_update)):
            if self.ranks.size > 1 or position.micro_batches > 1:
                raise out_of_memory_error(message)
            self._split_batches()
            if message := self._catch_out_of_memory(lambda: self._restart_accumulation(loader, completes_update)):
                raise out_of_memory_error(message)
        if completes_update:
            self._optimizer_step()
        return trained.losses

    def read(self, losses: Sequence[Mapping[str, Tensor]]) -> list[dict[str, float]]:
        """Return losses as numbers, summed over all processes. This waits for the device only once.

        Args:
            losses: Results of `step` for several batches.
        """
        if not losses:
            return []
        names = ["loss", *self._loss_names]
        table = torch.stack([torch.stack([values[name] for name in names]) for values in losses]).tolist()
        if self.ranks.size > 1:
            flat = self.ranks.sum([value for row in table for value in row[1:]])
            rows = [flat[start : start + len(self._loss_names)] for start in range(0, len(flat), len(self._loss_names))]
            table = [[sum(row), *row] for row in rows]
        return [dict(zip(names, row, strict=True)) for row in table]

    def _train(self, trained: _AccumulatedBatch, batch: dict[str, Any], completes_update: bool) -> None:
        """Compute the losses and gradients of a batch, one micro-batch at a time."""
        state, ranks = self.state, self.ranks
        state.seed("train", trained.step)
        micro_batches = split_batch(batch, state.position.micro_batches)
        last_rank = min(len(trained.names), ranks.size) - 1
        for number, micro_batch in enumerate(micro_batches):
            micro_batch["is_share"] = len(trained.names) > 1
            if (ranks.rank, number) != (last_rank, len(micro_batches) - 1):
                # coqui masks only the prompt of the last sample of the full batch.
                micro_batch["cond_idxs"] = None
        sums: dict[str, Tensor] = {}
        for number, (micro_batch, weights) in enumerate(
            zip(micro_batches, self._weights(micro_batches, last_rank), strict=True)
        ):
            exchanges = completes_update and number == len(micro_batches) - 1
            losses = self._forward(state.model.formatted(micro_batch), exchanges)
            self._hooks.before_backward(losses)
            if weights:
                weighted = {name: weight * losses[name] for name, weight in weights.items()}
                losses = {"loss": torch.stack(list(weighted.values())).sum(), **weighted}
            # DDP averages gradients over the processes.
            self._backward(losses["loss"] * ranks.size if weights else losses["loss"], exchanges)
            for name in ("loss", *self._loss_names):
                sums[name] = sums[name] + losses[name].detach() if name in sums else losses[name].detach()
        trained.losses = sums

    def _weights(self, micro_batches: Sequence[Mapping[str, Any]], last_rank: int) -> list[dict[str, float]]:
        """For each micro-batch, return each loss's weight (its share of all targets), or [{}] if there is only one."""
        if self.ranks.size == 1 and len(micro_batches) == 1:
            return [{}]
        gpt = self.state.model.xtts.gpt
        counts = []
        for micro_batch in micro_batches:
            lengths, is_share = (micro_batch["text_lengths"], micro_batch["wav_lengths"]), micro_batch["is_share"]
            layout = Layout.of(*lengths, micro_batch["cond_idxs"], gpt, is_share=is_share)
            real = self.ranks.rank <= last_rank
            counts.append((layout.text_targets * real, layout.audio_targets * real))
        text, audio = self.ranks.sum([float(sum(column)) for column in zip(*counts, strict=True)])
        # All losses except the text loss are means over audio targets.
        return [
            dict.fromkeys(self._loss_names, own_audio / audio) | {"loss_text_ce": own_text / text}
            for own_text, own_audio in counts
        ]

    def _forward(self, batch: dict[str, Any], exchanges: bool) -> Mapping[str, Tensor]:
        with self._exchange(exchanges), self.state.autocast():
            losses: Mapping[str, Tensor] = self._losses(batch)
        return losses

    def _exchange(self, exchanges: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context manager for both passes, within which DDP syncs gradients only if `exchanges` is true."""
        if isinstance(self._losses, DistributedDataParallel) and not exchanges:
            context: contextlib.AbstractContextManager[None] = self._losses.no_sync()
            return context
        return contextlib.nullcontext()

    def _backward(self, loss: Tensor, exchanges: bool) -> None:
        loss, scaler = loss / float(self.state.accumulate), self.state.scaler
        with self._exchange(exchanges):
            (loss if scaler is None else scaler.scale(loss)).backward()

    @staticmethod
    def _catch_out_of_memory(work: Callable[[], None]) -> str:
        """Call a function, and return the error message if the GPU ran out of memory, else "".

        The exception itself must not leave this method, because its traceback keeps all intermediate tensors alive.
        """
        try:
            work()
        except torch.OutOfMemoryError as error:
            return str(error) or _NO_DETAILS
        return ""

    def _split_batches(self) -> None:
        """Split this and all later batches into two micro-batches, and free memory."""
        position = self.state.position
        position.micro_batches = 2
        logger.warning(
            " > The batch for step %d does not fit in GPU memory, so this and all later batches are split into two "
            "micro-batches. The gradients are still those of the full batch, and training continues.",
            position.step + 1,
        )
        self.state.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

    def _restart_accumulation(self, loader: DataLoader[Any], completes_update: bool) -> None:
        """Repeat the accumulation from its first batch, because its gradients may be incomplete."""
        dataset, sampler = cast(UtteranceDataset, loader.dataset), cast(EpochBatchSampler, loader.batch_sampler)
        for trained in self._accumulated:
            samples = [dataset[index] for index in sampler.batch(trained.index)]
            self._train(trained, dataset.collate_fn(samples), completes_update and trained is self._accumulated[-1])

    def _optimizer_step(self) -> None:
        """Step the optimizer and the scheduler if losses and gradients are finite."""
        position, config, model = self.state.position, self.state.config, self.state.model
        optimizer, scheduler, scaler = self.state.optimizer, self.state.scheduler, self.state.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)
        self._hooks.before_clipping()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if config.grad_clip > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, config.grad_clip, norm)
        # This is the only synchronization with the device in a training step.
        *losses_finite, gradient_finite = torch.stack(
            [torch.isfinite(value) for value in (*(trained.losses["loss"] for trained in self._accumulated), norm)]
        ).tolist()
        non_finite = self._find_non_finite(losses_finite, gradient_finite or scaler is not None)
        stepped = not non_finite
        if scaler is not None:
            # On an overflow, which is normal in fp16, the scaler skips the step and lowers its scale.
            scale = scaler.get_scale()
            if stepped:
                scaler.step(optimizer)
            scaler.update()
            stepped = stepped and scaler.get_scale() >= scale
        elif stepped:
            optimizer.step()
        if stepped and model.anchor is not None:
            model.anchor.pull(model.xtts.gpt, optimizer, config.l2_sp)
        if stepped and scheduler is not None and not config.scheduler_after_epoch:
            scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        self._accumulated = []
        position.failed_updates = position.failed_updates + 1 if non_finite else 0
        if position.failed_updates == MAX_FAILED_UPDATES:
            raise CheckFailed(
                f"{MAX_FAILED_UPDATES} updates in a row were skipped because a loss or gradient was not finite, most "
                f"recently the {non_finite}. The run has stopped, and its checkpoints are intact. Lower "
                "--learning-rate, set --grad-clip 1, or check these samples."
            )

    def _find_non_finite(self, losses_finite: Sequence[bool], gradient_finite: bool) -> str:
        """Return a description of what is not finite in this accumulation, in any process, or "" if nothing is."""
        failed = next(
            (trained for trained, finite in zip(self._accumulated, losses_finite, strict=True) if not finite), None
        )
        if not self.ranks.any(failed is not None or not gradient_finite):
            return ""
        quantity, trained = ("gradient", self._accumulated[-1]) if failed is None else ("loss", failed)
        non_finite = f"{quantity} at step {trained.step} (samples: {', '.join(trained.names)})"
        logger.warning(" > Skipping this update: the %s is not finite.", non_finite)
        return non_finite
