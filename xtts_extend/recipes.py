"""Find and copy recipes, which are next to the package in a checkout, and in `share/xtts_extend` when installed."""

from __future__ import annotations

import ast
import contextlib
import os
from importlib import metadata
from pathlib import Path

import xtts_extend
from xtts_extend.errors import ConfigError

#: Name of each recipe → its script, which is in the folder of the same name.
RECIPES = {"new_language": "train_gpt_xtts.py"}
#: Path of the default recipe, relative to a checkout or to an installation's `share/xtts_extend`.
RECIPE = "recipes/new_language/train_gpt_xtts.py"


def find_recipe(name: str = "new_language") -> Path:
    """Return the path of a recipe in this checkout or installation.

    Raises:
        ConfigError: The recipe is unknown, or its file is missing from the installation.
    """
    if name not in RECIPES:
        raise ConfigError(f"There is no recipe named {name!r}. Choose one of: {', '.join(RECIPES)}.")
    script = f"recipes/{name}/{RECIPES[name]}"
    package = Path(__file__).resolve().parents[1]
    # The second path is for `pip install --target`, after which the metadata below is wrong.
    candidates = [package / script, package / "share" / "xtts_extend" / script]
    with contextlib.suppress(metadata.PackageNotFoundError):
        recorded = metadata.files("xtts_extend") or ()
        candidates += [Path(file.locate()).resolve() for file in recorded if file.match(f"share/xtts_extend/{script}")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigError(f"The recipe was not found at {' or '.join(map(str, candidates))}. Reinstall xtts_extend.")


def summarize_recipe(name: str) -> str:
    """Return the first line of a recipe's docstring, which says what the recipe does."""
    return (ast.get_docstring(ast.parse(find_recipe(name).read_text(encoding="utf-8"))) or "").partition("\n")[0]


def copy_recipe(name: str, path: Path | None = None) -> Path:
    """Copy a recipe for the user to edit. The copy records its release and warns if a different release is installed.

    Args:
        name: Name of the recipe.
        path: A file if it ends in `.py`, otherwise a folder, which is created if needed. None means the working
            directory.

    Returns:
        The path of the copy.

    Raises:
        ConfigError: The file already exists, or the recipe is unknown.
        MachineError: The folder is not writable.
    """
    # Imported here because only this function needs its dependencies.
    from xtts_extend.files import atomic_write

    recipe = find_recipe(name)
    target = path or Path()
    if target.suffix.lower() != ".py" or target.is_dir():
        target = target / recipe.name
    if os.path.lexists(target):
        raise ConfigError(f"{target} already exists and will not be overwritten. Choose a different PATH.")
    release = xtts_extend.__version__
    text = recipe.read_text(encoding="utf-8").replace(
        "require_environment()", f'require_environment(written_for="{release}")'
    )
    header = (
        f"# Editable copy of the recipe {name} from xtts_extend {release}. It warns if a different release is\n"
        f"# installed. `xtts-extend recipe copy {name} PATH` writes the installed release's recipe.\n"
    )
    with atomic_write(target) as file:
        file.write(f"{header}{text}".encode())
    return target
