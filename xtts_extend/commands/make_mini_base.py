"""`xtts-extend make-mini-base`: a base directory of any size, for trials."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make a base directory of any size"
_SIZES = ("layers", "channels", "heads", "steps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocab", type=Path, help="an XTTS vocab.json; by default a small one is made")
    for size in _SIZES:
        parser.add_argument(f"--{size}", type=int, help="0: untrained, in seconds" if size == "steps" else None)


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    from xtts_extend.demo.mini_base import make_mini_base

    sizes = {size: getattr(args, size) for size in _SIZES if getattr(args, size) is not None}
    print(make_mini_base(args.output, vocab=args.vocab, **sizes))
    return 0
