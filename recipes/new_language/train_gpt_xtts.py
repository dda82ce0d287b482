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
from xtts_extend.run.ranks import Ranks
from xtts_extend.setup.flags import parse_arguments
from xtts_extend.setup.prepare import prepare
from xtts_extend.training.trainer import ResumableTrainer


def main(argv: list[str]) -> None:
    arguments, overrides = parse_arguments(argv)
    given = vars(arguments)

    with report_errors(debug=given.get("debug", False)), Ranks.join() as ranks:
        xtts_extend.enable()

        # what the given path is, what follows from it, the data, and a model: a base gets its new rows here, a training
        # checkpoint is restored by the trainer
        prepared = prepare(given, overrides, ranks)
        start, config = prepared.start, prepared.config

        trainer = ResumableTrainer(
            TrainerArgs(
                restore_path=str(start.path) if start.resume else "",
                grad_accum_steps=config.grad_accum_steps,
                # what the base can do is worth knowing before it changes
                start_with_eval=bool(prepared.samples.evaluation),
            ),
            config,
            output_path=config.output_path,
            model=prepared.model,
            train_samples=prepared.samples.train,
            eval_samples=prepared.samples.evaluation,
            new_run=given.get("new_run", False),
            allow_changes=given.get("allow_changes", False),
            run_folder=start.run_folder,
            ranks=ranks,
            migration=prepared.migration,
        )
        trainer.fit()


if __name__ == "__main__":
    main(sys.argv[1:])
