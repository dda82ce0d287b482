"""The `xtts-extend` command: its parser, error handling and signal handling."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Protocol

from xtts_extend.commands import (
    check_base,
    check_data,
    check_env,
    check_vocab,
    compare_models,
    demo,
    download_base,
    encode_manifests,
    evaluate_model,
    export_run,
    extend_vocab,
    inspect_path,
    make_dataset,
    make_mini_base,
    make_replay,
    pack,
    publish_pack,
    recipe,
    repair_checkpoint,
    report_run,
    speak,
    ui,
)
from xtts_extend.commands.common import add_debug
from xtts_extend.environment import require_environment
from xtts_extend.errors import report_errors


class Command(Protocol):
    """Interface that the modules in `commands/` implement.

    Attributes:
        HELP: What the command does, in one line.
    """

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to its parser, which already has `--debug`."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command, print its result and return the exit code."""


#: The module of each command, in the order in which the help text lists the commands.
COMMANDS: dict[str, Command] = {
    "check-env": check_env,
    "inspect": inspect_path,
    "repair": repair_checkpoint,
    "download": download_base,
    "check-base": check_base,
    "extend-vocab": extend_vocab,
    "check-vocab": check_vocab,
    "make-dataset": make_dataset,
    "check-data": check_data,
    "encode": encode_manifests,
    "make-replay": make_replay,
    "recipe": recipe,
    "export": export_run,
    "pack": pack,
    "publish": publish_pack,
    "speak": speak,
    "ui": ui,
    "compare": compare_models,
    "report": report_run,
    "evaluate": evaluate_model,
    "demo": demo,
    "make-mini-base": make_mini_base,
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser for all commands. Parsing sets `run` to the chosen command's function.

    A command that works without coqui-tts sets `needs_coqui` to False. A command that runs a script with its own error
    and signal handling sets `is_script` to True.
    """
    parser = argparse.ArgumentParser(prog="xtts-extend", description="Teach XTTS a new language.", allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="Show the traceback when an error occurs.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.HELP, allow_abbrev=False)
        subparser.set_defaults(run=command.run, needs_coqui=True, is_script=False)
        add_debug(subparser)
        command.add_arguments(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 if the user can fix the error, 1 if a check or the machine failed."""
    args = make_parser().parse_args(argv)
    if args.is_script:
        return int(args.run(args))
    # Exit the way Ctrl-C does, so that half-written files are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with report_errors(debug=args.debug):
            if args.needs_coqui:
                require_environment()
            code = int(args.run(args))
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # The reader closed the pipe (`| head`). Without this, the interpreter prints another error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
