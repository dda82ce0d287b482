"""Where the recipe is found."""

import pytest
from test_dependencies import ROOT

from xtts_extend import recipes
from xtts_extend.errors import ConfigError


def test_recipe_of_a_checkout():
    assert recipes.find_recipe() == ROOT / recipes.RECIPE


def test_recipe_of_an_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "site-packages" / "xtts_extend" / "recipes.py"))
    monkeypatch.setattr(recipes.sysconfig, "get_path", {"data": str(tmp_path)}.get)
    with pytest.raises(ConfigError, match="Install xtts_extend again"):
        recipes.find_recipe()

    installed = tmp_path / "share" / "xtts_extend" / recipes.RECIPE
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert recipes.find_recipe() == installed
