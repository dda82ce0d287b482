"""`xtts-extend encode`: the codes of manifests, beforehand."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, add_manifests, columns_of, print_values

HELP = "make codes and token ids of manifests, once and beforehand"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    add_manifests(parser)
    parser.add_argument("--language", help="language of manifests that do not say it")
    parser.add_argument("--base-dir", type=Path, required=True)
    parser.add_argument("--vocab", type=Path, help="of the run that will read it [BASE_DIR/vocab.json]")
    parser.add_argument("--output", type=Path, required=True, help="a new folder, or one to go on with")


def run(args: argparse.Namespace) -> int:
    """Returns 0; what cannot be encoded is named."""
    from xtts_extend.setup.encode import encode

    made = encode(
        args.manifest,
        args.base_dir,
        args.output,
        vocab=args.vocab,
        language=args.language,
        manifest_format=args.manifest_format,
        columns=columns_of(args),
    )
    print_values(made, args.json)
    return 0
