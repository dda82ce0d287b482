"""`xtts-extend compare`: speak the same text in the same voice with several models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtts_extend.commands.common import add_json, print_values

HELP = "Speak the same text with several models, in the same voice, and compare the results with the base's."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument("--base-dir", type=Path, required=True, metavar="XTTS", help="Base model to compare with.")
    parser.add_argument(
        "--source",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="A base directory, model folder, run folder, training checkpoint or language pack; can be repeated.",
    )
    parser.add_argument(
        "--language", action="append", required=True, metavar="LANG", help="Language code; can be repeated."
    )
    parser.add_argument(
        "--reference", type=Path, nargs="+", action="extend", required=True, help="Recordings of the voice to use."
    )
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", help="Text to speak. The same text is used for every language.")
    text.add_argument("--text-file", type=Path, metavar="FILE", help="UTF-8 file with the text to speak.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed for sampling. [0]")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="New folder for the WAV files.")


def run(args: argparse.Namespace) -> int:
    """Run the command; return 1 if a source could not speak a language."""
    from xtts_extend.data.tables import read_text
    from xtts_extend.errors import DataError
    from xtts_extend.speech.compare import compare

    def show(number: int, language: str, result: Mapping[str, Any]) -> None:
        print(f"{number}  {language}  {_describe(result)}", file=sys.stderr, flush=True)

    text = args.text
    if args.text_file:
        try:
            text = read_text(args.text_file, args.text_file.read_bytes())
        except OSError as error:
            raise DataError(f"{args.text_file} cannot be read: {error.strerror}.") from error
    done = compare(
        args.base_dir, args.source, args.language, args.reference, text, args.output, seed=args.seed, show=show
    )
    if args.json:
        print_values(done, True)
    else:
        for source in done["sources"]:
            print(f"{source['number']}  {source['kind']}  {source['path']}")
            if source["reason"]:
                print(f"   Spoken with merged weights: {source['reason']}")
            for language, result in source["languages"].items():
                print(f"   {language}  {_describe(result)}")
    return int(any("error" in result for source in done["sources"] for result in source["languages"].values()))


def _describe(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return result["error"]
    same = {
        None: "the base does not speak this language",
        True: "identical to the base",
        False: "differs from the base",
    }
    return f"{result['file']}, {result['seconds']:.1f} s, {same[result['equals_base']]}"
