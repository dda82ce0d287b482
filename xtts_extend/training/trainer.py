"""A coqui `Trainer` whose resumed run is the same run.

What stock does differently, and why the loop is ours: `restore_path` there loads weights and starts at step 0 with an
empty optimizer; `continue_path` starts the interrupted epoch again; checkpoints are written in the middle of a gradient
accumulation, under their final name; exceptions end in a deleted run folder. Kept from stock: the configuration,
loggers, callbacks, the model's hooks, optimizer and scheduler factories, `optimize`, the checkpoint's keys.

Randomness is a function of (seed, step), so that nothing has to be remembered.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import math
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from trainer import Trainer, TrainerArgs
from trainer.logging import DummyLogger

from xtts_extend.checkpoint.store import require_space
from xtts_extend.data.dataset import UtteranceDataset
from xtts_extend.data.sampler import EpochBatchSampler
from xtts_extend.errors import XttsExtendError
from xtts_extend.model.migration import Migration
from xtts_extend.run.banner import describe_processes, describe_run, without_stock_count
from xtts_extend.run.folder import RunFolder
from xtts_extend.run.history import continuations, hours, note
from xtts_extend.run.metrics import MetricsLog, StepLosses, make_dashboard
from xtts_extend.run.position import Position
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.recorded import is_of_others
from xtts_extend.setup.hardware import prepare_device
from xtts_extend.setup.reference import equip
from xtts_extend.training.batch_memory import find_batch_frames
from xtts_extend.training.evaluation import (
    evaluate,
    loss_of,
    losses_by_language,
    note_base_losses,
    retentions,
    speak_test_sentences,
    too_little,
    value_of,
)
from xtts_extend.training.loaders import describe_padding, eval_loader, sample_frames, train_loader
from xtts_extend.training.pace import Progress
from xtts_extend.training.randomness import seed_all
from xtts_extend.training.restore import (
    check_changes,
    checkpoint_size,
    freeze_recorded_rows,
    load_run,
    restore,
    was_judged,
)
from xtts_extend.training.saving import Saver
from xtts_extend.training.signals import Interrupted, OutOfTime, StopSignal, TimeLimit
from xtts_extend.training.update import Updater, out_of_memory

logger = logging.getLogger("trainer")


class ResumableTrainer(Trainer):
    """Construct it like the stock `Trainer`; `TrainerArgs(restore_path=…)` continues a training checkpoint exactly.

    Args:
        args: `restore_path` names a training checkpoint of ours or of the stock Trainer, or is empty.
        config: a `NewLanguageConfig`, or any `GPTTrainerConfig`.
        output_path: folder for new run folders; the configuration's when None.
        model: an `ExtendedGPTTrainer`, with its base loaded unless `restore_path` is given.
        train_samples, eval_samples: samples of `data.manifest`; without `eval_samples` the best model is chosen by the
            training loss of the epoch.
        new_run: continue a checkpoint in a new run folder instead of the checkpoint's own; one of the stock Trainer is
            always continued in a new one.
        allow_changes: continue although something that defines the run has changed.
        run_folder: start in this folder, of a run that ended before its first checkpoint.
        ranks: the processes that train together; rank 0 writes.
        migration: carries the rows of `restore_path` to this run's vocabulary, which goes on in a new run folder.

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
        config: Any,
        output_path: str | Path | None = None,
        *,
        model: Any,
        train_samples: list[Any],
        eval_samples: list[Any] | None = None,
        new_run: bool = False,
        allow_changes: bool = False,
        run_folder: Path | None = None,
        ranks: Ranks | None = None,
        migration: Migration | None = None,
        **kwargs: Any,
    ) -> None:
        self._checkpoint: dict[str, Any] | None = None
        self.ranks = ranks or Ranks()
        changed: list[str] = []
        if args.restore_path:
            source = Path(args.restore_path)
            self._checkpoint, self.restored_info = load_run(source, migration, config)
            # before anything is written into the run folder
            changed = check_changes(config, train_samples, self.ranks.size, self._checkpoint, allow_changes)
            freeze_recorded_rows(model, self._checkpoint)
            in_place = not (new_run or migration or is_of_others(self._checkpoint))
            run_folder = source.absolute().parent if in_place else None
        equip(model, config, train_samples)
        start = "as in the checkpoint" if args.restore_path else f"start: {getattr(config, 'init', 'as loaded')}"
        logger.info(model.describe_rows(start))
        logger.info(describe_run(config, train_samples, eval_samples or [], args.grad_accum_steps, self.ranks.size))
        processes = describe_processes(self._checkpoint or {}, config, self.ranks.size)
        if processes and self.ranks.is_main:
            logger.warning(processes)
        self._folder = RunFolder(
            run_folder, Path(output_path or config.output_path), config.run_name, is_main=self.ranks.is_main
        )
        self._begun = False
        # the stock class uses this folder as it is, and writes into it at once
        args.continue_path = str(self._folder.scratch)
        self.position = Position()
        self.best_value = math.inf
        #: Whether this start's log says that no evaluation has been better than the one before the first step.
        self._said_worse = False
        #: What the last evaluation says is kept of each old language.
        self._retention: dict[str, float] = {}
        self._changed, self._migration = changed, migration
        #: What the history says of this start.
        self._about: dict[str, Any] = {
            "from": getattr(config, "started_from", ""),
            "hours": hours(train_samples),
            "tokens": {"base": model.base_rows, "new": model.vocab_size - model.base_rows},
            "processes": self.ranks.size,
        }
        self.stop = StopSignal()
        prepare_device()
        self._saver = Saver(self)
        with contextlib.ExitStack() as undo:
            undo.callback(self._leave, discard=True)
            if self.ranks.is_main and config.save_checkpoints:
                require_space(self._folder.path, checkpoint_size(model), config.save_n_checkpoints)
            with without_stock_count():
                super().__init__(
                    args,
                    config,
                    dashboard_logger=DummyLogger(),
                    model=model,
                    train_samples=train_samples,
                    eval_samples=eval_samples or [],
                    parse_command_line_args=False,
                    **kwargs,
                )
            self._checkpoint = None
            self.output_path = self._folder.path
            self._updater = Updater(self, self.ranks)
            if self._folder.is_new:
                self._begin()
            undo.pop_all()

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
        """Lines of the log are kept until there is a file for them."""
        self._log = logging.handlers.MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)
        logger.addHandler(self._log)

    def _begin(self) -> None:
        """Write into the run folder from here on; into one that is not new when a batch or an evaluation is done."""
        if self._begun:
            return
        run, step = self._folder.path, self.position.step
        self._folder.prepare(Path(self.config.model_args.tokenizer_file), step)
        self._log.setTarget(logging.FileHandler(run / "trainer_0_log.txt", encoding="utf-8"))
        self._log.flush()
        self._log.flushLevel = logging.NOTSET
        if self.ranks.is_main:
            self.dashboard_logger = make_dashboard(self.config, run, step)
            self.dashboard_logger.add_config(self.config)
            self.save_training_script()
        # a run that begins anew in its folder has no lines, not even those of an evaluation before the first step
        self._metrics = MetricsLog(run, step or -1)
        plotted = (self.config.plot_step, self.config.print_step)
        self._losses = StepLosses(self._metrics, self.dashboard_logger, plotted, self._updater.read)
        self._begun = True
        self._note("resume" if step else "start", **self._about)

    @property
    def metrics(self) -> MetricsLog:
        """The metrics log; its first use opens the run folder."""
        self._begin()
        return self._metrics

    def _leave(self, *, discard: bool) -> None:
        """Close what is open in the run folder, and let another process have it or, if it is new, remove it."""
        if hasattr(self, "dashboard_logger"):
            self.dashboard_logger.finish()
        if hasattr(self, "_log"):
            logger.removeHandler(self._log)
            file = self._log.target
            self._log.close()
            if file is not None:
                file.close()
        if discard:
            with contextlib.suppress(XttsExtendError):
                self._saver.writer.wait()
            self._folder.discard()
        else:
            self._folder.release()

    ####################
    # RESTORE AND SAVE
    ####################

    def restore_model(self) -> None:
        """Restore everything that decides the next step, and check that it arrived."""
        content = self._checkpoint
        if content is None:
            return
        # if `prepare` saw that they are not recorded
        try:
            losses = losses_by_language(self) if self.model.holds_base else {}
        except torch.OutOfMemoryError as error:
            raise out_of_memory(str(error)) from error
        self.position, restored = restore(self, content, self.restored_info, self._changed, self._migration)
        source, run = Path(self.restored_info.path).absolute(), self._folder.path
        if is_of_others(content) and self.ranks.is_main:
            logger.info(
                " > Written by the stock Trainer: resuming in a new run folder, %s; %s is left unchanged.",
                run,
                source.parent,
            )
            for other in continuations(run.parent, source.parent):
                logger.warning(" > %s has continued this run before. To go on there: --checkpoint %s", other, other)
        self._about |= {"from": str(source), "restored": restored, "changed": self._changed}
        note_base_losses(self, losses)
        self._judge_best_again(losses if self._migration or was_judged(content) else {})
        self.best_value = self.position.best_value
        self.total_steps_done, self.epochs_done = self.position.step, self.position.epoch
        # a new folder does not hold it yet
        self._saver.step = -1 if self._folder.is_new else self.position.step

    def _judge_best_again(self, base_lines: dict[str, dict[str, float]]) -> None:
        """Let what a resume measured or changed count: the start's loss, and what the best model has to keep.

        Args:
            base_lines: losses of the model that the run started from, if they were measured.
        """
        position = self.position
        if base_lines and math.isinf(position.best_value):
            position.start_value = position.best_value = loss_of(base_lines, self.config, math.inf)
            logger.info(" > loss %.5f before the first step, measured again", position.start_value)
        if lost := too_little(position.best_retention, self.config):
            # of the other processes only warnings are seen, and one is enough
            logger.log(
                logging.WARNING if self.ranks.is_main else logging.INFO,
                " > the best model so far, with loss %.5f, is below --min-retention %s. The next model above it "
                "replaces it.",
                position.best_value,
                lost,
            )
            position.best_value, position.best_retention = position.start_value, {}
            position.evaluations_without_best = 0

    def save_checkpoint(self) -> None:
        """Write `checkpoint_N.pth`, N the finished batches, and remove old ones beyond `save_n_checkpoints`."""
        self._saver.checkpoint()

    def save_best_model(self) -> None:
        """Write `best_model_N.pth` when the loss that was just measured is the best so far."""
        value, start = self.position.last_value, self.position.start_value
        if not value < self.best_value or self.position.step <= self.config.save_best_after:
            # what keeps too little has a line of its own
            if self.position.step and self.best_value == start <= value < math.inf and not self._said_worse:
                self._said_worse = True
                logger.info(
                    " > loss %.5f is no better than %.5f before the first step: until one is, there is no best model.",
                    value,
                    start,
                )
            return
        self.best_value, self.position.best_retention = value, self._retention
        logger.info(" > loss %.5f is the best so far", value)
        self._saver.best_model()

    ####################
    # DATA
    ####################

    def get_train_dataloader(self, samples: list[Any], *, verbose: bool = False) -> DataLoader[Any]:
        """Batches in the order of (seed, epoch)."""
        return train_loader(self.config, self.model.xtts.tokenizer, samples, self.ranks)

    @property
    def _sampler(self) -> EpochBatchSampler:
        return cast(EpochBatchSampler, self.train_loader.batch_sampler)

    def get_eval_dataloader(self, samples: list[Any], *, verbose: bool = False) -> DataLoader[Any]:
        """All samples in their order."""
        return eval_loader(self.config, self.model.xtts.tokenizer, samples, self.ranks)

    ####################
    # TRAINING
    ####################

    def seed(self, purpose: str, step: int) -> None:
        """Seed all generators for a step of this process."""
        seed_all(self.config.training_seed, purpose, step, self.ranks.rank)

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
        whole = self._sampler.batch(step)
        names = [self.train_samples[index]["manifest_audio_file"] for index in whole]
        learning_rate = self.optimizer[0].param_groups[0]["lr"]
        moves = (step + 1) % self.grad_accum_steps == 0 or step + 1 == batch_n_steps
        losses = self._updater.step(batch, names, moves=moves)
        self._begin()
        self._losses.add(
            losses, step=position.step + 1, epoch=position.epoch, learning_rate=learning_rate, samples=names
        )
        position.step += 1
        position.batch = step + 1
        self.total_steps_done = position.step
        if self._progress.wants(position.step):
            self._progress.step(position, batch_n_steps, self.read_losses(), learning_rate)
            # what is seen in the log is seen in the dashboard
            self.dashboard_logger.flush()
        self.callbacks.on_train_step_end(self)
        return None, dict(losses)

    def read_losses(self) -> dict[str, float]:
        """Write down what the steps since the last time gave; the last one's losses."""
        return self._losses.read(self.position) if self._begun else {}

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
                if self._finished():
                    return
        self.callbacks.on_train_epoch_end(self)

    def _between_steps(self, boundary: int, epoch_ends: bool) -> None:
        """Serve what fell due since the last optimizer step: evaluate, then save, then stop."""

        def due(every: int | None) -> bool:
            return every is not None and self.position.step // every > boundary // every

        if epoch_ends and self.config.scheduler_after_epoch and self.scheduler[0] is not None:
            self.scheduler[0].step()
        if epoch_ends or due(self.config.run_eval_steps):
            self.position.evaluation_due = True
            self._evaluate_if_due()
        if due(self.config.save_step) and self.config.save_checkpoints:
            self.save_checkpoint()
        if self.ranks.any(self.stop.number is not None):
            raise Interrupted
        if self.ranks.any(self._limit.reached()):
            raise OutOfTime

    def _finished(self) -> bool:
        limit = getattr(self.config, "max_steps", None)
        return self._out_of_patience() or (limit is not None and self.position.step >= limit)

    def _out_of_patience(self) -> bool:
        patience = getattr(self.config, "patience", None)
        return patience is not None and self.position.evaluations_without_best >= patience

    def _is_complete(self) -> bool:
        """Whether a restored run has nothing left to do."""
        position = self.position
        epochs_done = position.epoch + (position.batch == len(self._sampler))
        return (self._finished() or epochs_done >= self.config.epochs) and not position.evaluation_due

    ####################
    # EVALUATION
    ####################

    def _evaluate_if_due(self) -> None:
        """Evaluate each language, choose the best model, speak the test sentences; all or nothing of it counts."""
        if not self.position.evaluation_due:
            return
        began = time.monotonic()
        position = self.position
        self.read_losses()
        self.seed("eval", position.step)
        lines = evaluate(self) if self.config.run_eval else {}
        loss = loss_of(lines, self.config, position.train_loss)
        position.evaluation_due = False
        if position.step == 0:
            # what is worse than the start is no best model
            position.start_value = self.best_value = position.last_value = loss
        else:
            self._retention = retentions(lines)
            position.last_value = value_of(loss, self._retention, self.config)
            better = position.last_value < self.best_value
            position.evaluations_without_best = 0 if better else position.evaluations_without_best + 1
        self.save_best_model()
        if self.position.epoch >= self.config.test_delay_epochs:
            self.test_run()
        self._training_mode()
        self._progress.leave_out(time.monotonic() - began)

    def test_run(self) -> None:
        """Speak the test sentences, for the dashboard and as files in the run folder."""
        if self.config.test_sentences and self.ranks.is_main:
            self.seed("test", self.position.step)
            speak_test_sentences(self)

    ####################
    # FIT
    ####################

    def _fit(self) -> None:
        self._progress = Progress(self.config, self.position.step)
        self._limit = TimeLimit(getattr(self.config, "max_minutes", None), checkpoint_size(self.model))
        if getattr(self.config, "batch_frames", None) == 0:
            widest = max(sample_frames(self.train_samples or [], self.config.model_args))
            self.config.batch_frames = self.ranks.from_main(find_batch_frames(self, widest))
        self.train_loader = self.get_train_dataloader(self.train_samples or [])
        self._sampler.set_position(self.position.epoch)
        if getattr(self.config, "batch_frames", None):
            logger.info(describe_padding(self._sampler, self.train_samples or [], self.config))
        if self.position.batch > len(self._sampler):
            logger.info(" > epoch %d has fewer batches now, and is over: the next one begins.", self.position.epoch)
            self.position.start_epoch(self.position.epoch + 1)
        if self._is_complete():
            done = f"step {self.position.step}, epoch {self.position.epoch + 1} of {self.config.epochs}"
            logger.info(" > The run is finished: %s. Raise --epochs, --max-steps or --patience to go on.", done)
            return
        if self.start_with_eval and self.position.step == 0:
            self.position.evaluation_due = True
        self._evaluate_if_due()
        for epoch in range(self.position.epoch, self.config.epochs):
            if self._finished():
                break
            if epoch > self.position.epoch:
                self.position.start_epoch(epoch)
            self.epochs_done = epoch
            self.callbacks.on_epoch_start(self)
            self.train_epoch()
            self.callbacks.on_epoch_end(self)
        if self._out_of_patience():
            logger.info(
                " > %d evaluations in a row gave no better model: the run ends here. Raise --patience to go on.",
                self.position.evaluations_without_best,
            )
        self._saver.finish()

    def _note(self, event: str, **values: Any) -> None:
        if self.ranks.is_main and self._begun:
            note(self.output_path, event, step=self.position.step, **values)

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
                self._note("end")
            except (Interrupted, OutOfTime) as reason:
                keep = True
                self._saver.finish()
                self._note("stop")
                logger.info(" > Stopped at step %d. To go on: --checkpoint %s", self.position.step, self.output_path)
                if isinstance(reason, Interrupted):
                    self.callbacks.on_keyboard_interrupt(self)
                    raise SystemExit(128 + int(self.stop.number or 0)) from None
            except XttsExtendError:
                self.read_losses()
                raise
            except torch.OutOfMemoryError as error:
                # of an evaluation or the optimizer; a batch is halved
                raise out_of_memory(str(error)) from error
            finally:
                # a start that failed leaves no folder behind
                self._leave(discard=self.position.step == first and not keep)
