"""`xtts-extend report`: a run as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values

HELP = "draw a run as one HTML page: curves, what is kept, speech, starts and stops"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder; it may still be training")
    parser.add_argument("--output", type=Path, help="the page [RUN/report.html]")


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    from xtts_extend.run.report import write_report

    print_values(write_report(args.run_folder, args.output), args.json)
    return 0
