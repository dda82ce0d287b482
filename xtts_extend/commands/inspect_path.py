"""`xtts-extend inspect`: identify a checkpoint and, given its base, diagnose it."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values
from xtts_extend.environment import require_environment
from xtts_extend.errors import ConfigError

HELP = "Identify a checkpoint, run folder or base directory by its contents."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    # Without --base, this only reads a file header.
    parser.set_defaults(needs_coqui=False)
    add_json(parser)
    parser.add_argument("path", type=Path, metavar="PATH", help="A checkpoint, run folder or base directory.")
    parser.add_argument("--base", type=Path, help="A base directory, or its model.pth, to compare PATH with.")
    parser.add_argument("--vocab", type=Path, help="The vocabulary that will be used with PATH. Requires --base.")


def run(args: argparse.Namespace) -> int:
    """Run the command; return 1 if a comparison with a base yields a verdict other than `healthy`."""
    if args.base is not None:
        require_environment()
        from xtts_extend.rescue.doctor import examine

        diagnosis = examine(args.path, args.base, args.vocab)
        if args.json:
            print_values(diagnosis.to_dict(), True)
        else:
            print(diagnosis.describe())
        return 0 if diagnosis.verdict == "healthy" else 1
    if args.vocab is not None:
        raise ConfigError("--vocab can only be used together with --base. Pass --base as well.")
    from xtts_extend.checkpoint.inspect import inspect_checkpoint

    print_values(inspect_checkpoint(args.path).to_dict(), args.json)
    return 0
