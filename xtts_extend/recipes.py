"""Where the recipe is: a script beside the package in a checkout, among the shared data in an installation."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from xtts_extend.errors import ConfigError

#: The recipe's path in a checkout, and in an installation below `share/xtts_extend`.
RECIPE = "recipes/new_language/train_gpt_xtts.py"


def find_recipe() -> Path:
    """The recipe of this checkout, or the one that the installation brought along.

    Raises:
        ConfigError: it is at neither place.
    """
    places = [Path(__file__).parents[1] / RECIPE, Path(sysconfig.get_path("data")) / "share" / "xtts_extend" / RECIPE]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"The recipe is neither at {places[0]} nor at {places[1]}. Install xtts_extend again.")
