"""`xtts-extend check-base`: a line for each assumption about a base directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, show_findings

HELP = "try on a base directory everything that is assumed of it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("--base-dir", type=Path, required=True)


def run(args: argparse.Namespace) -> int:
    """Returns 1 when an assumption does not hold."""
    from xtts_extend.setup.base import check_base

    return show_findings(check_base(args.base_dir), args.json)
