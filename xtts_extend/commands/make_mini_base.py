"""`xtts-extend make-mini-base`: create a small base directory for tests."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Create a base directory with a model of any size."
_SIZES = {
    "layers": "Number of transformer layers.",
    "channels": "Number of transformer channels.",
    "heads": "Number of attention heads.",
    "steps": "Number of training steps. With 0, the base stays untrained, which takes only seconds.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--output", type=Path, required=True, help="The new base directory.")
    parser.add_argument("--vocab", type=Path, help="An XTTS vocab.json. By default, a small one is created.")
    for size, description in _SIZES.items():
        parser.add_argument(f"--{size}", type=int, help=description)
    parser.add_argument(
        "--quality",
        choices=("standard", "high"),
        default="standard",
        help="How well the codes of a trained base keep words. [standard]",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0."""
    from xtts_extend.demo.mini_base import Quality, make_mini_base

    sizes = {size: getattr(args, size) for size in _SIZES if getattr(args, size) is not None}
    print(make_mini_base(args.output, vocab=args.vocab, quality=Quality(args.quality), **sizes))
    return 0
