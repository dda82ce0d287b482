"""Contents of the wheel and the source distribution."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from runs import RECIPE
from test_dependencies import ROOT

import xtts_extend


def require_recipe(wheel, folder, option, site):
    """Install a wheel into a folder, and require that its command finds, copies and runs the recipe there."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", option, folder, wheel]
    subprocess.run(install, check=True)

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "xtts_extend", "recipe", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )

    (listed,) = json.loads(command("list", "--json").stdout)["recipes"]
    assert listed["path"] == str(folder / "share" / "xtts_extend" / "recipes" / "new_language" / RECIPE.name)
    assert command("copy", "new_language").stdout == f"{RECIPE.name}\n"
    assert (folder / RECIPE.name).is_file()
    ran = command("run", "new_language", "--no-such-flag")
    assert ran.returncode == 2
    assert f"{RECIPE.name}: error: unrecognized arguments: --no-such-flag" in ran.stderr


@pytest.mark.slow
def test_wheel_and_source_distribution(tmp_path):
    pytest.importorskip("build", reason="only with the extra 'build'")
    if not (ROOT / ".git").exists():
        pytest.skip("only in a git checkout, because it builds from tracked files")
    # Builds from a copy, because building leaves folders behind.
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        copy = tmp_path / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path / "source"]
    subprocess.run(command, check=True, capture_output=True)
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, (tmp_path / "dist").iterdir())],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout

    (wheel,) = (tmp_path / "dist").glob("*.whl")
    name = f"xtts_extend-{xtts_extend.__version__}"
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        recipe = f"{name}.data/data/share/xtts_extend/recipes/new_language/train_gpt_xtts.py"
        assert archive.read(recipe) == RECIPE.read_bytes()
        metadata = archive.read(f"{name}.dist-info/METADATA").decode()
    assert "Requires-Dist: transformers<5.24,>=4.57" in metadata
    assert "xtts_extend/py.typed" in inside
    assert not any(entry.startswith("tests/") for entry in inside)
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "xtts_extend").rglob("*.py")}
    assert modules <= inside
    target, prefix = tmp_path / "ኢላማ target", tmp_path / "prefix"
    require_recipe(wheel, target, "--target", target)
    # `--user` has the same layout.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)}))
    require_recipe(wheel, prefix, "--prefix", site)
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        contents = {entry.removeprefix(f"{name}/") for entry in archive.getnames()}
    assert {"constraints.txt", "Makefile", "docs/README.md", "docs/colab.ipynb", "tests/test_package.py"} <= contents
