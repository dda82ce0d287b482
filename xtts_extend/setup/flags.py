"""The flags of the recipe. A flag that is not given is None: the run's recorded value or the default then counts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from xtts_extend.data.columns import parse_columns
from xtts_extend.errors import ConfigError
from xtts_extend.model.adapter import KINDS as ADAPTERS
from xtts_extend.model.embedding import INIT_METHODS
from xtts_extend.model.voice import VOICE_MODES
from xtts_extend.run.config import NewLanguageConfig, apply_override

_EPILOG = """Every value of the configuration can be set as --coqpit.KEY=VALUE as well (--coqpit.lr=1e-5,
--coqpit.model_args.max_text_length=300); such an override beats the flag of the same meaning.
On a resume, what is not given takes the value that the run recorded."""


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number of at least 1 was expected")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: a number of at least 0 was expected")
    return value


def _frames(text: str) -> int:
    """A budget; 0 for `auto`"""
    return 0 if text == "auto" else _positive(text)


def _at_least_zero(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a finite number of at least 0 was expected")
    return value


def _share(text: str) -> float:
    value = _at_least_zero(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text}: a share of at least 0 and less than 1 was expected")
    return value


def _weights(text: str) -> dict[str, float]:
    """`am=3,en=1` → {"am": 3.0, "en": 1.0}"""
    weights = {}
    for part in text.split(","):
        language, _, value = part.partition("=")
        try:
            weights[language.strip()] = float(value)
        except ValueError:
            message = f"{text!r}: LANG=WEIGHT,LANG=WEIGHT was expected, with numbers"
            raise argparse.ArgumentTypeError(message) from None
    return weights


def _columns(text: str) -> dict[str, str]:
    """`text=sentence,audio=2` → {"text": "sentence", "audio": "2"}"""
    try:
        return parse_columns(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sentence(text: str) -> dict[str, str]:
    """`LANG:VOICE.wav:TEXT` → coqui's test sentence"""
    language, _, rest = text.partition(":")
    voice, separator, sentence = rest.partition(":")
    if not (language and voice and separator and sentence):
        raise argparse.ArgumentTypeError(f"{text!r}: LANG:VOICE.wav:TEXT was expected")
    return {"text": sentence, "speaker_wav": voice, "language": language}


