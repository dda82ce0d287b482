"""`xtts-extend recipe`: list, copy and run the training scripts without a checkout."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from xtts_extend.commands.common import add_debug, add_json, print_values
from xtts_extend.errors import report_errors

HELP = "List, copy or run the recipes, which are the training scripts."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each action to the command's parser. Each of them sets `action`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    text = "List the recipes, with a summary and the path of each one."
    subparser = actions.add_parser("list", help=text, description=text, allow_abbrev=False)
    subparser.set_defaults(action=_list, needs_coqui=False)
    add_debug(subparser)
    add_json(subparser)

    text = "Write a copy of a recipe for you to edit."
    subparser = actions.add_parser("copy", help=text, description=text, allow_abbrev=False)
    subparser.set_defaults(action=_copy, needs_coqui=False)
    add_debug(subparser)
    subparser.add_argument("name", metavar="NAME", help="Name of the recipe, for example new_language.")
    subparser.add_argument(
        "path",
        type=Path,
        nargs="?",
        metavar="PATH",
        help="A new file that ends in .py, or a folder, which is created if needed. [the script's name, in the working "
        "directory]",
    )

    subparser = actions.add_parser(
        "run",
        help="Run a recipe unchanged.",
        description="Run a recipe unchanged, as if you had run its script directly. To use several processes, copy the "
        "recipe with `recipe copy` and run the copy with torchrun.",
        usage="%(prog)s [-h] NAME [the recipe's flags …]",
        allow_abbrev=False,
    )
    # The script itself checks the environment.
    subparser.set_defaults(action=_run, needs_coqui=False, is_script=True)
    subparser.add_argument("name", metavar="NAME", help="Name of the recipe, for example new_language.")
    subparser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="…", help="The recipe's flags; `NAME --help` lists them."
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return the action's exit code."""
    code: int = args.action(args)
    return code


def _list(args: argparse.Namespace) -> int:
    from xtts_extend.recipes import RECIPES, find_recipe, summarize_recipe

    recipes = [{"name": name, "summary": summarize_recipe(name), "path": str(find_recipe(name))} for name in RECIPES]
    if args.json:
        print_values({"recipes": recipes}, True)
    else:
        for recipe in recipes:
            print(recipe["name"], recipe["summary"], recipe["path"], sep="  ")
    return 0


def _copy(args: argparse.Namespace) -> int:
    from xtts_extend.recipes import copy_recipe

    print(copy_recipe(args.name, args.path))
    return 0


def _run(args: argparse.Namespace) -> int:
    """Run the script in this process as Python would, with its own signal handling, errors and exit code."""
    from xtts_extend.recipes import find_recipe

    with report_errors(debug=args.debug):
        script = find_recipe(args.name)
    sys.argv = [str(script), *args.arguments]
    runpy.run_path(str(script), run_name="__main__")
    return 0
