"""What several commands have: arguments of manifests, and how values and findings are printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any

from xtts_extend.findings import Finding, all_hold, summary, to_dict


def add_debug(parser: argparse.ArgumentParser) -> None:
    """`--debug` behind a command's name, as before it."""
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show a traceback on errors")


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, for a command that prints values."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_manifests(parser: argparse.ArgumentParser) -> None:
    """`--manifest`, `--manifest-format` and `--columns`."""
    parser.add_argument("--manifest", action="append", required=True, metavar="PATH[:LANG]")
    parser.add_argument("--manifest-format", default="auto", help="auto, or a formatter registered with coqui")
    add_columns(parser)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """`--columns`, which `columns_of` reads."""
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,…",
        help="which column is audio, text, speaker, language, by name, or by number where there is no header",
    )


def columns_of(args: argparse.Namespace) -> dict[str, str]:
    """Role → column, as `--columns` has them."""
    from xtts_extend.data.columns import parse_columns

    return parse_columns(args.columns) if args.columns else {}


def print_values(values: Mapping[str, Any], as_json: bool) -> None:
    """One JSON object, or a line per value."""
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
    """One JSON object, or a line as soon as something was found; returns the exit code."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            print(finding.describe(), flush=True)
    if as_json:
        print_values(to_dict(found), True)
    else:
        print(summary(found))
    return 0 if all_hold(found) else 1
