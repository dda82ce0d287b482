"""`xtts-extend extend-vocab`: a vocabulary with a language's tag, letters and merges at its end."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_columns, add_json, columns_of, print_values

HELP = "add a language's tag, letters and merges to an XTTS vocabulary"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument(
        "--base-vocab",
        required=True,
        metavar="PATH|FOLDER:LANG",
        help="vocab.json of the base; or a model folder and the language of one of its packs, to begin with its tokens",
    )
    parser.add_argument("--language", required=True, help="code of the new language")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        action="extend",
        help="text in the language, UTF-8, or manifests, of which the texts are taken; also repeated",
    )
    add_columns(parser)
    parser.add_argument("--size", type=int, help="number of new entries: tag, letters and merges together")
    parser.add_argument(
        "--drop-characters", default="", metavar="CHARACTERS", help="get no entry; one can be written as U+1F600"
    )
    parser.add_argument("--sentencepiece", type=Path, help="a trained sentencepiece BPE model instead of learning one")
    parser.add_argument("--output", type=Path, required=True, help="the new vocab.json")


def run(args: argparse.Namespace) -> int:
    """Returns 0; what cannot be extended raises."""
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
