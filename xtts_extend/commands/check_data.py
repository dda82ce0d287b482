"""`xtts-extend check-data`: find unusable samples in manifests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xtts_extend.commands.common import add_json, add_manifests, columns_of, print_values

HELP = "Read every recording in a manifest and list unusable samples, with the reasons."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)
    add_manifests(parser)
    parser.add_argument("--language", help="Language of any manifest that does not specify one.")
    parser.add_argument("--vocab", type=Path, required=True, help="The run's vocab.json.")
    parser.add_argument("--write-clean", type=Path, metavar="PATH", help="Write a manifest of the usable samples.")
    parser.add_argument(
        "--cache", type=Path, help="File in which measurements are cached, keyed by file size and modification time."
    )


def run(args: argparse.Namespace) -> int:
    """Run the command, in one process or several; return 1 if a sample is unusable."""
    import xtts_extend
    from xtts_extend.data.check import check_samples
    from xtts_extend.data.manifest import read_manifests, write_manifest
    from xtts_extend.run.config import NewLanguageConfig
    from xtts_extend.run.ranks import Ranks
    from xtts_extend.setup.samples import limits_of
    from xtts_extend.text.tokenizer import load_tokenizer, require_tag

    xtts_extend.enable()
    tokenizer = load_tokenizer(args.vocab)
    samples = read_manifests(args.manifest, args.language, args.manifest_format, columns_of(args))
    for language in sorted({sample.language for sample in samples}):
        require_tag(tokenizer, language)
    with Ranks.join() as ranks:
        report = check_samples(samples, tokenizer, limits_of(NewLanguageConfig()), cache=args.cache, processes=ranks)
    if not ranks.is_main:
        return 0
    if args.json:
        print_values(report.to_dict(), True)
    else:
        print(report.summary(names=None))
    if args.write_clean and not report.usable:
        print(f"No sample is usable, so {args.write_clean} was not written.", file=sys.stderr)
    elif args.write_clean:
        write_manifest(report.usable, args.write_clean)
        print(f"Wrote {args.write_clean}. Number of usable samples: {len(report.usable):,}.", file=sys.stderr)
    return 0 if not report.unusable_share else 1
