"""`xtts-extend extend-vocab`: append a language's tag, letters and merges to a vocabulary."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_columns, add_json, columns_of, print_values

HELP = "Add a language's tag, letters and merges to an XTTS vocabulary."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument(
        "--base-vocab",
        required=True,
        metavar="PATH|FOLDER:LANG",
        help="The base's vocab.json. To start from a pack's tokens instead, give the pack's model folder and language.",
    )
    parser.add_argument("--language", required=True, help="Code of the new language.")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        action="extend",
        help="UTF-8 text files in the language, or manifests, whose texts are used; can be repeated.",
    )
    add_columns(parser)
    parser.add_argument("--size", type=int, help="Number of new entries, including the tag, letters and merges.")
    parser.add_argument(
        "--drop-characters",
        default="",
        metavar="CHARACTERS",
        help="Characters that get no entry. A character can also be written as a code point, such as U+1F600.",
    )
    parser.add_argument(
        "--sentencepiece", type=Path, help="A trained sentencepiece BPE model to use instead of training one."
    )
    parser.add_argument("--output", type=Path, required=True, help="The new vocab.json.")


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0. A vocabulary that cannot be extended raises an error."""
    from xtts_extend.pack.model_folder import vocabulary_of
    from xtts_extend.text.extend import extend_vocabulary

    report = extend_vocabulary(
        vocabulary_of(args.base_vocab),
        args.language,
        args.output,
        texts=args.text or (),
        size=args.size,
        sentencepiece_model=args.sentencepiece,
        drop_characters=args.drop_characters,
        columns=columns_of(args),
    )
    print_values(report.to_dict(), args.json)
    return 0
