"""A coqui `Trainer` that resumes a run exactly: the result is the same as without the interruption.

We replace the stock training loop because its `restore_path` loads weights and starts at step 0 with an empty
optimizer; its `continue_path` restarts the interrupted epoch; it writes checkpoints in the middle of a gradient
accumulation, directly under their final names; and it deletes the run folder when an exception is raised. We keep
coqui's configuration, loggers, callbacks, model hooks, optimizer and scheduler factories, and checkpoint keys.

Random numbers are a function of (seed, step), so no random state is saved.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
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
from xtts_extend.training.listening import Listener
from xtts_extend.training.loaders import first_loader, train_loader
from xtts_extend.training.output import RunOutput
from xtts_extend.training.pace import Progress, log_early_stop, log_finished
from xtts_extend.training.restore import Resumed, check_resume, checkpoint_size, restore
from xtts_extend.training.saving import Saver
from xtts_extend.training.signals import Interrupted, OutOfTime, Stopped, StopSignal, TimeLimit
from xtts_extend.training.state import RunState
from xtts_extend.training.update import Hooks, Updater, out_of_memory_error

logger = logging.getLogger("trainer")


class ResumableTrainer(Trainer):
    """A stock `Trainer` for which `TrainerArgs(restore_path=…)` resumes exactly from a training checkpoint.

    Args:
        args: The stock Trainer's arguments. `restore_path` is a training checkpoint of ours or of coqui's, or "".
        config: The run's configuration.
        output_path: Parent folder for new runs; `config.output_path` if None.
        model: The model to train, with the base model's weights loaded unless `restore_path` is given.
        train_samples, eval_samples: Training and validation sets. Without `eval_samples`, the epoch's training loss
            selects the best model.
        resumed: Result of `check_resume` for the checkpoint. If None, the trainer calls it without allowing changes.
        base_losses: Losses of the base model by language, if they were measured before other weights were loaded.
        new_run: Whether to resume in a new run folder. Stock checkpoints and migrated vocabularies always get one.
        run_folder: Run folder of a run that ended before its first checkpoint; the run starts over in it.
        ranks: The processes that train together. Rank 0 writes.

    Until construction has succeeded, `output_path` is a temporary folder and `dashboard_logger` logs nothing, so a
    failed start writes nothing into a run folder. Callbacks see the final values starting with `on_epoch_start`.

    Raises:
        CheckpointError: `restore_path` is not an intact training checkpoint, or does not fit the model and optimizer.
        ConfigError: A setting that defines the run has changed.
        MachineError: The run folder cannot be created, or the disk does not have enough space.
    """

    def __init__(
        self,
        args: TrainerArgs,
        config: NewLanguageConfig,
        output_path: str | Path | None = None,
        *,
        model: ExtendedGPTTrainer,
        train_samples: Sequence[Sample],
        eval_samples: Sequence[Sample] | None = None,
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
        # The stock class writes to this folder immediately.
        args.continue_path = str(folder.scratch)
        self._output = RunOutput(folder, config, ranks, model, train_samples)
        self._saver = Saver(folder.path, self._flush, self._output.status)
        self._best = BestModel()
        self.stop = StopSignal()
        self._requests = Listener(folder.path, ranks, self.stop)
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
        """The run's state, available once the optimizer and scheduler exist."""
        return RunState.of(self, self.ranks)

    @property
    def position(self) -> Position:
        """The run's position in training."""
        return self.state.position

    @property
    def use_pt_ddp(self) -> bool:
        """Always False, because coqui's DDP code calls the wrapped module directly and never syncs gradients."""
        return False

    @staticmethod
    def init_training(args: TrainerArgs, coqpit_overrides: list[str], config: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the given configuration; coqui would pick a checkpoint by name and load the config in its folder."""
        return config, {"restore_path": args.restore_path} if args.restore_path else {}

    ####################
    # RUN FOLDER
    ####################

    def _setup_logger_config(self, log_file: str) -> None:
        self._output.buffer_log()

    def _begin(self) -> None:
        """Start writing to the run folder. An existing folder stays unchanged until a batch or evaluation is done."""
        if self._output.has_started:
            return
        self._output.begin(self.position, self._updater.read)
        self.dashboard_logger = self._output.dashboard
        self._requests.discard_old()
        if self.ranks.is_main:
            self.save_training_script()

    def _release_folder(self, *, discard: bool) -> None:
        """Close the outputs and unlock the run folder; `discard` waits for pending writes and removes a new folder."""
        if discard:
            with contextlib.suppress(XttsExtendError):
                self._saver.writer.wait()
        self._output.close(discard=discard)

    ####################
    # RESTORE AND SAVE
    ####################

    def restore_model(self) -> None:
        """Restore everything that the next step depends on, and verify it."""
        if self._resumed is None:
            return
        state, checkpoint = self.state, self._resumed.checkpoint
        restored = restore(state, self._resumed)
        source = checkpoint.path.absolute()
        if checkpoint.is_stock_run and self.ranks.is_main:
            log_new_folder(source.parent, self._output.folder.path)
        self._output.start_info |= {"from": str(source), "restored": restored, "changed": list(self._resumed.changed)}
        has_evaluated = checkpoint.record is not None and checkpoint.record.has_evaluated
        restore_best_model(state, self._base_losses if self._resumed.migration or has_evaluated else {})
        self.total_steps_done, self.epochs_done = state.position.step, state.position.epoch
        self._saver.resume(state.position.step, None if self._output.folder.is_new else source)

    def _flush(self) -> None:
        """Flush losses, metrics and dashboard to disk."""
        self._begin()
        self._output.flush(self.position)

    def save_checkpoint(self) -> None:
        """Write `checkpoint_N.pth` after N batches, and remove the oldest checkpoints beyond `save_n_checkpoints`."""
        self._saver.checkpoint(self.state)

    def save_best_model(self) -> None:
        """Write `best_model_N.pth` if the latest loss is the best so far."""
        if self._best.is_new(self.state):
            self._saver.best_model(self.state)

    ####################
    # DATA
    ####################

    def get_train_dataloader(self, samples: Sequence[Sample], *, verbose: bool = False) -> DataLoader[Any]:
        """Return a loader whose batch order is a function of (seed, epoch)."""
        return train_loader(self.config, self.model.xtts.tokenizer, samples, self.ranks)

    @property
    def _sampler(self) -> EpochBatchSampler:
        return cast(EpochBatchSampler, self.train_loader.batch_sampler)

    ####################
    # TRAINING
    ####################

    def _training_mode(self) -> None:
        # Puts only the GPT into training mode; the DVAE and the decoder stay in evaluation mode.
        self.model.on_train_epoch_start(self)

    def train_step(
        self, batch: dict[str, Any], batch_n_steps: int, step: int, loader_start_time: float
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Train on batch `step` (counted from 0) of the epoch's `batch_n_steps`; return None and the losses by name.

        The optimizer steps at the end of each gradient accumulation and each epoch. `loader_start_time` is ignored.
        """
        self.callbacks.on_train_step_start(self)
        position = self.position
        names = [self.train_samples[index].manifest_audio_file for index in self._sampler.batch(step)]
        rate = self.state.learning_rate
        line = MetricsLine(step=position.step + 1, epoch=position.epoch, learning_rate=rate, samples=names)
        completes_update = (step + 1) % self.grad_accum_steps == 0 or step + 1 == batch_n_steps
        step_losses = self._updater.step(batch, names, self.train_loader, completes_update=completes_update)
        self._begin()
        self._output.losses.add(step_losses, line)
        position.step += 1
        position.batch = step + 1
        self.total_steps_done = position.step
        if self._progress.is_due(position.step):
            losses = self._output.read_losses(position)
            self._output.publish(losses, self._progress.step(position, batch_n_steps, losses, rate))
        self.callbacks.on_train_step_end(self)
        return None, dict(step_losses)

    def train_epoch(self) -> None:
        """Train on the rest of the epoch; evaluate, save and stop between optimizer steps when due."""
        loader, sampler = self.train_loader, self._sampler
        batches = len(sampler)
        sampler.set_position(self.position.epoch, self.position.batch)
        cast(UtteranceDataset, loader.dataset).set_epoch(self.position.epoch)
        self._training_mode()
        self._output.status.enter("training")
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
        """Do what was requested or has become due since step `boundary`: evaluate, save and stop, in that order."""
        requested = self._requests.requested()
        if epoch_ends and self.config.scheduler_after_epoch and self.state.scheduler is not None:
            self.state.scheduler.step()
        if epoch_ends or self.position.has_passed(self.config.run_eval_steps, boundary):
            self.position.evaluation_due = True
            self._evaluate()
        elif "evaluate" in requested:
            self._evaluate(requested=True)
        if self.position.has_passed(self.config.save_step, boundary) and self.config.save_checkpoints:
            self.save_checkpoint()
        if "save" in requested:
            self._saver.finish(self.state)
        for name in requested - {"stop"}:
            self._requests.served(name)
        self._requests.stop_if_asked()
        if self.ranks.any(self._limit.reached()):
            raise OutOfTime

    ####################
    # EVALUATION
    ####################

    def _evaluate(self, *, requested: bool = False) -> None:
        """Evaluate, update the best model and synthesize the test sentences; see `BestModel.judge` for `requested`."""
        began = time.monotonic()
        state, position, losses, status = self.state, self.position, {}, self._output.status
        self._output.read_losses(position)
        state.seed("eval", position.step)
        with status.phase("evaluating"):
            if self.config.run_eval:
                stop = self._requests.stop_if_asked
                losses = losses_by_language(state.model, state.config, state.eval_samples, state.ranks, stop)
                self._begin()
                losses = log_evaluation(state, losses, self._output.metrics, self.dashboard_logger)
                status.evaluated(position.step, losses)
            position.evaluation_due = False
            if self._best.judge(state, losses, requested=requested):
                self.save_best_model()
        if self.position.epoch >= self.config.test_delay_epochs:
            with status.phase("speaking"):
                self.test_run()
        self._training_mode()
        self._progress.exclude_time(time.monotonic() - began)

    def test_run(self) -> None:
        """Synthesize the test sentences for the dashboard, and save them as files in the run folder."""
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
        if self.state.is_complete(len(self._sampler)):
            log_finished(self.state)
            return
        if self.start_with_eval and self.position.step == 0:
            self.position.evaluation_due = True
        if self.position.evaluation_due:
            self._evaluate()
        for epoch in range(self.position.epoch, self.config.epochs):
            if self.state.is_finished:
                break
            if epoch > self.position.epoch:
                self.position.start_epoch(epoch)
            self.epochs_done = epoch
            self.callbacks.on_epoch_start(self)
            self.train_epoch()
            self.callbacks.on_epoch_end(self)
        log_early_stop(self.state)
        self._saver.finish(self.state)

    def fit(self) -> None:
        """Train until a limit is reached, and save the last completed step.

        The first SIGINT or SIGTERM stops the run after the current optimizer step, with a checkpoint and exit code 130
        or 143. The second one ends the process immediately; files on disk stay intact. A stop request works like the
        first signal, except that the run ends normally.

        Raises:
            SystemExit: A signal stopped the run.
            CheckFailed: Losses or gradients were not finite several times in a row.
            MachineError: A checkpoint could not be written, or the GPU is out of memory.
        """
        first_step, keep_folder = self.position.step, False
        with self.stop, contextlib.ExitStack() as at_end, self._output.status.failures():
            # A run that fails to start leaves no folder behind.
            at_end.callback(lambda: self._release_folder(discard=self.position.step == first_step and not keep_folder))
            try:
                self._fit()
                keep_folder = self._saver.step == self.position.step
                self._output.end("finished", self.position.step)
            except Stopped as reason:
                keep_folder = True
                self._saver.finish(self.state)
                self._output.end("stopped", self.position.step)
                self._requests.served("stop")
                logger.info(" > Stopped at step %d. Resume with --checkpoint %s", self.position.step, self.output_path)
                if isinstance(reason, Interrupted):
                    self.callbacks.on_keyboard_interrupt(self)
                    raise SystemExit(128 + int(self.stop.number or 0)) from None
            except XttsExtendError:
                self._output.read_losses(self.position)
                raise
            except torch.OutOfMemoryError as error:
                # Evaluations and optimizer steps can raise this; a training batch that does not fit is split instead.
                raise out_of_memory_error(str(error)) from error
