"""One batch: forward, backward, and at the end of an accumulation the optimizer's step; on one process or several.

What stock's `optimize` does differently: a loss that is not finite is an update all the same, every batch waits for
the GPU to say its losses, memory that does not suffice ends the run, and with several processes it calls the module
inside of DDP, so that gradients are never exchanged.
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
#: The run stops when so many optimizer steps in a row could make no update.
MAX_FAILED_UPDATES = 3
#: What is said of memory where the device says nothing.
_NO_WORD = "It is full."


def out_of_memory_error(said: str) -> MachineError:
    """The error of a run that ends for want of the GPU's memory; `said` is what the device said."""
    first = (said or _NO_WORD).splitlines()[0]
    return MachineError(
        f"The GPU's memory does not suffice: {first} Continue the newest checkpoint with fewer samples "
        "per batch (--batch-frames or --batch-size, with --allow-changes), or --gradient-checkpointing."
    )


class _TrainingLosses(nn.Module):
    """The training losses as a module's forward: DDP arms the exchange of gradients there. Only the GPT trains."""

    def __init__(self, model: ExtendedGPTTrainer) -> None:
        super().__init__()
        self.gpt = model.xtts.gpt
        self._train_step = model.train_step

    def forward(self, batch: dict[str, Any]) -> Mapping[str, Tensor]:
        losses: Mapping[str, Tensor] = self._train_step(batch, None)[1]
        return losses


@dataclass
class _AccumulatedBatch:
    """A batch of the accumulation under way: its step, its place in the epoch, its samples, and what it gave."""

    step: int
    index: int
    names: Sequence[str]
    losses: dict[str, Tensor]


