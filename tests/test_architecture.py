"""Who may import whom: rooms know only what lies below them (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "xtts_extend"
#: From the top to the bottom; rooms of one line do not know each other.
ROOMS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"demo"},
    {"rescue", "speech"},
    {"training"},
    {"setup"},
    {"run"},
    {"pack"},
    {"model"},
    {"data"},
    {"text", "checkpoint"},
    {"files", "progress", "notices", "findings", "recipes"},
    {"environment"},
    {"errors"},
    {"__init__"},
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
#: A corpus is the texts of manifests, which `data` reads.
EXCEPTIONS = {
    (module, room) for module in ("text/corpus.py", "text/verify.py") for room in ("data.rows", "data.unspoken")
}
MODULES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


def imported(module: str) -> set[str]:
    """What a module imports of the package, as "room" or "room.module", in functions as well."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "xtts_extend":
            inside = node.module.removeprefix("xtts_extend").lstrip(".")
            found |= {inside} if inside else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name[12:] for alias in node.names if alias.name.startswith("xtts_extend.")}
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if "/" in module])
def test_imports_run_downwards(module):
    own = room_of(module)
    for name in imported(module):
        other = name.split(".")[0]
        if other in LEVEL and other != own and (module, name) not in EXCEPTIONS:
            assert LEVEL[other] > LEVEL[own], f"{module} imports {name}, which does not lie below it"


def test_every_room_is_on_the_map():
    assert {room_of(module) for module in MODULES} == LEVEL.keys()
    drawn = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    by_name = [module for module in MODULES if not module.startswith("commands/") and "__init__" not in module]
    assert [module for module in by_name if Path(module).name not in drawn] == []


def test_no_two_modules_have_one_name():
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
def test_what_one_module_alone_does(text, allowed):
    assert {module for module in MODULES if text in (PACKAGE / module).read_text(encoding="utf-8")} == allowed
