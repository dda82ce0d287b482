"""Files, headings, commands and flags that the documentation mentions exist."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from xtts_extend.cli import make_parser
from xtts_extend.setup.flags import make_parser as make_recipe_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s#:]*)(?:#([^)\s]+))?\)")
_FLAG = re.compile(r"(?<!\S)--[a-z][a-z0-9-]*(?![a-z0-9.-])")


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as common Markdown renderers generate them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return all option strings of a parser and of its subcommands."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    nested = [subparser for group in groups for subparser in group.choices.values()]
    options = {option for action in parser._actions for option in action.option_strings}
    return options.union(*map(flags_of, nested))


def commands() -> dict[str, set[str]]:
    """Return the flags of each command and of the recipe, by name."""
    (choices,) = (a.choices for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {name: flags_of(parser) for name, parser in choices.items()} | {"recipe": flags_of(make_recipe_parser())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_existing_files_and_headings(page: Path) -> None:
    broken = []
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in slugs(file)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def unknown_in(text: str) -> list[str]:
    """Return the commands in a page's examples that do not exist, and the flags that their command does not have."""
    known, unknown = commands(), []
    for line in text.replace("\\\n", " ").splitlines():
        typed = re.match(r"\s*(?:.*/)?xtts-extend ([a-z-]+)|.*(train_gpt_xtts\.py|RECIPE) ", line)
        if not line.startswith(("    ", "xtts-extend ", "python ")) or typed is None:
            continue
        name = typed[1] or "recipe"
        given = _FLAG.findall(line.split("train_gpt_xtts.py")[-1].split("RECIPE")[-1].partition("#")[0])
        unknown += [f"{name} {flag}" for flag in given if flag not in known.get(name, set())]
        unknown += [] if name in known else [name]
    return unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_have_valid_flags(page: Path) -> None:
    assert unknown_in(page.read_text(encoding="utf-8")) == []
