"""The recipes: scripts beside the package in a checkout, among the shared data in an installation."""

from __future__ import annotations

import ast
import contextlib
import os
from importlib import metadata
from pathlib import Path

import xtts_extend
from xtts_extend.errors import ConfigError

#: Name → script, in a folder of that name.
RECIPES = {"new_language": "train_gpt_xtts.py"}
#: The recipe's path in a checkout, and in an installation below `share/xtts_extend`.
RECIPE = "recipes/new_language/train_gpt_xtts.py"


def find_recipe(name: str = "new_language") -> Path:
    """The recipe of this checkout, or the one that the installation brought along.

    Raises:
        ConfigError: there is none of that name, or the installation has lost it.
    """
    if name not in RECIPES:
        raise ConfigError(f"There is no recipe {name!r}. The recipes are: {', '.join(RECIPES)}.")
    script = f"recipes/{name}/{RECIPES[name]}"
    package = Path(__file__).resolve().parents[1]
    # the second one after `pip install --target`, where the record below is wrong
    places = [package / script, package / "share" / "xtts_extend" / script]
    with contextlib.suppress(metadata.PackageNotFoundError):
        recorded = metadata.files("xtts_extend") or ()
        places += [Path(file.locate()).resolve() for file in recorded if file.match(f"share/xtts_extend/{script}")]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"The recipe is not at {' nor at '.join(map(str, places))}. Install xtts_extend again.")


def summarize_recipe(name: str) -> str:
    """What a recipe does: the first line of its docstring."""
    return (ast.get_docstring(ast.parse(find_recipe(name).read_text(encoding="utf-8"))) or "").partition("\n")[0]


def copy_recipe(name: str, path: Path | None = None) -> Path:
    """Write a copy to read and to change. It says which release it belongs to, and warns where another is installed.

    Args:
        name: of the recipe.
        path: a file if it ends in `.py`, else a folder, which is made if need be; None is the working directory.

    Returns:
        The file.

    Raises:
        ConfigError: the file exists already, or there is no such recipe.
        MachineError: the folder cannot be written to.
    """
    # not at the top: only this needs what it imports
    from xtts_extend.files import atomic_write

    recipe = find_recipe(name)
    target = path or Path()
    if target.suffix.lower() != ".py" or target.is_dir():
        target = target / recipe.name
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists already and is not overwritten. Give another PATH.")
    release = xtts_extend.__version__
    text = recipe.read_text(encoding="utf-8").replace(
        "require_environment()", f'require_environment(written_for="{release}")'
    )
    header = (
        f"# The recipe {name} of xtts_extend {release}, copied to be changed. It says so where another release is\n"
        f"# installed; `xtts-extend recipe copy {name} PATH` writes that of the installed one.\n"
    )
    with atomic_write(target) as file:
        file.write(f"{header}{text}".encode())
    return target
