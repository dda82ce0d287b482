"""`xtts-extend encode`: encode manifests before training."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, add_manifests, columns_of, print_values

HELP = "Compute the audio codes and token ids of the samples in manifests before training."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    add_manifests(parser)
    parser.add_argument("--language", help="Language of any manifest that does not specify one.")
    parser.add_argument("--base-dir", type=Path, required=True, help="The base directory.")
    parser.add_argument(
        "--vocab", type=Path, help="Vocabulary for the run that will use the codes. [BASE_DIR/vocab.json]"
    )
    parser.add_argument("--output", type=Path, required=True, help="A new folder, or an unfinished one to resume.")


def run(args: argparse.Namespace) -> int:
    """Run the command, in one process or several, and return 0. Samples that cannot be encoded are listed."""
    from xtts_extend.run.ranks import Ranks
    from xtts_extend.setup.encode import encode

    with Ranks.join() as ranks:
        result = encode(
            args.manifest,
            args.base_dir,
            args.output,
            vocab=args.vocab,
            language=args.language,
            manifest_format=args.manifest_format,
            columns=columns_of(args),
            processes=ranks,
        )
        if ranks.is_main:
            print_values(result, args.json)
    return 0
