"""`xtts-extend make-replay`: speech of a base model, to replay while it learns."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtts_extend.commands.common import add_json, print_values
from xtts_extend.errors import ConfigError

HELP = "let a base model speak texts, so that training does not forget them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command's parser."""
    add_json(parser)
    parser.add_argument("--base-dir", type=Path, required=True)
    parser.add_argument(
        "--text", action="append", required=True, metavar="LANG=FILE", help="UTF-8, in a language of the base; repeat"
    )
    parser.add_argument(
        "--reference", type=Path, nargs="+", action="extend", required=True, help="recordings of voices, some 10 s each"
    )
    parser.add_argument("--hours", type=float, required=True, help="of speech, of all languages together")
    parser.add_argument("--output", type=Path, required=True, help="a new folder, or one to go on with")
    parser.add_argument(
        "--conditioning-s",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="seconds of a voice that an utterance is conditioned by; as in training [3 6]",
    )
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Returns 0; what cannot be spoken raises."""
    from xtts_extend.speech.replay import make_replay

    texts: dict[str, list[Path]] = {}
    for given in args.text:
        language, separator, file = given.partition("=")
        if not (language and separator and file):
            raise ConfigError(f"--text {given}: LANG=FILE was expected, for example --text en=english.txt.")
        texts.setdefault(language, []).append(Path(file))
    made = make_replay(
        args.base_dir,
        texts,
        args.reference,
        args.hours,
        args.output,
        conditioning_s=args.conditioning_s,
        seed=args.seed,
    )
    print_values(made, args.json)
    return 0
