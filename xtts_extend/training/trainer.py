"""A coqui `Trainer` whose resumed run is the same run.

What stock does differently, and why the loop is ours: `restore_path` there loads weights and starts at step 0 with an
empty optimizer; `continue_path` starts the interrupted epoch again; checkpoints are written in the middle of a gradient
accumulation, under their final name; exceptions end in a deleted run folder. Kept from stock: the configuration,
loggers, callbacks, the model's hooks, optimizer and scheduler factories, the checkpoint's keys.

Randomness is a function of (seed, step), so that nothing has to be remembered.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from trainer import Trainer, TrainerArgs

from xtts_extend.checkpoint.store import require_space
from xtts_extend.data.dataset import UtteranceDataset
from xtts_extend.data.sample import Sample
from xtts_extend.data.sampler import EpochBatchSampler
from xtts_extend.errors import XttsExtendError
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.folder import RunFolder
from xtts_extend.run.history import log_new_folder
from xtts_extend.run.metrics import MetricsLine
from xtts_extend.run.position import Position
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.run.summary import hide_stock_parameter_count
from xtts_extend.setup.hardware import prepare_device
from xtts_extend.training.best import BestModel, restore_best_model
from xtts_extend.training.evaluation import (
    Losses,
    log_evaluation,
    losses_by_language,
    record_base_losses,
    speak_test_sentences,
)
from xtts_extend.training.loaders import first_loader, train_loader
from xtts_extend.training.output import RunOutput
from xtts_extend.training.pace import Progress
from xtts_extend.training.restore import Resumed, check_resume, checkpoint_size, restore
from xtts_extend.training.saving import Saver
from xtts_extend.training.signals import Interrupted, OutOfTime, StopSignal, TimeLimit
from xtts_extend.training.state import RunState
from xtts_extend.training.update import Hooks, Updater, out_of_memory_error

logger = logging.getLogger("trainer")


class ResumableTrainer(Trainer):
    """Construct it like the stock `Trainer`; `TrainerArgs(restore_path=…)` continues a training checkpoint exactly.

    Args:
        args: `restore_path` names a training checkpoint of ours or of the stock Trainer, or is empty.
        config: of the run.
        output_path: folder for new run folders; the configuration's when None.
        model: with its base loaded unless `restore_path` is given.
        train_samples, eval_samples: samples of `data.manifest`; without `eval_samples` the best model is chosen by the
            training loss of the epoch.
        resumed: what `check_resume` returned for the checkpoint. Without it, the trainer calls it, allowing no changes.
        base_losses: of the base, where they were measured: for a resume, or before a pack's weights were loaded.
        new_run: continue a checkpoint in a new run folder instead of the checkpoint's own; one of the stock Trainer, or
            of another vocabulary, is always continued in a new one.
        run_folder: start in this folder, of a run that ended before its first checkpoint.
        ranks: the processes that train together; rank 0 writes.

    While it is constructed, `output_path` is a temporary folder and `dashboard_logger` logs nothing: a start that fails
    writes nothing into a run folder. Callbacks find the real ones from `on_epoch_start` on.

    Raises:
        CheckpointError: `restore_path` is no sound training checkpoint, or does not fit model and optimizer.
        ConfigError: what defines the run has changed.
        MachineError: the run folder cannot be made, or the disk has no room for the run.
    """

    def __init__(
        self,
        args: TrainerArgs,
        config: NewLanguageConfig,
        output_path: str | Path | None = None,
        *,
        model: ExtendedGPTTrainer,
        train_samples: list[Sample],
        eval_samples: list[Sample] | None = None,
        resumed: Resumed | None = None,
        base_losses: Mapping[str, Losses] | None = None,
        new_run: bool = False,
        run_folder: Path | None = None,
        ranks: Ranks | None = None,
        **kwargs: Any,
    ) -> None:
        ranks = ranks or Ranks()
        if args.restore_path and resumed is None:
            resumed = check_resume(TrainingCheckpoint.open(Path(args.restore_path)), config, train_samples, ranks)
            model.restore_frozen_rows(resumed.base_rows)
            if config.voice == "frozen":
                model.freeze_voice()
        if resumed is not None:
            in_place = not (new_run or resumed.migration or resumed.checkpoint.is_stock_run)
            run_folder = resumed.checkpoint.path.absolute().parent if in_place else None
        self.ranks, self._resumed, self._base_losses = ranks, resumed, base_losses or {}
        folder = RunFolder(run_folder, Path(output_path or config.output_path), config.run_name, is_main=ranks.is_main)
        # the stock class uses this folder as it is, and writes into it at once
        args.continue_path = str(folder.scratch)
        self._output = RunOutput(folder, config, ranks, model, train_samples)
        self._saver = Saver(folder.path, self._flush)
        self._best = BestModel()
        self.stop = StopSignal()
        prepare_device()
        with contextlib.ExitStack() as undo:
            undo.callback(self._release_folder, discard=True)
            if ranks.is_main and config.save_checkpoints:
                require_space(folder.path, checkpoint_size(model), config.save_n_checkpoints)
            with hide_stock_parameter_count():
                super().__init__(
                    args,
                    config,
                    dashboard_logger=self._output.dashboard,
                    model=model,
                    train_samples=train_samples,
                    eval_samples=eval_samples or [],
                    parse_command_line_args=False,
                    **kwargs,
                )
            record_base_losses(self.state, self._base_losses)
            self._resumed = None
            self.output_path = folder.path
            self._updater = Updater(self.state, Hooks(self))
            if folder.is_new:
                self._begin()
            undo.pop_all()

    @cached_property
    def state(self) -> RunState:
        """What the run is made of; there is one as soon as optimizer and scheduler are made."""
        return RunState.of(self, self.ranks)

    @property
    def position(self) -> Position:
        """Where the run is."""
        return self.state.position

    @property
    def use_pt_ddp(self) -> bool:
        """Never stock's: it calls the module inside of DDP, and gradients are not exchanged."""
        return False

    @staticmethod
    def init_training(args: TrainerArgs, coqpit_overrides: list[str], config: Any = None) -> tuple[Any, dict[str, Any]]:
        """Stock picks a checkpoint by its name and loads the folder's config; both are decided already."""
        return config, {"restore_path": args.restore_path} if args.restore_path else {}

    ####################
    # RUN FOLDER
    ####################

    def _setup_logger_config(self, log_file: str) -> None:
        self._output.hold_log()

    def _begin(self) -> None:
        """Write into the run folder from here on; into one that is not new when a batch or an evaluation is done."""
        if self._output.has_started:
            return
        self._output.begin(self.position, self._updater.read)
        self.dashboard_logger = self._output.dashboard
        if self.ranks.is_main:
            self.save_training_script()

    def _release_folder(self, *, discard: bool) -> None:
        """Wait for what is being written, and let another process have the run folder or, if it is new, remove it."""
        if discard:
            with contextlib.suppress(XttsExtendError):
                self._saver.writer.wait()
        self._output.close(discard=discard)

    ####################
    # RESTORE AND SAVE
    ####################

    def restore_model(self) -> None:
        """Restore everything that decides the next step, and check that it arrived."""
        if self._resumed is None:
            return
        state, checkpoint = self.state, self._resumed.checkpoint
        restored = restore(state, self._resumed)
        source = checkpoint.path.absolute()
        if checkpoint.is_stock_run and self.ranks.is_main:
            log_new_folder(source.parent, self._output.folder.path)
        self._output.about |= {"from": str(source), "restored": restored, "changed": list(self._resumed.changed)}
        has_evaluated = checkpoint.record is not None and checkpoint.record.has_evaluated
        restore_best_model(state, self._base_losses if self._resumed.migration or has_evaluated else {})
        self.total_steps_done, self.epochs_done = state.position.step, state.position.epoch
        # a new folder does not hold it yet
        self._saver.step = -1 if self._output.folder.is_new else state.position.step

    def _flush(self) -> None:
        """Put what was measured by now on the disk."""
        self._begin()
        self._output.flush(self.position)

    def save_checkpoint(self) -> None:
        """Write `checkpoint_N.pth`, N the finished batches, and remove old ones beyond `save_n_checkpoints`."""
        self._saver.checkpoint(self.state)

    def save_best_model(self) -> None:
        """Write `best_model_N.pth` when the loss that was just measured is the best so far."""
        if self._best.is_new(self.state):
            self._saver.best_model(self.state)

    ####################
    # DATA
    ####################

    def get_train_dataloader(self, samples: list[Sample], *, verbose: bool = False) -> DataLoader[Any]:
        """Batches in the order of (seed, epoch)."""
        return train_loader(self.config, self.model.xtts.tokenizer, samples, self.ranks)

    @property
    def _sampler(self) -> EpochBatchSampler:
        return cast(EpochBatchSampler, self.train_loader.batch_sampler)

    ####################
    # TRAINING
    ####################

    def _training_mode(self) -> None:
        # the model's own hook: only the GPT trains, DVAE and decoder stay in evaluation mode
        self.model.on_train_epoch_start(self)

    def train_step(
        self, batch: dict[str, Any], batch_n_steps: int, step: int, loader_start_time: float
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Train on a batch, the `step`-th (from 0) of the `batch_n_steps` of its epoch (stock's signature).

        The optimizer moves at the end of a gradient accumulation and of the epoch.
        """
        self.callbacks.on_train_step_start(self)
        position = self.position
        names = [self.train_samples[index].manifest_audio_file for index in self._sampler.batch(step)]
        learning_rate = self.state.learning_rate
        completes_update = (step + 1) % self.grad_accum_steps == 0 or step + 1 == batch_n_steps
        losses = self._updater.step(batch, names, self.train_loader, completes_update=completes_update)
        self._begin()
        self._output.losses.add(
            losses,
            MetricsLine(step=position.step + 1, epoch=position.epoch, learning_rate=learning_rate, samples=names),
        )
        position.step += 1
        position.batch = step + 1
        self.total_steps_done = position.step
        if self._progress.is_due(position.step):
            self._progress.step(position, batch_n_steps, self._output.read_losses(position), learning_rate)
            # what is seen in the log is seen in the dashboard
            self.dashboard_logger.flush()
        self.callbacks.on_train_step_end(self)
        return None, dict(losses)

    def train_epoch(self) -> None:
        """Train on what is left of the epoch; between optimizer steps evaluate, save and stop as asked."""
        loader, sampler = self.train_loader, self._sampler
        batches = len(sampler)
        sampler.set_position(self.position.epoch, self.position.batch)
        cast(UtteranceDataset, loader.dataset).set_epoch(self.position.epoch)
        self._training_mode()
        self.callbacks.on_train_epoch_start(self)
        boundary = self.position.step
        for index, batch in enumerate(loader, start=self.position.batch):
            self._saver.writer.check()
            self.train_step(batch, batches, index, time.time())
            if (index + 1) % self.grad_accum_steps == 0 or index + 1 == batches:
                self._between_steps(boundary, epoch_ends=index + 1 == batches)
                boundary = self.position.step
                if self.state.is_finished:
                    return
        self.callbacks.on_train_epoch_end(self)

    def _between_steps(self, boundary: int, epoch_ends: bool) -> None:
        """Serve what fell due since the last optimizer step: evaluate, then save, then stop."""

        def due(every: int | None) -> bool:
            return every is not None and self.position.step // every > boundary // every

        if epoch_ends and self.config.scheduler_after_epoch and self.state.scheduler is not None:
            self.state.scheduler.step()
        if epoch_ends or due(self.config.run_eval_steps):
            self.position.evaluation_due = True
            self._evaluate_if_due()
        if due(self.config.save_step) and self.config.save_checkpoints:
            self.save_checkpoint()
        if self.ranks.any(self.stop.number is not None):
            raise Interrupted
        if self.ranks.any(self._limit.reached()):
            raise OutOfTime

    ####################
    # EVALUATION
    ####################

    def _evaluate_if_due(self) -> None:
        """Evaluate each language, choose the best model, speak the test sentences; all or nothing of it counts."""
        if not self.position.evaluation_due:
            return
        began = time.monotonic()
        state, position, lines = self.state, self.position, {}
        self._output.read_losses(position)
        state.seed("eval", position.step)
        if self.config.run_eval:
            found = losses_by_language(state.model, state.config, state.eval_samples, state.ranks, self.stop)
            self._begin()
            lines = log_evaluation(state, found, self._output.metrics, self.dashboard_logger)
        position.evaluation_due = False
        self._best.judge(state, lines)
        self.save_best_model()
        if self.position.epoch >= self.config.test_delay_epochs:
            self.test_run()
        self._training_mode()
        self._progress.exclude_time(time.monotonic() - began)

    def test_run(self) -> None:
        """Speak the test sentences, for the dashboard and as files in the run folder."""
        if self.config.test_sentences and self.ranks.is_main:
            self.state.seed("test", self.position.step)
            speak_test_sentences(self.state, self.output_path, self.dashboard_logger)

    ####################
    # FIT
    ####################

    def _fit(self) -> None:
        self._progress = Progress(self.config, self.position.step)
        self._limit = TimeLimit(self.config.max_minutes, checkpoint_size(self.model))
        self.train_loader = first_loader(self.state)
        epochs_done = self.position.epoch + (self.position.batch == len(self._sampler))
        is_complete = self.state.is_finished or epochs_done >= self.config.epochs
        if is_complete and not self.position.evaluation_due:
            done = f"step {self.position.step}, epoch {self.position.epoch + 1} of {self.config.epochs}"
            logger.info(" > The run is finished: %s. Raise --epochs, --max-steps or --patience to go on.", done)
            return
        if self.start_with_eval and self.position.step == 0:
            self.position.evaluation_due = True
        self._evaluate_if_due()
        for epoch in range(self.position.epoch, self.config.epochs):
            if self.state.is_finished:
                break
            if epoch > self.position.epoch:
                self.position.start_epoch(epoch)
            self.epochs_done = epoch
            self.callbacks.on_epoch_start(self)
            self.train_epoch()
            self.callbacks.on_epoch_end(self)
        if self.state.is_out_of_patience:
            logger.info(
                " > %d evaluations in a row gave no better model: the run ends here. Raise --patience to go on.",
                self.position.evaluations_without_best,
            )
        self._saver.finish(self.state)

    def fit(self) -> None:
        """Train until the limits are reached; the last completed step is saved.

        A first SIGINT or SIGTERM ends the run after the current optimizer step with a checkpoint and exit code 130 or
        143; a second one ends it at once, and what is on the disk stays as it is.

        Raises:
            SystemExit: a signal ended the run.
            CheckFailed: losses or gradients were not finite several times in a row.
            MachineError: a checkpoint could not be written.
        """
        first, keep = self.position.step, False
        with self.stop:
            try:
                self._fit()
                keep = self._saver.step == self.position.step
                self._output.append_event("end", self.position.step)
            except (Interrupted, OutOfTime) as reason:
                keep = True
                self._saver.finish(self.state)
                self._output.append_event("stop", self.position.step)
                logger.info(" > Stopped at step %d. To go on: --checkpoint %s", self.position.step, self.output_path)
                if isinstance(reason, Interrupted):
                    self.callbacks.on_keyboard_interrupt(self)
                    raise SystemExit(128 + int(self.stop.number or 0)) from None
            except XttsExtendError:
                self._output.read_losses(self.position)
                raise
            except torch.OutOfMemoryError as error:
                # of an evaluation or the optimizer; a batch is halved
                raise out_of_memory_error(str(error)) from error
            finally:
                # a start that failed leaves no folder behind
                self._release_folder(discard=self.position.step == first and not keep)
