"""`xtts-extend repair`: write a copy of a checkpoint with the rows of old tokens restored from the base."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values

HELP = "Write a copy of a checkpoint with the rows of old tokens restored from the base."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument(
        "path", type=Path, metavar="CHECKPOINT", help="A checkpoint or a run folder. It is not modified."
    )
    parser.add_argument("--base", type=Path, required=True, help="A base directory or its model.pth.")
    parser.add_argument("--output", type=Path, required=True, help="A new folder, or a new file that ends in .pth.")
    parser.add_argument(
        "--blend",
        type=float,
        default=0.0,
        metavar="A",
        help="How far to move the transformer toward the base: 0.3 means 30%% base. [0]",
    )
    parser.add_argument(
        "--reinit-untrained", action="store_true", help="Reinitialize new rows that are noise or were never trained."
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="Show what would be done and whether it would help, without writing anything.",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; return 1 if a repair would not help."""
    from xtts_extend.rescue.repair import repair

    result = repair(
        args.path,
        args.base,
        args.output,
        blend=args.blend,
        reinit_untrained=args.reinit_untrained,
        plan=args.plan,
    )
    print_values(result, args.json)
    return 1 if result.get("pointless") else 0