def make_parser() -> argparse.ArgumentParser:
    """The recipe's parser; the help text of each flag says its default and why."""
    parser = argparse.ArgumentParser(
        description="Teach XTTS a language, or continue a run that was interrupted.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--base-dir", help="base model: config.json, model.pth, vocab.json, dvae.pth, mel_stats.pth")
    files.add_argument(
        "--checkpoint",
        help="a base model (default BASE_DIR/model.pth): start from it; a training checkpoint or a run folder "
        "(its newest sound checkpoint): continue it. Which of the two is decided by content, not by name",
    )
    files.add_argument("--vocab", help="vocabulary made by extend-vocab (default BASE_DIR/vocab.json)")
    files.add_argument("--language", help="code of the language to learn, as in its tag in the vocabulary")
    files.add_argument("--train-manifest", action="append", metavar="PATH[:LANG]", help="repeat for several")
    files.add_argument("--val-manifest", action="append", metavar="PATH[:LANG]", help="repeat for several")
    files.add_argument("--manifest-format", help="coqui, ljspeech, jsonl or a formatter registered with coqui [auto]")
    files.add_argument(
        "--columns",
        type=_columns,
        metavar="ROLE=COLUMN,…",
        help="which column of the manifests is audio, text, speaker, language, by name, or by number where there is no "
        "header, for example text=sentence,audio=file; speaker= says that there is none [by their names and layout]",
    )
    files.add_argument(
        "--codes",
        help="folder for the codes of the recordings, which are made where they are missing; encode makes them "
        "beforehand [OUTPUT_DIR/.codes]",
    )
    files.add_argument("--output-dir", help="run folders are made in it [runs]")

    start = parser.add_argument_group("start and resume")
    start.add_argument(
        "--start-from",
        metavar="FOLDER:LANG",
        help="begin with what a language pack of a model folder knows, whose vocabulary extend-vocab --base-vocab "
        "FOLDER:LANG extended; the base is the folder's [the base]",
    )
    start.add_argument("--start-fresh", action="store_true", help="take only the weights of a training checkpoint")
    start.add_argument("--new-run", action="store_true", help="continue in a new run folder instead of the run's own")
    start.add_argument(
        "--allow-changes", action="store_true", help="continue although values that define the run have changed"
    )
    start.add_argument(
        "--on-vocab-change",
        choices=("stop", "migrate"),
        help="where the checkpoint was trained with another vocabulary: stop and say what differs, or let every row "
        "and its moments follow its token, in a new run folder [stop]",
    )
    start.add_argument(
        "--checkpoint-vocab",
        help="the vocabulary of a checkpoint that neither records it nor has it beside it as vocab.json",
    )
    start.add_argument(
        "--init",
        choices=INIT_METHODS,
        help="start of the new rows: romanized (near what the token sounds like), mean, normal [romanized]",
    )
    start.add_argument(
        "--no-freeze-base-rows",
        dest="freeze_base_rows",
        action="store_false",
        help="train the rows of old tokens too; by default they cannot move, and old text keeps its embeddings",
    )
    start.add_argument(
        "--voice",
        choices=VOICE_MODES,
        help="what makes a voice of a recording, conditioning encoder and perceiver: frozen, so that voices stay the "
        "base's for every language and a step costs less, or trained, as coqui's recipe does [frozen with new tokens "
        "or an adapter, else trained]",
    )

    training = parser.add_argument_group("training (a step is a batch)")
    training.add_argument("--epochs", type=_positive, help="stop after so many passes [1000: until you stop it]")
    training.add_argument("--max-steps", type=_positive, help="stop after so many steps [no limit]")
    training.add_argument(
        "--max-minutes",
        type=_at_least_zero,
        help="save and end with exit code 0 before so many minutes are over [no limit]",
    )
    training.add_argument(
        "--batch-size", type=_positive, help="utterances per batch [4: with 64 of them accumulated, an effective 256]"
    )
    training.add_argument(
        "--batch-frames",
        type=_frames,
        metavar="N|auto",
        help="in the place of --batch-size: utterances of about the same length together, so many as have N frames "
        "with their padding (a frame is 46 ms of audio, or a token); auto: what fits into the GPU, a tenth left free",
    )
    training.add_argument(
        "--grad-accum-steps",
        type=_positive,
        help="batches per optimizer step [64: with batch 4 an effective 256; coqui's recipe asks for 252 or more]",
    )
    training.add_argument(
        "--learning-rate",
        type=_at_least_zero,
        help="[5e-6: coqui's value for fine-tuning XTTS]",
    )
    training.add_argument(
        "--warmup-steps",
        type=_count,
        help="linear warm-up over so many batches, then constant [0: coqui's recipe has none]",
    )
    training.add_argument(
        "--text-loss-weight", type=_at_least_zero, help="[0.01: as XTTS was trained; speech is what counts]"
    )
    training.add_argument(
        "--mel-loss-weight", type=_at_least_zero, help="[1.0: the loss of the audio codes sets the scale]"
    )
    training.add_argument("--weight-decay", type=_at_least_zero, help="on weight matrices only [0.01: coqui's]")
    training.add_argument(
        "--grad-clip", type=_at_least_zero, help="largest norm of the gradient [0: no limit, as coqui]"
    )
    training.add_argument(
        "--amp",
        choices=("none", "bf16", "fp16"),
        help="mixed precision [bf16 on hardware that computes in it, else none]",
    )
    training.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute the layers' activations again in the backward pass: for small GPUs, a third slower",
    )
    training.add_argument(
        "--compile", action="store_true", help="compile the transformer's layers: slower to start, then faster"
    )
    training.add_argument(
        "--num-workers", type=_count, help="processes that load data; changes only the speed [4 with a GPU, else 0]"
    )
    training.add_argument("--seed", type=int, help="of everything that is random [1]")
    training.add_argument(
        "--language-weights",
        type=_weights,
        metavar="LANG=W,…",
        help="shares of the audio [by hours: every utterance once an epoch]",
    )
    training.add_argument(
        "--max-bad-share",
        type=_at_least_zero,
        help="stop if a larger share is unusable [0.01: more points to a fault in the data]",
    )

    keeping = parser.add_argument_group("keeping the languages that the base knows")
    keeping.add_argument(
        "--replay",
        action="append",
        metavar="PATH[:LANG]",
        help="a set that make-replay wrote, or a manifest in an old language; repeat for several",
    )
    keeping.add_argument(
        "--replay-share",
        type=_share,
        help="of the samples, when there is something to replay [0.25]",
    )
    keeping.add_argument(
        "--distill-weight",
        type=_at_least_zero,
        help="of the divergence from the base's distribution on replayed samples [1.0; 0: only their codes count]",
    )
    keeping.add_argument(
        "--adapter",
        choices=ADAPTERS,
        help="lora: train low-rank matrices beside the transformer's, which stay as they are [none]",
    )
    keeping.add_argument("--adapter-rank", type=_positive, help="rank of these matrices [16]")

    output = parser.add_argument_group("checkpoints and evaluation")
    output.add_argument(
        "--save-step", type=_positive, help="steps between checkpoints [1000: what a kill can cost at most]"
    )
    output.add_argument(
        "--keep-checkpoints",
        type=_positive,
        help="newest checkpoints to keep, beside the best [3: one of the published size takes 5.0 GB]",
    )
    output.add_argument("--eval-step", type=_positive, help="steps between evaluations [at each epoch's end only]")
    output.add_argument(
        "--min-retention",
        type=_at_least_zero,
        help="a model is the best one only if its merged weights keep this retention of each old language, the base's "
        "mel loss over theirs (0.99: at most 1 %% worse); beside a pack the base speaks the old languages exactly as "
        "before, whatever this is [no limit]",
    )
    output.add_argument(
        "--patience", type=_positive, help="end after so many evaluations in a row without a new best model [never]"
    )
    output.add_argument(
        "--test-sentence",
        action="append",
        type=_sentence,
        metavar="LANG:VOICE.wav:TEXT",
        help="spoken at every evaluation, for TensorBoard; repeat for several",
    )
    output.add_argument("--debug", action="store_true", help="show a traceback on errors")
    return parser


