"""`xtts-extend check-base`: check that a base directory satisfies every assumption that training makes."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, show_findings

HELP = "Check that a base directory satisfies every assumption that training makes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument("--base-dir", type=Path, required=True, help="The base directory.")


def run(args: argparse.Namespace) -> int:
    """Run the command; return 1 if an assumption does not hold."""
    from xtts_extend.setup.base import check_base

    return show_findings(check_base(args.base_dir), args.json)
