"""`xtts-extend check-vocab`: check that one vocabulary extends another."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_columns, add_json, columns_of, print_values

HELP = "Check that an extended vocabulary tokenizes text in the old languages exactly as before."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument("--base-vocab", type=Path, required=True, help="The base's vocab.json.")
    parser.add_argument("--vocab", type=Path, required=True, help="The extended vocab.json.")
    parser.add_argument(
        "--text", type=Path, nargs="+", action="extend", required=True, help="UTF-8 text files or manifests."
    )
    add_columns(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; return 1 if an old id or the tokens of an old line have changed."""
    from xtts_extend.text.extend import check_vocabulary

    check = check_vocabulary(args.base_vocab, args.vocab, args.text, columns_of(args))
    print_values(check.to_dict(), args.json)
    return 0 if check.ok else 1
