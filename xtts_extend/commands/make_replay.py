"""`xtts-extend make-replay`: generate speech with a base model, to be replayed during training."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values
from xtts_extend.errors import ConfigError

HELP = "Generate speech with a base model, to keep it from forgetting its languages during training."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument("--base-dir", type=Path, required=True, help="The base directory.")
    parser.add_argument(
        "--text",
        action="append",
        required=True,
        metavar="LANG=FILE",
        help="A UTF-8 text file in one of the base's languages; can be repeated.",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        help="Recordings of the voices to use, about 10 s each.",
    )
    parser.add_argument(
        "--hours", type=float, required=True, help="Total hours of speech to generate, across all languages."
    )
    parser.add_argument("--output", type=Path, required=True, help="A new folder, or an unfinished one to resume.")
    parser.add_argument(
        "--conditioning-s",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="Minimum and maximum length of the conditioning slices of a voice, in seconds. [3 6, as in training]",
    )
    parser.add_argument("--seed", type=int, default=0, help="Random seed for texts, voices and sampling. [0]")


def run(args: argparse.Namespace) -> int:
    """Run the command, in one process or several, and return 0. Texts or voices that cannot be used raise an error."""
    from xtts_extend.run.ranks import Ranks
    from xtts_extend.speech.replay import make_replay

    texts: dict[str, list[Path]] = {}
    for argument in args.text:
        language, separator, file = argument.partition("=")
        if not (language and separator and file):
            raise ConfigError(f"--text {argument}: expected LANG=FILE, for example --text en=english.txt.")
        texts.setdefault(language, []).append(Path(file))
    with Ranks.join() as ranks:
        result = make_replay(
            args.base_dir,
            texts,
            args.reference,
            args.hours,
            args.output,
            conditioning_s=args.conditioning_s,
            seed=args.seed,
            processes=ranks,
        )
        if ranks.is_main:
            print_values(result, args.json)
    return 0
