"""`xtts-extend demo`: run the whole workflow on a mini base model, with synthesized speech."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Run the whole workflow on a mini base model, with speech from espeak-ng."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--output", type=Path, default=Path("demo"), help="Folder for all results. [demo]")


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0. A step that fails raises an error."""
    from xtts_extend.demo.run import run_demo

    run_demo(args.output)
    return 0
