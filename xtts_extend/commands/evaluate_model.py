"""`xtts-extend evaluate`: compute a model's losses on recordings, and evaluate the speech that it generates."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, add_manifests, columns_of, print_values
from xtts_extend.errors import ConfigError

HELP = "Compute a model's losses on recordings, and evaluate the speech that it generates."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument("--model", type=Path, required=True, help="A folder written by export, or a base directory.")
    add_manifests(parser)
    parser.add_argument("--language", required=True, help="Code of the language to evaluate.")
    parser.add_argument(
        "--asr",
        metavar="MODEL",
        help="Speech recognition model for measuring the character error rate: a folder, a Hugging Face model ID, or "
        "module:function for a Python function from audio (float32, up to 60 s) and sample rate to text.",
    )
    parser.add_argument(
        "--asr-language",
        metavar="CODE",
        help="The recognizer's code for the language, if it differs from --language. [--language]",
    )
    parser.add_argument("--base-dir", type=Path, help="Folder with dvae.pth and mel_stats.pth. [the model's base]")
    parser.add_argument(
        "--samples", type=int, default=20, help="Number of samples to speak. With 0, only the losses are computed. [20]"
    )
    parser.add_argument("--seed", type=int, default=0, help="Random seed for sampling. [0]")


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0, regardless of the measurements."""
    from xtts_extend.speech.evaluate import evaluate
    from xtts_extend.speech.recognition import load_recogniser

    if args.samples < 0:
        raise ConfigError(f"--samples {args.samples}: expected 0 or more.")
    recognise = load_recogniser(args.asr, args.asr_language or args.language) if args.asr else None
    result = evaluate(
        args.model,
        args.manifest,
        args.language,
        manifest_format=args.manifest_format,
        columns=columns_of(args),
        base_dir=args.base_dir,
        recognise=recognise,
        count=args.samples,
        seed=args.seed,
    )
    print_values(result, args.json)
    return 0
