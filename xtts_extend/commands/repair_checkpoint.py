"""`xtts-extend repair`: a copy of a checkpoint with the base's rows for old tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values

HELP = "write a copy of a checkpoint with the base's rows for old tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("path", type=Path, metavar="CHECKPOINT", help="a checkpoint or a run folder; it is only read")
    parser.add_argument("--base", type=Path, required=True, help="a base directory or its model.pth")
    parser.add_argument("--output", type=Path, required=True, help="a new folder, or a new file that ends in .pth")
    parser.add_argument(
        "--blend", type=float, default=0.0, metavar="A", help="move the transformer towards the base; 0.3: 30 %% base"
    )
    parser.add_argument(
        "--reinit-untrained", action="store_true", help="start new rows again that are noise or never moved"
    )
    parser.add_argument(
        "--plan", action="store_true", help="say what would be done and whether it helps; write nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 1 when a repair would not help."""
    from xtts_extend.rescue.repair import repair

    done = repair(
        args.path,
        args.base,
        args.output,
        blend=args.blend,
        reinit_untrained=args.reinit_untrained,
        plan=args.plan,
    )
    print_values(done, args.json)
    return 1 if done.get("pointless") else 0
