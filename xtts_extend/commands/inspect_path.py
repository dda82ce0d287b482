"""`xtts-extend inspect`: what a path is; beside a base, whether it is healthy."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values
from xtts_extend.environment import require_environment
from xtts_extend.errors import ConfigError

HELP = "say what a checkpoint, run folder or base directory is, from its content"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    # without --base it reads a header
    parser.set_defaults(needs_coqui=False)
    add_json(parser)
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--base", type=Path, help="a base directory or its model.pth: examine PATH beside it")
    parser.add_argument("--vocab", type=Path, help="with --base: the vocabulary that PATH is to be used with")


def run(args: argparse.Namespace) -> int:
    """Returns 1 when the verdict beside a base is not `healthy`."""
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
        raise ConfigError("--vocab is compared beside the base: give --base as well.")
    from xtts_extend.checkpoint.inspect import inspect_checkpoint

    print_values(inspect_checkpoint(args.path).to_dict(), args.json)
    return 0
