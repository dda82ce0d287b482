"""`xtts-extend demo`: the whole job on the embedded default."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the whole job on a mini base model and espeak-ng speech"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    parser.add_argument("--output", type=Path, default=Path("demo"))


def run(args: argparse.Namespace) -> int:
    """Returns 0; a step that fails raises."""
    from xtts_extend.demo.run import run_demo

    run_demo(args.output)
    return 0
