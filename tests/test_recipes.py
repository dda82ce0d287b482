"""Finding and copying recipes."""

import errno
import os
import runpy
from pathlib import Path

import pytest
from test_dependencies import ROOT

import xtts_extend
from xtts_extend import environment, recipes
from xtts_extend.errors import ConfigError, MachineError

NAME = "train_gpt_xtts.py"


def test_recipe_of_a_checkout():
    assert recipes.find_recipe() == ROOT / recipes.RECIPE


@pytest.mark.parametrize(
    ("package", "record", "script"),
    [
        ("lib/site-packages", "../../share", "share"),
        ("usr/local/lib/python3/dist-packages", "../../../share", "usr/local/share"),
        ("site", "../../share", "site/share"),
    ],
    ids=["environment", "user, prefix", "target"],
)
def test_recipe_of_an_installation(tmp_path, monkeypatch, package, record, script):
    site = tmp_path / package
    monkeypatch.setattr(recipes, "__file__", str(site / "xtts_extend" / "recipes.py"))
    monkeypatch.syspath_prepend(site)
    recorded = site / "xtts_extend-9.9.dist-info" / "RECORD"
    recorded.parent.mkdir(parents=True)
    recorded.with_name("METADATA").write_text("Metadata-Version: 2.1\nName: xtts_extend\nVersion: 9.9\n")
    recorded.write_text(f"xtts_extend/recipes.py,,\n{record}/xtts_extend/{recipes.RECIPE},,\n")
    with pytest.raises(ConfigError, match="Reinstall xtts_extend"):
        recipes.find_recipe()

    installed = tmp_path / script / "xtts_extend" / recipes.RECIPE
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert recipes.find_recipe() == installed


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no recipe named 'new-language'. Choose one of: new_language\."):
        recipes.find_recipe("new-language")


@pytest.mark.parametrize(
    ("target", "written"),
    [
        (None, NAME),
        ("mine.py", "mine.py"),
        ("MINE.PY", "MINE.PY"),
        ("new/ስራ ፋይሎች/የኔ script.py", "new/ስራ ፋይሎች/የኔ script.py"),
        ("folder", f"folder/{NAME}"),
        ("folder.py", f"folder.py/{NAME}"),
        ("new folder/ማስተማር", f"new folder/ማስተማር/{NAME}"),
    ],
    ids=["no path", "file", "capitals", "file in new folders", "folder", "folder like a file", "new folder"],
)
def test_path_of_a_copy(tmp_path, monkeypatch, target, written):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "folder.py"):
        (tmp_path / folder).mkdir()
    assert recipes.copy_recipe("new_language", target and Path(target)) == Path(written)
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()] == [written]


@pytest.mark.parametrize("target", [".", "folder/notes", NAME, "link.py"])
def test_a_copy_overwrites_nothing(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in (NAME, "folder/notes"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "link.py").symlink_to("nowhere.py")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="already exists|is a file; expected a folder"):
        recipes.copy_recipe("new_language", Path(target))
    assert sorted(tmp_path.rglob("*")) == before
    assert [(tmp_path / name).read_text() for name in (NAME, "folder/notes")] == ["mine", "mine"]
    assert (tmp_path / "link.py").is_symlink()


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    path_open = Path.open

    def open_read_only(path, mode="r", *arguments, **named):
        if "w" in mode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return path_open(path, mode, *arguments, **named)

    monkeypatch.setattr(Path, "open", open_read_only)
    with pytest.raises(MachineError, match="could not be written: .*Permission denied"):
        recipes.copy_recipe("new_language", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_records_its_release(tmp_path, monkeypatch, capsys):
    """A copy names the recipe and its release, and warns if a different release is installed, but runs."""
    copy = recipes.copy_recipe("new_language", tmp_path)
    lines = copy.read_text(encoding="utf-8").splitlines()
    original = recipes.find_recipe().read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(
        f"# Editable copy of the recipe new_language from xtts_extend {xtts_extend.__version__}. "
    )
    ((ours, theirs),) = (pair for pair in zip(lines[2:], original, strict=True) if pair[0] != pair[1])
    assert ours == theirs.replace("()", f'(written_for="{xtts_extend.__version__}")')

    monkeypatch.setattr(environment, "newer_than_tested", lambda installed: [])
    monkeypatch.setattr("sys.argv", [str(copy)])
    main = runpy.run_path(str(copy), run_name="copy")["main"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(environment, "__version__", "99.0")
    runpy.run_path(str(copy), run_name="copy")
    (line,) = capsys.readouterr().err.splitlines()
    release = f"written for xtts_extend {xtts_extend.__version__}, but 99.0 is installed."
    assert line.startswith(f"warning: {copy} was {release}")
    with pytest.raises(SystemExit) as caught:
        main(["--language", "am"])
    assert caught.value.code == 2