class Hooks:
    """Tells the callbacks of a trainer of an update."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def before_backward(self, losses: Mapping[str, Tensor]) -> None:
        """Called with the losses of each micro-batch."""
        self._trainer.callbacks.before_backward_pass(self._trainer, losses)

    def before_clipping(self) -> None:
        """Called when the gradients of an update are complete."""
        self._trainer.callbacks.before_gradient_clipping(self._trainer)


class Updater:
    """Trains the model of a run on batches.

    Args:
        state: of the run.
        hooks: told of each update.
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

        An accumulation with a loss or a gradient that is not finite makes no update. A batch that does not fit into
        the GPU's memory is trained in two halves, with the gradient of the whole, and so are all later ones.

        Args:
            batch: this process's share of the batch, collated. With fewer samples than processes, the last processes
                get a dummy sample of weight zero.
            names: the samples of the whole batch.
            loader: where the batches of the accumulation can be had once more.
            completes_update: whether the optimizer steps after this batch.

        Returns:
            `loss` and its parts, as `ExtendedGPTTrainer.train_step` names them, on the device; `read` reads them.

        Raises:
            CheckFailed: one update after the other was not made.
            MachineError: the memory does not suffice for half a batch.
        """
        position = self.state.position
        trained = _AccumulatedBatch(position.step + 1, position.batch, names, {})
        self._accumulated.append(trained)
        if shortage := self._catch_out_of_memory(lambda: self._train(trained, batch, completes_update)):
            if self.ranks.size > 1 or position.micro_batches > 1:
                raise out_of_memory_error(shortage)
            self._split_batches()
            if shortage := self._catch_out_of_memory(lambda: self._restart_accumulation(loader, completes_update)):
                raise out_of_memory_error(shortage)
        if completes_update:
            self._optimizer_step()
        return trained.losses

    def read(self, losses: Sequence[Mapping[str, Tensor]]) -> list[dict[str, float]]:
        """What `step` returned for some batches, as numbers and of the whole batch; waits for the device once."""
        if not losses:
            return []
        names = ["loss", *self._loss_names]
        table = torch.stack([torch.stack([one[name] for name in names]) for one in losses]).tolist()
        if self.ranks.size > 1:
            flat = self.ranks.sum([value for row in table for value in row[1:]])
            rows = [flat[start : start + len(self._loss_names)] for start in range(0, len(flat), len(self._loss_names))]
            table = [[sum(row), *row] for row in rows]
        return [dict(zip(names, row, strict=True)) for row in table]

    def _train(self, trained: _AccumulatedBatch, batch: dict[str, Any], completes_update: bool) -> None:
        """Compute the losses and gradients of a batch, one micro-batch after another."""
        state, ranks = self.state, self.ranks
        state.seed("train", trained.step)
        micro_batches = split_batch(batch, state.position.micro_batches)
        last_rank = min(len(trained.names), ranks.size) - 1
        for number, micro_batch in enumerate(micro_batches):
            micro_batch["is_share"] = len(trained.names) > 1
            if (ranks.rank, number) != (last_rank, len(micro_batches) - 1):
                # coqui masks the prompt of a batch's last sample, and of no other
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
            # DDP takes the mean over the processes
            self._backward(losses["loss"] * ranks.size if weights else losses["loss"], exchanges)
            for name in ("loss", *self._loss_names):
                sums[name] = sums[name] + losses[name].detach() if name in sums else losses[name].detach()
        trained.losses = sums

    def _weights(self, micro_batches: Sequence[Mapping[str, Any]], last_rank: int) -> list[dict[str, float]]:
        """The weight of each loss of each micro-batch: its fraction of all targets. Empty if there is only one."""
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
        # what is not of the text is a mean over audio targets
        return [
            dict.fromkeys(self._loss_names, own_audio / audio) | {"loss_text_ce": own_text / text}
            for own_text, own_audio in counts
        ]

    def _forward(self, batch: dict[str, Any], exchanges: bool) -> Mapping[str, Tensor]:
        with self._exchange(exchanges), self.state.autocast():
            losses: Mapping[str, Tensor] = self._losses(batch)
        return losses

    def _exchange(self, exchanges: bool) -> contextlib.AbstractContextManager[None]:
        """DDP exchanges gradients in the backward pass of a forward pass that ran outside of `no_sync`."""
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
        """Do some work; what the device says of its memory if that does not suffice, else nothing.

        The exception does not leave this method: it holds everything that the work had computed.
        """
        try:
            work()
        except torch.OutOfMemoryError as error:
            return str(error) or _NO_WORD
        return ""

    def _split_batches(self) -> None:
        """From here on each batch is trained in two halves."""
        position = self.state.position
        position.micro_batches = 2
        logger.warning(
            " > The GPU's memory does not suffice for the batch of step %d: from here on each batch is trained in two "
            "halves, with the gradient of the whole.",
            position.step + 1,
        )
        self.state.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

    def _restart_accumulation(self, loader: DataLoader[Any], completes_update: bool) -> None:
        """Begin the accumulation anew: what its gradients are by now nobody knows."""
        dataset, sampler = cast(UtteranceDataset, loader.dataset), cast(EpochBatchSampler, loader.batch_sampler)
        for trained in self._accumulated:
            samples = [dataset[index] for index in sampler.batch(trained.index)]
            self._train(trained, dataset.collate_fn(samples), completes_update and trained is self._accumulated[-1])

    def _optimizer_step(self) -> None:
        """The optimizer's and the scheduler's step, if losses and gradients are finite."""
        position, config, model = self.state.position, self.state.config, self.state.model
        optimizer, scheduler, scaler = self.state.optimizer, self.state.scheduler, self.state.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)
        self._hooks.before_clipping()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if config.grad_clip > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, config.grad_clip, norm)
        # the one place where a step waits for the device
        *losses_finite, gradient_finite = torch.stack(
            [torch.isfinite(value) for value in (*(trained.losses["loss"] for trained in self._accumulated), norm)]
        ).tolist()
        spoiled = self._find_non_finite(losses_finite, gradient_finite or scaler is not None)
        moved = not spoiled
        if scaler is not None:
            # the scaler itself skips a step whose gradients overflow, and lowers its scale: nothing is wrong then
            before = scaler.get_scale()
            if moved:
                scaler.step(optimizer)
            scaler.update()
            moved = moved and scaler.get_scale() >= before
        elif moved:
            optimizer.step()
        if moved and model.anchor is not None:
            model.anchor.pull(model.xtts.gpt, optimizer, config.l2_sp)
        if moved and scheduler is not None and not config.scheduler_after_epoch:
            scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        self._accumulated = []
        position.failed_updates = position.failed_updates + 1 if spoiled else 0
        if position.failed_updates == MAX_FAILED_UPDATES:
            raise CheckFailed(
                f"{MAX_FAILED_UPDATES} updates in a row were not made, because something is not finite; the last time "
                f"the {spoiled}. The run stops, and its checkpoints are as they were. Lower the learning rate, "
                "set --grad-clip 1, or look at these samples."
            )

    def _find_non_finite(self, losses_finite: Sequence[bool], gradient_finite: bool) -> str:
        """What is not finite in this accumulation, in any process; empty if all is."""
        bad = next(
            (trained for trained, finite in zip(self._accumulated, losses_finite, strict=True) if not finite), None
        )
        if not self.ranks.any(bad is not None or not gradient_finite):
            return ""
        what, trained = ("gradient", self._accumulated[-1]) if bad is None else ("loss", bad)
        spoiled = f"{what} of step {trained.step} (samples: {', '.join(trained.names)})"
        logger.warning(" > not finite, no update is made: the %s", spoiled)
        return spoiled
