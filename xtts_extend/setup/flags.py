"""The recipe's flags. An omitted flag is None; the run's recorded value applies or, without one, the default."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from xtts_extend.errors import ConfigError
from xtts_extend.model.adapter import KINDS as ADAPTERS
from xtts_extend.model.embedding import INIT_METHODS
from xtts_extend.model.voice import VOICE_MODES
from xtts_extend.run.config import NewLanguageConfig, apply_override
from xtts_extend.setup.flag_types import (
    at_least_zero,
    columns,
    count,
    frames,
    language_weights,
    positive_int,
    share,
    test_sentence,
)

_EPILOG = """Every configuration value can also be set with --coqpit.KEY=VALUE (for example --coqpit.lr=1e-5
or --coqpit.model_args.max_text_length=300). Such an override takes precedence over the corresponding flag.
When a run is resumed, omitted flags keep the values that the run recorded."""


def make_parser() -> argparse.ArgumentParser:
    """Return the recipe's parser. The help text of each flag states its default and the reason for it."""
    parser = argparse.ArgumentParser(
        description="Teach XTTS a new language, or resume an interrupted run.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--base-dir", help="Folder with config.json, model.pth, vocab.json, dvae.pth and mel_stats.pth.")
    files.add_argument(
        "--checkpoint",
        help="A base model to start from, or a training checkpoint or run folder to resume from. For a run folder, "
        "the newest intact checkpoint is used. The file's content, not its name, determines whether a run is started "
        "or resumed. Default: BASE_DIR/model.pth.",
    )
    files.add_argument("--vocab", help="Vocabulary file created by extend-vocab. Default: BASE_DIR/vocab.json.")
    files.add_argument("--language", help="Code of the language to learn, as in its vocabulary tag (am for [am]).")
    files.add_argument(
        "--train-manifest",
        action="append",
        metavar="PATH[:LANG]",
        help="Manifest of the training set, or a data set such as hf:USER/NAME@train. Can be repeated.",
    )
    files.add_argument(
        "--val-manifest",
        action="append",
        metavar="PATH[:LANG]",
        help="Manifest of the validation set, or a data set such as hf:USER/NAME@validation. Can be repeated.",
    )
    files.add_argument(
        "--manifest-format",
        help="Format of the manifests: coqui, ljspeech, jsonl or a formatter registered with coqui. Default: auto.",
    )
    files.add_argument(
        "--columns",
        type=columns,
        metavar="ROLE=COLUMN,…",
        help="Manifest columns that contain the audio, text, speaker and language, by name, or by number if there is "
        "no header (for example text=sentence,audio=file). speaker= means that there is no speaker column. Default: "
        "detected from the names and the layout.",
    )
    files.add_argument(
        "--codes",
        help="Folder for the audio codes of the recordings. Missing codes are computed; `encode` computes them in "
        "advance. Default: OUTPUT_DIR/.codes.",
    )
    files.add_argument("--output-dir", help="Folder in which run folders are created. Default: runs.")

    start = parser.add_argument_group("starting and resuming")
    start.add_argument(
        "--start-from",
        metavar="FOLDER:LANG",
        help="Start from a language pack in a model folder, and use that folder's base model. Extend the vocabulary "
        "with extend-vocab --base-vocab FOLDER:LANG. Default: start from the base model.",
    )
    start.add_argument(
        "--start-fresh", action="store_true", help="Use only the weights of a training checkpoint, and start at step 0."
    )
    start.add_argument("--new-run", action="store_true", help="Resume in a new run folder instead of the run's own.")
    start.add_argument(
        "--allow-changes", action="store_true", help="Resume even if values that define the run have changed."
    )
    start.add_argument(
        "--on-vocab-change",
        choices=("stop", "migrate"),
        help="What to do if the checkpoint was trained with a different vocabulary. stop: list the differences and "
        "exit. migrate: move each token's row and optimizer moments to its new id, then resume in a new run. Default: "
        "stop.",
    )
    start.add_argument(
        "--checkpoint-vocab",
        help="Vocabulary that the checkpoint was trained with. Needed only if the checkpoint does not record it and "
        "has no vocab.json next to it.",
    )
    start.add_argument(
        "--init",
        choices=INIT_METHODS,
        help="Initial values of new token rows. romanized: derived from old tokens that sound similar. Default: "
        "romanized.",
    )
    start.add_argument(
        "--no-freeze-base-rows",
        dest="freeze_base_rows",
        action="store_false",
        help="Also train the rows of old tokens. By default, they are frozen, so their embeddings do not change.",
    )
    start.add_argument(
        "--voice",
        choices=VOICE_MODES,
        help="Whether to train the conditioning encoder and the perceiver, which turn a recording into a voice. "
        "frozen: every language keeps the base's voices, and steps are faster. trained: as in coqui's recipe. "
        "Default: frozen if there are new tokens or an adapter, otherwise trained.",
    )

    training = parser.add_argument_group("training (one step is one batch)")
    training.add_argument(
        "--epochs",
        type=positive_int,
        help="Maximum number of epochs. Default: 1000, so in practice the run trains until you stop it.",
    )
    training.add_argument("--max-steps", type=positive_int, help="Maximum number of steps. Default: no limit.")
    training.add_argument(
        "--max-minutes",
        type=at_least_zero,
        help="Save a checkpoint and exit with code 0 within this many minutes. Default: no limit.",
    )
    training.add_argument(
        "--batch-size",
        type=positive_int,
        help="Number of utterances per batch. Default: 4, so 64 accumulated batches make an effective batch of 256.",
    )
    training.add_argument(
        "--batch-frames",
        type=frames,
        metavar="N|auto",
        help="Maximum number of frames per batch, including padding. Use it instead of --batch-size. Utterances of "
        "similar length are batched together. A frame is 46 ms of audio or one text token. auto: use as many frames as "
        "fit in GPU memory while leaving a tenth of it free.",
    )
    training.add_argument(
        "--grad-accum-steps",
        type=positive_int,
        help="Number of batches per optimizer step. Default: 64, for an effective batch size of 256 (coqui recommends "
        "at least 252).",
    )
    training.add_argument(
        "--learning-rate", type=at_least_zero, help="Learning rate. Default: 5e-6, coqui's value for fine-tuning XTTS."
    )
    training.add_argument(
        "--warmup-steps",
        type=count,
        help="Length of the linear learning-rate warm-up, in batches; the rate is constant afterward. Default: 0, as "
        "in coqui's recipe.",
    )
    training.add_argument(
        "--text-loss-weight",
        type=at_least_zero,
        help="Weight of the text loss. Default: 0.01, as used to train XTTS. It is low because speech matters more.",
    )
    training.add_argument(
        "--mel-loss-weight",
        type=at_least_zero,
        help="Weight of the audio code loss. Default: 1.0. The other weights are relative to this one.",
    )
    training.add_argument(
        "--weight-decay",
        type=at_least_zero,
        help="Weight decay. It applies only to weight matrices. Default: 0.01, coqui's value.",
    )
    training.add_argument(
        "--grad-clip",
        type=at_least_zero,
        help="Maximum gradient norm. Default: 0, which means no limit, as in coqui's recipe.",
    )
    training.add_argument(
        "--amp",
        choices=("none", "bf16", "fp16"),
        help="Mixed precision. Default: bf16 if the hardware supports it natively, otherwise none.",
    )
    training.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="Recompute activations in the backward pass. This saves memory on small GPUs, but training is a third "
        "slower.",
    )
    training.add_argument(
        "--compile",
        action="store_true",
        help="Compile the transformer's layers. Training takes longer to start but then runs faster.",
    )
    training.add_argument(
        "--num-workers",
        type=count,
        help="Number of data loader processes. This affects only speed. Default: 4 with a GPU, otherwise 0.",
    )
    training.add_argument("--seed", type=int, help="Seed for all randomness. Default: 1.")
    training.add_argument(
        "--language-weights",
        type=language_weights,
        metavar="LANG=W,…",
        help="Relative share of the audio for each language. Default: proportional to the language's hours, with "
        "every utterance used once per epoch.",
    )
    training.add_argument(
        "--max-bad-share",
        type=at_least_zero,
        help="Stop if more than this share of the samples is unusable. Default: 0.01; a larger share suggests a "
        "problem with the data.",
    )

    keeping = parser.add_argument_group("keeping the base's languages")
    keeping.add_argument(
        "--replay",
        action="append",
        metavar="PATH[:LANG]",
        help="A replay set written by make-replay, or a manifest in a language that the base knows. Can be repeated.",
    )
    keeping.add_argument(
        "--replay-share",
        type=share,
        help="Fraction of the samples that are replayed when --replay is used. Default: 0.25.",
    )
    keeping.add_argument(
        "--distill-weight",
        type=at_least_zero,
        help="Weight of the divergence from the base on replayed samples. With 0, these samples contribute "
        "only the loss on their codes. Default: 1.0.",
    )
    keeping.add_argument(
        "--adapter",
        choices=ADAPTERS,
        help="lora: train low-rank matrices and leave the transformer's own weights unchanged. Default: none.",
    )
    keeping.add_argument("--adapter-rank", type=positive_int, help="Rank of the adapter's matrices. Default: 16.")

    output = parser.add_argument_group("checkpoints and evaluation")
    output.add_argument(
        "--save-step",
        type=positive_int,
        help="Number of steps between checkpoints. Default: 1000, so a killed process loses at most 1000 steps.",
    )
    output.add_argument(
        "--keep-checkpoints",
        type=positive_int,
        help="Number of most recent checkpoints to keep, in addition to the best model. Default: 3; a full-size "
        "checkpoint takes 5.0 GB.",
    )
    output.add_argument(
        "--eval-step",
        type=positive_int,
        help="Number of steps between evaluations. Default: evaluate only at the end of each epoch.",
    )
    output.add_argument(
        "--min-retention",
        type=at_least_zero,
        help="Accept a model as the best only if its merged weights have at least this retention (the base's mel loss "
        "divided by the model's) in each old language. 0.99 means at most 1%% worse. With a pack, the base speaks the "
        "old languages exactly as before, whatever this value is. Default: no limit.",
    )
    output.add_argument(
        "--patience",
        type=positive_int,
        help="Stop after this many evaluations in a row without a new best model. Default: never stop for this reason.",
    )
    output.add_argument(
        "--test-sentence",
        action="append",
        type=test_sentence,
        metavar="LANG:VOICE.wav:TEXT",
        help="Sentence to synthesize for TensorBoard at every evaluation. Can be repeated.",
    )
    output.add_argument("--debug", action="store_true", help="Show a traceback on errors.")
    return parser


