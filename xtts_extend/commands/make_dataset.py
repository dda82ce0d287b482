"""`xtts-extend make-dataset`: make a data set from long recordings."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from xtts_extend.commands.common import SOURCE_HELP, add_json, print_values
from xtts_extend.errors import ConfigError

HELP = "Make a data set of short clips from long recordings and their subtitles or texts."
# The default model of --aligner is not imported here, because parsing must stay quick; a test compares both.
_DEFAULT_ALIGNER = "MahmoudAshraf/mms-300m-1130-forced-aligner"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    parser.add_argument(
        "recordings",
        nargs="+",
        metavar="RECORDINGS",
        help="Recordings, or folders with recordings; a text or subtitles of the same name beside one are its text. Or "
        f"data sets with transcripts: {SOURCE_HELP}",
    )
    parser.add_argument("--language", required=True, help="Code of the language that is spoken.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the data set, new or unfinished.")
    parser.add_argument("--text", type=Path, help="Text of all recordings: plain text, or subtitles of the only one.")
    parser.add_argument("--speaker", help="Name of the speaker. [the name of the folder of each recording]")
    parser.add_argument(
        "--aligner",
        default=_DEFAULT_ALIGNER,
        help="What finds the words in the audio: a CTC model for transformers (a name or a folder), or a function "
        "(module:function). The default is licensed under CC-BY-NC 4.0 (not for commercial use). "
        f"[{_DEFAULT_ALIGNER}]",
    )
    parser.add_argument(
        "--asr",
        help="A speech recognizer that checks the clips, and writes the text if there is none: a model for "
        "transformers (a name or a folder), or a function (module:function). [none]",
    )
    parser.add_argument(
        "--asr-language", help="Language code for --asr and --aligner, if they use a different one. [--language]"
    )
    parser.add_argument(
        "--min-score", type=float, default=0.02, help="Lowest score, from 0 to 1, of the clips to accept. [0.02]"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0. Recordings that cannot be used are listed; if none can, an error is raised."""
    if not 0 <= args.min_score <= 1:
        raise ConfigError(f"--min-score is {args.min_score:g}; expected a number from 0 to 1.")
    from xtts_extend.corpus.pipeline import make_dataset
    from xtts_extend.corpus.recording_clips import load_settings
    from xtts_extend.corpus.sources import find_sources
    from xtts_extend.corpus.transcribed import locate_recordings
    from xtts_extend.data.processes import main_first
    from xtts_extend.run.ranks import Ranks

    with Ranks.join() as ranks:
        # Rank 0 prepares the data sets, and the others find them.
        with main_first(ranks):
            paths, transcribed = locate_recordings(args.recordings, args.language, args.output, args.speaker)
        if args.text is not None and transcribed:
            raise ConfigError("--text is for recordings, but a data set has its own transcripts. Omit --text.")
        sources = find_sources(paths, args.language, args.text, args.speaker, transcribed)
        settings = load_settings(args.language, args.aligner, args.asr, args.asr_language, args.min_score)
        summary = make_dataset(sources, args.output, settings, ranks)
        if ranks.is_main:
            print_values(asdict(summary), args.json)
    return 0
