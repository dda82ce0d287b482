"""`xtts-extend recipe`: the scripts that train, for those who have no checkout."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from xtts_extend.commands.common import add_debug, add_json, print_values
from xtts_extend.errors import report_errors

HELP = "list the recipes, copy one to change it, or run it: the scripts that train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser: one of its own for each action, which sets `action`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    text = "say which recipes there are, what they do, and where they lie"
    added = actions.add_parser("list", help=text, description=text, allow_abbrev=False)
    added.set_defaults(action=_list, needs_coqui=False)
    add_debug(added)
    add_json(added)

    text = "write a copy to read and to change"
    added = actions.add_parser("copy", help=text, description=text, allow_abbrev=False)
    added.set_defaults(action=_copy, needs_coqui=False)
    add_debug(added)
    added.add_argument("name", metavar="NAME", help="of the recipe, for example new_language")
    added.add_argument(
        "path",
        type=Path,
        nargs="?",
        metavar="PATH",
        help="a file that ends in .py, or a folder, which is made if need be; never an existing file [the "
        "script's own name, in the working directory]",
    )

    added = actions.add_parser(
        "run",
        help="run a recipe as it is",
        description="Run a recipe as it is: the same as running its script. For several processes give torchrun a "
        "script: recipe copy writes one.",
        usage="%(prog)s [-h] NAME [the recipe's flags …]",
        allow_abbrev=False,
    )
    # the script asks itself whether the environment is sound
    added.set_defaults(action=_run, needs_coqui=False, is_script=True)
    added.add_argument("name", metavar="NAME", help="of the recipe, for example new_language")
    added.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="…", help="go to the recipe as they are; --help lists them"
    )


def run(args: argparse.Namespace) -> int:
    """Returns what the action returns."""
    code: int = args.action(args)
    return code


def _list(args: argparse.Namespace) -> int:
    from xtts_extend.recipes import RECIPES, find_recipe, summarize_recipe

    found = [{"name": name, "summary": summarize_recipe(name), "path": str(find_recipe(name))} for name in RECIPES]
    if args.json:
        print_values({"recipes": found}, True)
    else:
        for recipe in found:
            print(recipe["name"], recipe["summary"], recipe["path"], sep="  ")
    return 0


def _copy(args: argparse.Namespace) -> int:
    from xtts_extend.recipes import copy_recipe

    print(copy_recipe(args.name, args.path))
    return 0


def _run(args: argparse.Namespace) -> int:
    """In this process, as Python runs a script: its signals, its errors and its exit code are its own."""
    from xtts_extend.recipes import find_recipe

    with report_errors(debug=args.debug):
        script = find_recipe(args.name)
    sys.argv = [str(script), *args.arguments]
    runpy.run_path(str(script), run_name="__main__")
    return 0