@dataclass(frozen=True)
class Flags:
    """The recipe's parsed command line. Omitted flags are None, False or empty.

    Attributes:
        checkpoint: Path to start or resume from.
        base_dir: Base directory.
        start_fresh: Whether to use only the weights of a training checkpoint.
        new_run: Whether to resume in a new run folder.
        allow_changes: Whether to resume even if values that define the run have changed.
        warmup_steps: Length of the learning-rate warm-up, in batches.
        amp: Mixed precision: none, bf16 or fp16.
        debug: Whether to show a traceback on errors.
        values: Flags that set configuration values, by flag name.
        overrides: `--coqpit.KEY=VALUE` arguments, which take precedence over `values`.
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


#: Flags that are not configuration values.
NOT_CONFIG = frozenset(item.name for item in fields(Flags)) - {"values", "overrides"}


def parse_flags(argv: Sequence[str]) -> Flags:
    """Parse the recipe's command line."""
    flags: list[str] = []
    overrides: list[str] = []
    remaining = list(argv)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--coqpit."):
            flags.append(argument)
        elif "=" in argument or not remaining:
            overrides.append(argument)
        else:
            overrides.append(f"{argument}={remaining.pop(0)}")
    parsed = vars(make_parser().parse_args(flags))
    return Flags(
        **{name: value for name, value in parsed.items() if name in NOT_CONFIG},
        values={name: value for name, value in parsed.items() if name not in NOT_CONFIG},
        overrides=overrides,
    )


