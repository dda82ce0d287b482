"""`xtts-extend download`: download a base model from the Hugging Face Hub and check it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_extend.commands.common import add_json, show_findings
from xtts_extend.errors import ConfigError

if TYPE_CHECKING:
    from xtts_extend.hub.base_download import Licence

HELP = "Download a base model from the Hugging Face Hub and check it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument(
        "--repo", default="coqui/XTTS-v2", metavar="USER/NAME", help="Repository of the base model. [coqui/XTTS-v2]"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="Folder for the files. Complete files are kept."
    )
    parser.add_argument(
        "--accept-licence",
        action="store_true",
        help="Accept the license of the base model. Without this flag, the command shows it and asks.",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; return 1 if the downloaded files do not pass `check-base`."""
    from xtts_extend.hub.base_download import download_base, find_base, licence_of
    from xtts_extend.setup.base import check_base

    repository = find_base(args.repo)
    licence = licence_of(repository)
    _require_acceptance(args.repo, licence, args.accept_licence)
    download_base(repository, licence, args.output, _report)
    _report(f"Checking {args.output}.")
    return show_findings(check_base(args.output), args.json)


def _require_acceptance(repo: str, licence: Licence, is_accepted: bool) -> None:
    """Show the license, and ask for acceptance unless it was given on the command line.

    Raises:
        ConfigError: The license was not accepted.
    """
    name = f"The license of {repo} is the {licence.name}" if licence.name else f"{repo} states no license"
    _report(f"{name}. See {licence.link}.")
    if is_accepted:
        _report("You have accepted it with --accept-licence.")
        return
    if licence.content:
        _report(f"\n{licence.text}\n")
    if sys.stdin.isatty():
        print('Type "yes" to accept the license: ', end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() == "yes":
            return
    raise ConfigError(
        f"The license of {repo} was not accepted, so nothing was downloaded. Read it at {licence.link}. To accept it, "
        "run the command again with --accept-licence."
    )


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
