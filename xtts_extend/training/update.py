"""One batch: forward, backward, and at the end of an accumulation the optimizer's step; on one process or several.

What stock's `optimize` does differently: a loss that is not finite is an update all the same, and with several
processes it calls the module inside of DDP, so that gradients are never exchanged.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xtts_extend.errors import CheckFailed
from xtts_extend.training.ranks import Ranks

logger = logging.getLogger("trainer")
#: The run stops when so many optimizer steps in a row could make no update.
MAX_FAILED_UPDATES = 3


class _TrainingLosses(nn.Module):
    """The training losses as a module's forward: DDP arms the exchange of gradients there. Only the GPT trains."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.gpt = model.xtts.gpt
        self._train_step = model.train_step

    def forward(self, batch: dict[str, Any]) -> Mapping[str, Tensor]:
        losses: Mapping[str, Tensor] = self._train_step(batch, None)[1]
        return losses


class Updater:
    """Trains the model of a trainer on batches.

    Args:
        trainer: with model, optimizer, scheduler, scaler, configuration and callbacks in place.
        ranks: the processes.
    """

    def __init__(self, trainer: Any, ranks: Ranks) -> None:
        self.trainer = trainer
        self.ranks = ranks
        self._losses: nn.Module = _TrainingLosses(trainer.model)
        if ranks.size > 1:
            self._losses = DistributedDataParallel(self._losses, broadcast_buffers=False)
        #: The parts of the loss.
        self._parts = ["loss_text_ce", "loss_mel_ce"]
        if trainer.model.distill_weight:
            self._parts.append("loss_distill")
        #: What is not finite in the accumulation under way.
        self._spoiled = ""

    def step(self, batch: dict[str, Any], names: Sequence[str], *, moves: bool) -> dict[str, float]:
        """Train on this process's share of a batch.

        An accumulation with a loss or a gradient that is not finite makes no update.

        Args:
            batch: this process's share, collated. Where there are fewer samples than processes, the last ones have a
                sample that stands in and has no weight.
            names: the samples of the whole batch.
            moves: the optimizer moves after this batch.

        Returns:
            `loss` and its parts, as `ExtendedGPTTrainer.train_step` names them, of the whole batch.

        Raises:
            CheckFailed: one update after the other was not made.
        """
        trainer, ranks = self.trainer, self.ranks
        losses, weights = self._forward(batch, last_share=min(len(names), ranks.size) - 1, exchanges=moves)
        reported = {name: losses[name].item() for name in ("loss", *weights)}
        if ranks.size > 1:
            parts = ranks.sum([weights[name] * reported[name] for name in weights])
            reported = {"loss": sum(parts), **dict(zip(weights, parts, strict=True))}
        if not math.isfinite(reported["loss"]):
            self._spoil("loss", names)
        elif not self._spoiled:
            trainer.callbacks.before_backward_pass(trainer, losses)
            self._backward(losses, weights, exchanges=moves)
        if moves:
            self._move(names)
        return reported

    def _spoil(self, what: str, names: Sequence[str]) -> None:
        """The accumulation under way will make no update."""
        self._spoiled = f"{what} of step {self.trainer.position.step + 1} (samples: {', '.join(names)})"
        logger.warning(" > not finite, no update is made: the %s", self._spoiled)

    def _forward(
        self, batch: dict[str, Any], last_share: int, exchanges: bool
    ) -> tuple[Mapping[str, Tensor], dict[str, float]]:
        """This process's losses, and the weight of each: its share of the targets (1 with one process)."""
        trainer, ranks = self.trainer, self.ranks
        weights = dict.fromkeys(self._parts, 1.0)
        if ranks.rank != last_share:
            # coqui masks the prompt of a batch's last sample, and of no other
            batch["cond_idxs"] = None
        batch = trainer.format_batch(batch)
        if ranks.size > 1:
            layout = batch["layout"]
            counts = ranks.rank <= last_share
            text, audio = layout.text_targets * counts, layout.audio_targets * counts
            all_text, all_audio = ranks.sum([text, audio])
            # what is not of the text is a mean over audio targets
            weights = dict.fromkeys(self._parts, audio / all_audio) | {"loss_text_ce": text / all_text}
        device, dtype = trainer._get_autocast_args(
            mixed_precision=trainer.config.mixed_precision, precision=trainer.config.precision
        )
        with (
            self._exchange(exchanges),
            torch.autocast(device_type=device, dtype=dtype, enabled=trainer.config.mixed_precision),
        ):
            losses = self._losses(batch)
        return losses, weights

    def _exchange(self, exchanges: bool) -> contextlib.AbstractContextManager[None]:
        """DDP exchanges gradients in the backward pass of a forward pass that ran outside of `no_sync`."""
        if isinstance(self._losses, DistributedDataParallel) and not exchanges:
            context: contextlib.AbstractContextManager[None] = self._losses.no_sync()
            return context
        return contextlib.nullcontext()

    def _backward(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], exchanges: bool) -> None:
        loss = losses["loss"]
        if self.ranks.size > 1:
            # DDP takes the mean over the processes
            loss = self.ranks.size * torch.stack([weights[name] * losses[name] for name in weights]).sum()
        loss = loss / float(self.trainer.grad_accum_steps)
        with self._exchange(exchanges):
            (loss if self.trainer.scaler is None else self.trainer.scaler.scale(loss)).backward()

    def _move(self, names: Sequence[str]) -> None:
        """The optimizer's and the scheduler's step, if losses and gradients are finite."""
        trainer, position = self.trainer, self.trainer.position
        (optimizer,), (scheduler,) = trainer.optimizer, trainer.scheduler
        scaler, config = trainer.scaler, trainer.config
        moved = False
        if not self._spoiled:
            if scaler is not None:
                scaler.unscale_(optimizer)
            trainer.callbacks.before_gradient_clipping(trainer)
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            norm = torch.nn.utils.get_total_norm(
                [parameter.grad for parameter in parameters if parameter.grad is not None]
            )
            if config.grad_clip > 0:
                torch.nn.utils.clip_grads_with_norm_(parameters, config.grad_clip, norm)
            if scaler is not None:
                # the scaler itself skips a step whose gradients overflow, and lowers its scale: nothing is wrong then
                before = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                moved = scaler.get_scale() >= before
            elif torch.isfinite(norm):
                optimizer.step()
                moved = True
            else:
                self._spoil("gradient", names)
        if moved and trainer.model.anchor is not None:
            trainer.model.anchor.pull(trainer.model.xtts.gpt, optimizer, config.l2_sp)
        if moved and scheduler is not None and not config.scheduler_after_epoch:
            scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        position.failed_updates = position.failed_updates + 1 if self._spoiled else 0
        if position.failed_updates == MAX_FAILED_UPDATES:
            raise CheckFailed(
                f"{MAX_FAILED_UPDATES} updates in a row were not made, because something is not finite; the last time "
                f"the {self._spoiled}. The run stops, and its checkpoints are as they were. Lower the learning rate, "
                "set --grad-clip 1, or look at these samples."
            )
        self._spoiled = ""
