"""`xtts-extend export`: a run as a folder that stock coqui-tts loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values
from xtts_extend.errors import ConfigError

HELP = "turn a run into a folder that stock coqui-tts loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a training checkpoint or a run folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base-dir", type=Path, help="the base's folder, where it has moved")
    parser.add_argument(
        "--keep-adapter",
        action="store_true",
        help="leave the base as it is, and keep what was learned in a file that speak applies for its language alone",
    )
    parser.add_argument(
        "--adapter-rank", type=int, metavar="N", help="of each matrix's change, keep the N largest directions [all]"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0; a frozen row that is not the base's raises."""
    from xtts_extend.speech.export import export

    if args.adapter_rank is not None and args.adapter_rank < 1:
        raise ConfigError(f"--adapter-rank {args.adapter_rank}: 1 or more was expected.")
    done = export(
        args.checkpoint, args.output, args.base_dir, keep_adapter=args.keep_adapter, adapter_rank=args.adapter_rank
    )
    print_values(done, args.json)
    return 0