#: Flags whose configuration key has a different, possibly nested, name.
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
    """Apply the given flags to the configuration, and then the overrides.

    Raises:
        ConfigError: An override has an unknown key or a value of the wrong type, or flags contradict each other.
    """
    values = flags.values
    for flag, value in values.items():
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
    if "batch_size" in values:
        config.eval_batch_size = config.batch_size
    if "val_manifest" in values:
        config.run_eval = True
    if "num_workers" in values:
        config.num_eval_loader_workers = config.num_loader_workers
    if flags.amp is not None:
        config.mixed_precision = flags.amp != "none"
        config.precision = flags.amp if config.mixed_precision else "fp16"
    if "batch_frames" in values and "batch_size" in values:
        raise ConfigError("--batch-frames and --batch-size are mutually exclusive. Omit one of them.")
    if "batch_size" in values:
        config.batch_frames = None
    for override in flags.overrides:
        apply_override(config, override)
    if flags.warmup_steps is not None and not any(item.startswith("--coqpit.lr_scheduler") for item in flags.overrides):
        # The scheduler steps once per optimizer step, not per batch.
        iterations = -(-flags.warmup_steps // max(1, config.grad_accum_steps))
        config.lr_scheduler = "LinearLR" if iterations else None
        config.lr_scheduler_params = {"start_factor": 1e-3, "total_iters": iterations} if iterations else {}
    if values.get("replay_share") and not config.replay:
        raise ConfigError("--replay-share needs replay data. Pass a replay set or a manifest with --replay.")
