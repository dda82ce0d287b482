"""`xtts-extend publish`: publish a language pack or an exported model folder on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values

HELP = "Publish a language pack or an exported model folder on the Hugging Face Hub."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument(
        "path",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="A language pack, NAME.safetensors, or a folder written by export.",
    )
    parser.add_argument(
        "--repo", required=True, metavar="USER/NAME", help="Repository to publish to, which is created if needed."
    )
    parser.add_argument("--private", action="store_true", help="Create the repository as private.")
    parser.add_argument(
        "--base-repo",
        default="coqui/XTTS-v2",
        metavar="USER/NAME",
        help="Repository of the base model that the pack was made for, for the model card. [coqui/XTTS-v2]",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0. The access token is read from HF_TOKEN or from `hf auth login`."""
    from xtts_extend.hub.publishing import licence_notice, prepare, publish

    upload = prepare(args.path, args.repo, args.base_repo, private=args.private)
    print(licence_notice(upload.published), file=sys.stderr)
    print(f"Uploading {upload.size_bytes / 1e6:,.1f} MB to {args.repo}.", file=sys.stderr, flush=True)
    print_values(publish(upload), args.json)
    return 0
