"""Teach XTTS a new language, or continue a run that was interrupted.

    python train_gpt_xtts.py --base-dir XTTS --vocab am/vocab.json --language am \
        --train-manifest train.csv --val-manifest val.csv --output-dir runs
    python train_gpt_xtts.py --checkpoint runs/RUN            # continues at the next batch

What it does, and what each part costs:

* `--checkpoint` is classified by content. A base model is started from; a training checkpoint is continued with
  weights, optimizer, schedule, random numbers and the next batch, in its own run folder; one of the stock Trainer in a
  new folder beside it.
* The vocabulary may be larger than the base's. New rows start near what they sound like; old rows are frozen, that is,
  they are no parameters at all. This costs nothing and saves their gradients and moments.
* What makes a voice of a recording is frozen beside new tokens: a voice is the base's, whatever language it speaks. It
  gets no gradient and no moments, which makes a step faster; `--voice trained` trains it as well.
* A checkpoint of another vocabulary is refused, by its tokens and not by their number; with `--on-vocab-change migrate`
  every row and its moments follow their token.
* Every recording is read once before training (cached by size and time); what is unusable is named and left out.
* Checkpoints are written between optimizer steps, aside, flushed and renamed, while training goes on; the state is
  copied for that, which takes as much memory as a checkpoint. Ctrl-C and SIGTERM leave one.
* `torchrun --nproc_per_node N train_gpt_xtts.py …` trains one model on N GPUs; `--batch-size` is that of each.

Exit codes: 0 finished; 2 something that the user can mend; 1 the machine failed; 130 and 143 stopped by Ctrl-C and
SIGTERM, after a checkpoint.
"""

import sys

from xtts_extend.environment import require_environment
from xtts_extend.errors import report_errors

# before anything heavy is imported: where packages do not fit together, that may fail already
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

        # what the path is, by content: a base model to start from, or a training checkpoint to resume
        start = open_checkpoint(flags, ranks)
        resuming = start.mode is Mode.RESUME
        # defaults < base or recorded < flags < --coqpit
        config = resolve_config(flags, start, ranks.size)
        validate_config(config, start)
        # the vocabulary of the weights, or one that grew at its end; else refused, or every row follows its token
        migration = match_vocabulary(config, start)
        with ranks.main_first():
            samples = load_samples(config)
            config.started_from_digest = base_digest(config, samples.train)
        model = ExtendedGPTTrainer(config)

        resumed, compared = None, False
        if resuming:
            # refused where it would become another run; its weights are loaded by the trainer
            resumed = check_resume(start.checkpoint, config, samples.train, ranks, migration, flags.allow_changes)
            config.freeze_base_rows = resumed.freezes
            model.restore_frozen_rows(resumed.base_rows)
            # with the base, whose weights come first then
            compared = load_reference(model, config, samples, start.checkpoint.record)
        else:
            weights, base_rows = resize_embeddings(start, config, migration)
            model.load_base(weights, base_rows)
            if config.freeze_base_rows:
                model.freeze_base_rows()
            require_old_languages(model, config, samples.evaluation)
            # what a language pack knows comes after its base was measured
            compared = bool(config.start_from)
        if config.voice == "frozen":
            # as recorded, or because there are new tokens: no gradient, no graph, no moments
            model.freeze_voice()
        with ranks.main_first():
            samples = encode_run(samples, config, model.codec, model.xtts.tokenizer)
        prepare_training(model, config, samples.train)
        base_losses = measure_base(model, config, samples.evaluation, ranks) if compared else {}
        if config.start_from and not resuming:
            load_start_from(model, config)
        log_run_summary(model, config, samples.train, samples.evaluation, ranks, start.resumed)

        trainer = ResumableTrainer(
            TrainerArgs(
                # weights, optimizer, schedule, position: the next batch is the one that would have come
                restore_path=str(start.path) if resuming else "",
                grad_accum_steps=config.grad_accum_steps,
                # what the base can do is worth knowing before it changes
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
