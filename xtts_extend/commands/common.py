"""Arguments and output that several commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any

from xtts_extend.findings import Finding, all_hold, summary, to_dict

#: How data sets are named that are downloaded, unpacked or converted first.
SOURCE_HELP = (
    "hf:USER/NAME[/CONFIG][@SPLIT] for Parquet on the Hugging Face hub, a folder of Parquet files, or an archive "
    "(.tar.gz, .tar or .zip) as a path or a URL."
)


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add `--debug`, so that it can be passed after a command's name as well as before it."""
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="Show the traceback when an error occurs."
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json` for a command that prints values."""
    parser.add_argument("--json", action="store_true", help="Print the result as a single JSON object.")


def add_manifests(parser: argparse.ArgumentParser) -> None:
    """Add `--manifest`, `--manifest-format` and `--columns`."""
    parser.add_argument(
        "--manifest",
        action="append",
        required=True,
        metavar="PATH[:LANG]",
        help="A manifest, optionally with the language of its samples; can be repeated. Also data sets with "
        f"transcripts: {SOURCE_HELP}",
    )
    parser.add_argument(
        "--manifest-format",
        default="auto",
        help="auto, or the name of a formatter that is registered with coqui. [auto]",
    )
    add_columns(parser)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add `--columns`, which `columns_of` parses."""
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,…",
        help="The columns for audio, text, speaker and language, given by name, or by number if there is no header.",
    )


def columns_of(args: argparse.Namespace) -> dict[str, str]:
    """Return the column of each role in `--columns`, or an empty dict if the flag is omitted."""
    from xtts_extend.data.columns import parse_columns

    return parse_columns(args.columns) if args.columns else {}


def print_values(values: Mapping[str, Any], as_json: bool) -> None:
    """Print one JSON object, or one line per value."""
    if as_json:
        print(json.dumps(values, ensure_ascii=False, indent=2, default=str))
        return
    width = max(map(len, values))
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = [f"{name} {item}" for name, item in value.items()]
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value)) or "none"
        print(f"{key:<{width}}  {value}")


def show_findings(findings: Iterable[Finding], as_json: bool) -> int:
    """Print one JSON object, or each finding's line as soon as it is known, and return the exit code."""
    shown = []
    for finding in findings:
        shown.append(finding)
        if not as_json:
            print(finding.describe(), flush=True)
    if as_json:
        print_values(to_dict(shown), True)
    else:
        print(summary(shown))
    return 0 if all_hold(shown) else 1
