"""`xtts-extend check-vocab`: whether a vocabulary extends another one."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_columns, add_json, columns_of, print_values

HELP = "prove that an extended vocabulary cuts old text as before"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("--base-vocab", type=Path, required=True)
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument(
        "--text", type=Path, nargs="+", action="extend", required=True, help="any text, UTF-8, or manifests"
    )
    add_columns(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 1 when an old id or an old line has changed."""
    from xtts_extend.text.extend import check_vocabulary

    check = check_vocabulary(args.base_vocab, args.vocab, args.text, columns_of(args))
    print_values(check.to_dict(), args.json)
    return 0 if check.ok else 1
