"""`xtts-extend speak`: text into a wav file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values
from xtts_extend.errors import DataError

HELP = "speak text with a model folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("--model", type=Path, required=True, help="a folder that export wrote")
    parser.add_argument("--language", required=True)
    parser.add_argument(
        "--reference", type=Path, nargs="+", action="extend", required=True, help="recordings of the voice"
    )
    parser.add_argument("--text", required=True, help="what to say; - reads standard input")
    parser.add_argument("--output", type=Path, required=True, help="the wav file")
    parser.add_argument("--seed", type=int, help="make the sampling repeatable")


def run(args: argparse.Namespace) -> int:
    """Returns 0; each sentence is shown on standard error when it is spoken."""
    from xtts_extend.speech.speaking import speak_to_file

    def show(sentence: str, seconds: float) -> None:
        print(f"{seconds:5.1f} s  {sentence}", file=sys.stderr)

    text = _read_input() if args.text == "-" else args.text
    result = speak_to_file(
        args.model, args.language, args.reference, text, args.output, seed=args.seed, on_sentence=show
    )
    print_values(result, args.json)
    return 0


def _read_input() -> str:
    """Standard input as UTF-8, whatever the terminal's encoding is."""
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Standard input is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}. Convert it, for "
            "example: iconv -f WINDOWS-1252 -t UTF-8."
        ) from error
