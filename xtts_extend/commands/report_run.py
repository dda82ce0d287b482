"""`xtts-extend report`: write a report on a run as a single HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values

HELP = "Write an HTML report on a run: its losses, retention, test sentences, starts and stops."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="A run folder. The run may still be in progress.")
    parser.add_argument("--output", type=Path, help="The HTML file. [RUN/report.html]")


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0."""
    from xtts_extend.run.report import write_report

    print_values(write_report(args.run_folder, args.output), args.json)
    return 0
