"""`xtts-extend speak`: synthesize speech from text and write it to a WAV file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values
from xtts_extend.errors import DataError

HELP = "Synthesize speech from text with the model in a folder."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument("--model", type=Path, required=True, help="A folder written by export, or a base directory.")
    parser.add_argument("--language", required=True, help="Code of the text's language.")
    parser.add_argument(
        "--reference", type=Path, nargs="+", action="extend", required=True, help="Recordings of the voice to use."
    )
    parser.add_argument("--text", required=True, help="Text to speak, or - to read it from standard input.")
    parser.add_argument("--output", type=Path, required=True, help="The WAV file to write.")
    parser.add_argument("--seed", type=int, help="Random seed for reproducible sampling.")


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0. Each sentence is printed to standard error once it has been synthesized."""
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
    """Return standard input decoded as UTF-8, regardless of the terminal's encoding."""
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Standard input is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}. Convert it, for "
            "example with iconv -f WINDOWS-1252 -t UTF-8."
        ) from error
