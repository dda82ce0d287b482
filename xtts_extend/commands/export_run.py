"""`xtts-extend export`: export a run as a model folder with a language pack, a pack alone, or merged weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values

HELP = "Export a run as a model folder with a language pack."
#: Removed flag → what to do instead.
_REMOVED = {
    "--keep-adapter": "Omit it, because export now writes a language pack by default",
    "--adapter-rank": "Use --rank N, which stores a rank-N approximation of each matrix's change in the pack",
}


class _RemovedFlag(argparse.Action):
    """An action that reports a removed flag and its replacement."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        parser.error(
            f"{option_string} was removed. {_REMOVED[str(option_string)]}. To export one set of weights instead, pass "
            "--merged."
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument("--checkpoint", type=Path, required=True, help="A training checkpoint or a run folder.")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="A new folder for the base's files and the pack, or a new file NAME.safetensors for the pack alone.",
    )
    parser.add_argument("--base-dir", type=Path, help="The base's folder, if it has moved since the run.")
    parser.add_argument(
        "--merged",
        action="store_true",
        help="Write one set of weights for all languages, for tools that never call enable(). The old languages "
        "will sound different.",
    )
    parser.add_argument(
        "--rank", type=int, metavar="N", help="Store a rank-N approximation of each matrix's change. [the full change]"
    )
    parser.add_argument(
        "--dtype", default="float32", help="Type of the pack's tensors: float32 (exact), bfloat16 or float16. [float32]"
    )
    parser.add_argument(
        "--licence", default="", metavar="TEXT", help="License of the recordings, which is stored in the pack."
    )
    parser.add_argument("--keep-adapter", action=_RemovedFlag, nargs=0, help=argparse.SUPPRESS)
    parser.add_argument("--adapter-rank", action=_RemovedFlag, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0. A run that cannot be exported raises an error."""
    from xtts_extend.speech.export import export

    result = export(
        args.checkpoint,
        args.output,
        args.base_dir,
        merged=args.merged,
        rank=args.rank,
        dtype=args.dtype,
        licence=args.licence,
    )
    print_values(result, args.json)
    return 0
