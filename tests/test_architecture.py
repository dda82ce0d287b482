"""Import rules: packages import only packages below them (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "xtts_extend"
#: Packages and top-level modules from top to bottom. Those on the same level do not import each other.
LEVELS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"page"},
    {"demo"},
    {"corpus", "hub"},
    {"rescue", "speech"},
    {"training"},
    {"setup"},
    {"run"},
    {"pack"},
    {"model"},
    {"data"},
    {"text", "checkpoint", "hub_client"},
    {"files", "progress", "notices", "findings", "recipes", "html_page"},
    {"environment"},
    {"errors"},
    {"__init__"},
)
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
#: These modules read the texts of manifests, which `data` parses.
EXCEPTIONS = {
    (module, name) for module in ("text/corpus.py", "text/verify.py") for name in ("data.rows", "data.unspoken")
}
MODULES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


def package_of(module: str) -> str:
    """Return the package of a module path, or the module's name if it is at the top level."""
    return module.split("/")[0].removesuffix(".py")


def imported(module: str) -> set[str]:
    """Return a module's imports from xtts_extend, as "package" or "package.module"; local imports count too."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "xtts_extend":
            inside = node.module.removeprefix("xtts_extend").lstrip(".")
            names |= {inside} if inside else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name[12:] for alias in node.names if alias.name.startswith("xtts_extend.")}
    return names


@pytest.mark.parametrize("module", [module for module in MODULES if "/" in module])
def test_modules_import_only_lower_packages(module):
    own = package_of(module)
    for name in imported(module):
        other = name.split(".")[0]
        if other in LEVEL and other != own and (module, name) not in EXCEPTIONS:
            assert LEVEL[other] > LEVEL[own], f"{module} imports {name}, which is not below it."


def test_every_module_is_in_the_architecture_page():
    assert {package_of(module) for module in MODULES} == LEVEL.keys()
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = [module for module in MODULES if not module.startswith("commands/") and "__init__" not in module]
    assert [module for module in listed if Path(module).name not in page] == []


def test_module_names_are_unique():
    names = Counter(Path(module).name for module in MODULES)
    names.pop("__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("torch.load(", {"checkpoint/inspect.py"}),
        ("(Trainer):", {"training/trainer.py"}),
        ("(GPTTrainer):", {"model/gpt_trainer.py"}),
    ],
)
def test_only_one_module_does_this(text, allowed):
    assert {module for module in MODULES if text in (PACKAGE / module).read_text(encoding="utf-8")} == allowed
