"""Teach XTTS a new language, or resume an interrupted run.

    python train_gpt_xtts.py --base-dir XTTS --vocab am/vocab.json --language am \
        --train-manifest train.csv --val-manifest val.csv --output-dir runs
    python train_gpt_xtts.py --checkpoint runs/RUN            # resumes at the next batch

What the recipe does:

* Start or resume: what happens depends on the contents of `--checkpoint`. A base model starts a new run. A training
  checkpoint is resumed in its own run folder, with its weights, optimizer, schedule and random numbers, at the next
  batch. A checkpoint from the stock Trainer is resumed in a new folder beside the old one.
* New tokens: the vocabulary may be larger than the base model's. New rows are initialized from tokens that sound
  similar. Old rows are frozen. They are not parameters, so they need neither gradients nor optimizer moments.
* Voices: with new tokens, the voice side (the modules that turn a recording into a voice) is frozen, so every language
  keeps the base model's voices. This also makes steps faster. To train the voice side as well, pass `--voice trained`.
* Changed vocabularies: a checkpoint whose tokens differ from `--vocab` is rejected, even if the number of tokens is the
  same. With `--on-vocab-change migrate`, each row and its moments move to the new id of the row's token.
* Data checks: every recording is read once before training, and the result is cached by file size and modification
  time. Unusable samples are listed and skipped.
* Checkpoints: the state is copied between optimizer steps, then written to a temporary file that is flushed and
  renamed, while training continues. Until the write finishes, the copy takes as much memory as a checkpoint. Ctrl-C
  and SIGTERM save a checkpoint.
* Requests: a file named `stop`, `save` or `evaluate` in the `requests` folder of the run folder makes the run save a
  checkpoint and stop, save a checkpoint and continue, or evaluate.
* Several GPUs: `torchrun --nproc_per_node N train_gpt_xtts.py …` trains one model on N GPUs. `--batch-size` is per GPU.

Exit codes: 0 if training finished, or was stopped by a request or `--max-minutes`; 1 if the machine or a check failed;
2 if the user can fix the error; 130 or 143 if Ctrl-C or SIGTERM stopped the run, which saves a checkpoint first.
"""

import sys

from xtts_extend.environment import require_environment
from xtts_extend.errors import report_errors

# This check comes first, because with incompatible packages, the imports below may fail.
with report_errors(debug="--debug" in sys.argv):
    require_environment()

from trainer import TrainerArgs

import xtts_extend
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.summary import log_run_summary
from xtts_extend.setup.flags import parse_flags
from xtts_extend.setup.reference import base_digest, load_reference, prepare_training, require_old_languages
from xtts_extend.setup.resolve import resolve_config
from xtts_extend.setup.samples import encode_run, load_samples
from xtts_extend.setup.start import Mode, open_checkpoint
from xtts_extend.setup.validate import validate_config
from xtts_extend.setup.vocabulary_change import match_vocabulary
from xtts_extend.setup.weights import load_start_from, resize_embeddings
from xtts_extend.training.evaluation import measure_base
from xtts_extend.training.restore import check_resume
from xtts_extend.training.trainer import ResumableTrainer


def main(argv: list[str]) -> None:
    flags = parse_flags(argv)
    with report_errors(debug=flags.debug), Ranks.join() as ranks:
        xtts_extend.enable()

        # A base model to start from, or a training checkpoint to resume from.
        start = open_checkpoint(flags, ranks)
        resuming = start.mode is Mode.RESUME
        # Precedence: defaults < base model or checkpoint < flags < --coqpit overrides.
        config = resolve_config(flags, start, ranks.size)
        validate_config(config, start)
        # The vocabulary must equal or extend that of the weights. If not, it is rejected, or the weights are migrated.
        migration = match_vocabulary(config, start)
        # The processes divide the recordings that have not been read or encoded yet.
        samples = load_samples(config, ranks)
        config.started_from_digest = base_digest(config, samples.train)
        model = ExtendedGPTTrainer(config)

        resumed, compared = None, False
        if resuming:
            # Raises if settings that define the run have changed. The trainer loads the weights.
            resumed = check_resume(start.checkpoint, config, samples.train, ranks, migration, flags.allow_changes)
            config.freeze_base_rows = resumed.freezes
            model.restore_frozen_rows(resumed.base_rows)
            # Loads the base model's weights first, to compare the run with them.
            compared = load_reference(model, config, samples, start.checkpoint.record)
        else:
            weights, base_rows = resize_embeddings(start, config, migration)
            model.load_base(weights, base_rows)
            if config.freeze_base_rows:
                model.freeze_base_rows()
            require_old_languages(model, config, samples.evaluation)
            # The weights of a language pack are loaded after its base model has been measured.
            compared = bool(config.start_from)
        if config.voice == "frozen":
            # The run records this; it is the default with new tokens. A frozen voice needs no gradients or moments.
            model.freeze_voice()
        samples = encode_run(samples, config, model.codec, model.xtts.tokenizer, ranks)
        prepare_training(model, config, samples.train)
        base_losses = measure_base(model, config, samples.evaluation, ranks) if compared else {}
        if config.start_from and not resuming:
            load_start_from(model, config)
        log_run_summary(model, config, samples.train, samples.evaluation, ranks, start.resumed)

        trainer = ResumableTrainer(
            TrainerArgs(
                # Restores weights, optimizer, schedule and position; training resumes at the next batch.
                restore_path=str(start.path) if resuming else "",
                grad_accum_steps=config.grad_accum_steps,
                # Measures the base model before training changes it.
                start_with_eval=bool(samples.evaluation),
            ),
            config,
            model=model,
            train_samples=samples.train,
            eval_samples=samples.evaluation,
            resumed=resumed,
            base_losses=base_losses,
            new_run=flags.new_run,
            run_folder=start.run_folder,
            ranks=ranks,
        )
        trainer.fit()


if __name__ == "__main__":
    main(sys.argv[1:])
