"""`xtts-extend export`: a run as a model folder with a language pack, as a pack alone, or as one set of weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values

HELP = "turn a run into a model folder with a language pack"
#: Flags of earlier releases, and what is given now.
_GONE = {
    "--keep-adapter": "Omit it: export now writes a language pack by default",
    "--adapter-rank": "Give --rank N, which keeps N directions of each matrix's change in the pack",
}


class _RemovedFlag(argparse.Action):
    """A flag that was removed: an error that says what takes its place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} was removed. {_GONE[str(option_string)]}; --merged writes one set of weights.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a training checkpoint or a run folder")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="a new folder, for the base's files and the pack; or a new file NAME.safetensors, for the pack alone",
    )
    parser.add_argument("--base-dir", type=Path, help="the base's folder, where it has moved")
    parser.add_argument(
        "--merged",
        action="store_true",
        help="write one set of weights for all languages, for tools that never call enable(); the old languages change",
    )
    parser.add_argument(
        "--rank", type=int, metavar="N", help="keep the N largest directions of each matrix's change [the whole change]"
    )
    parser.add_argument(
        "--dtype", default="float32", help="of the pack's tensors: float32, bfloat16, float16 [float32: exact]"
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="of the recordings, written into the pack")
    parser.add_argument("--keep-adapter", action=_RemovedFlag, nargs=0, help=argparse.SUPPRESS)
    parser.add_argument("--adapter-rank", action=_RemovedFlag, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Returns 0; a frozen row that is not the base's raises."""
    from xtts_extend.speech.export import export

    done = export(
        args.checkpoint,
        args.output,
        args.base_dir,
        merged=args.merged,
        rank=args.rank,
        dtype=args.dtype,
        licence=args.licence,
    )
    print_values(done, args.json)
    return 0