@dataclass(frozen=True)
class Flags:
    """What a command line says of a run; what it does not say is None, False or empty.

    Attributes:
        checkpoint: what to start from, or to resume.
        base_dir: the base directory.
        start_fresh: take only the weights of a training checkpoint.
        new_run: resume in a new run folder.
        allow_changes: resume although values that define the run have changed.
        warmup_steps: batches of a linear warm-up.
        amp: mixed precision: none, bf16 or fp16.
        debug: show a traceback on errors.
        values: flags that are values of the configuration, by their names.
        overrides: `--coqpit.KEY=VALUE`, which beat them.
    """

    checkpoint: str | None = None
    base_dir: str = ""
    start_fresh: bool = False
    new_run: bool = False
    allow_changes: bool = False
    warmup_steps: int | None = None
    amp: str | None = None
    debug: bool = False
    values: Mapping[str, object] = field(default_factory=dict)
    overrides: Sequence[str] = ()


#: Flags that are not values of the configuration.
NOT_CONFIG = frozenset(item.name for item in fields(Flags)) - {"values", "overrides"}


def parse_flags(argv: Sequence[str]) -> Flags:
    """Read the recipe's command line."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--coqpit."):
            flags.append(argument)
        elif "=" in argument or not rest:
            overrides.append(argument)
        else:
            overrides.append(f"{argument}={rest.pop(0)}")
    given = vars(make_parser().parse_args(flags))
    return Flags(
        **{name: value for name, value in given.items() if name in NOT_CONFIG},
        values={name: value for name, value in given.items() if name not in NOT_CONFIG},
        overrides=overrides,
    )


#: Flags that are a value of the configuration under another (or nested) name.
RENAMED = {
    "learning_rate": "lr",
    "num_workers": "num_loader_workers",
    "seed": "training_seed",
    "keep_checkpoints": "save_n_checkpoints",
    "eval_step": "run_eval_steps",
    "test_sentence": "test_sentences",
    "text_loss_weight": "model_args.gpt_loss_text_ce_weight",
    "mel_loss_weight": "model_args.gpt_loss_mel_ce_weight",
    "weight_decay": "optimizer_params.weight_decay",
    "train_manifest": "train_manifests",
    "val_manifest": "val_manifests",
    "output_dir": "output_path",
    "vocab": "model_args.tokenizer_file",
}
_PATHS = ("vocab", "checkpoint_vocab", "codes", "output_dir")


def apply_flags(config: NewLanguageConfig, flags: Flags) -> None:
    """Put the flags that were given into the configuration, then the overrides.

    Raises:
        ConfigError: an override names no key or has the wrong type; flags contradict each other.
    """
    given = flags.values
    for flag, value in given.items():
        if flag in _PATHS:
            value = str(Path(str(value)).expanduser().absolute())
        *parents, last = RENAMED.get(flag, flag).split(".")
        target: object = config
        for name in parents:
            target = getattr(target, name)
        if isinstance(target, dict):
            target[last] = value
        else:
            setattr(target, last, value)
    if "batch_size" in given:
        config.eval_batch_size = config.batch_size
    if "val_manifest" in given:
        config.run_eval = True
    if "num_workers" in given:
        config.num_eval_loader_workers = config.num_loader_workers
    if flags.amp is not None:
        config.mixed_precision = flags.amp != "none"
        config.precision = flags.amp if config.mixed_precision else "fp16"
    if "batch_frames" in given and "batch_size" in given:
        raise ConfigError("--batch-frames and --batch-size are two ways to say one thing. Leave one away.")
    if "batch_size" in given:
        config.batch_frames = None
    for override in flags.overrides:
        apply_override(config, override)
    if flags.warmup_steps is not None and not any(item.startswith("--coqpit.lr_scheduler") for item in flags.overrides):
        # the scheduler moves once per optimizer step
        moves = -(-flags.warmup_steps // max(1, config.grad_accum_steps))
        config.lr_scheduler = "LinearLR" if moves else None
        config.lr_scheduler_params = {"start_factor": 1e-3, "total_iters": moves} if moves else {}
    if given.get("replay_share") and not config.replay:
        raise ConfigError("--replay-share is set, and there is nothing to replay: give --replay a set or a manifest.")
