"""`xtts-extend evaluate`: a model folder on recordings."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, add_manifests, columns_of, print_values
from xtts_extend.errors import ConfigError

HELP = "losses of a model folder on recordings, and what its own speech is like"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("--model", type=Path, required=True, help="a folder that export wrote, or a base directory")
    add_manifests(parser)
    parser.add_argument("--language", required=True)
    parser.add_argument("--asr", metavar="MODEL", help="a folder or hub name for transformers: character error rate")
    parser.add_argument("--asr-language", metavar="CODE", help="what the recogniser calls it [the language]; MMS: amh")
    parser.add_argument("--base-dir", type=Path, help="where dvae.pth and mel_stats.pth are [the model's base]")
    parser.add_argument("--samples", type=int, default=20, help="how many are spoken; 0: losses alone [20]")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Returns 0; numbers are not judged."""
    from xtts_extend.speech.evaluate import evaluate
    from xtts_extend.speech.recognition import load_recogniser

    if args.samples < 0:
        raise ConfigError(f"--samples {args.samples}: 0 or more was expected.")
    recognise = load_recogniser(args.asr, args.asr_language or args.language) if args.asr else None
    found = evaluate(
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
    print_values(found, args.json)
    return 0
