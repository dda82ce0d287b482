"""A project is a folder; what is listed, skipped and next follows from its files."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_folders import append_history, write_checkpoint

from xtts_extend.errors import ConfigError, LanguageError, MachineError
from xtts_extend.page.project import FOLDERS_OF_PROJECT, Project, Settings


@pytest.fixture
def base(tmp_path) -> Path:
    """A folder that looks like a base model's."""
    folder = tmp_path / "ሞዴል base"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.pth").touch()
    return folder


@pytest.fixture
def project(tmp_path, base) -> Project:
    """An open project whose base and language are chosen."""
    made = Project.open(tmp_path / "ፕሮጀክት one", base)
    made.save(Settings("am", str(base)))
    return made


@pytest.fixture(autouse=True)
def jobs(monkeypatch):
    """The jobs of every project."""
    found = []
    monkeypatch.setattr(Project, "jobs", lambda project: found)
    return found


def names(listing):
    return [entry.name for entry in listing]


def test_open_makes_what_is_missing_and_keeps_what_is_there(tmp_path, base):
    project = Project.open(tmp_path / "ፕሮጀክት new" / "one")
    assert {path.name for path in project.folder.iterdir()} == {*FOLDERS_OF_PROJECT, "project.json"}
    assert project.settings == Settings()
    project.save(Settings("am"))
    (project.folder / "jobs").rmdir()
    again = Project.open(project.folder, base)
    assert again.settings == Settings("am", str(base))
    assert (project.folder / "jobs").is_dir()
    assert json.loads((project.folder / "project.json").read_text(encoding="utf-8")) == {
        "language": "am",
        "base_dir": str(base),
    }


def test_a_relative_base_becomes_absolute(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Project.open(Path("p"), Path(base.name)).settings.base_dir == str(base)


def test_folders_with_hidden_files_or_our_folders_can_be_projects(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".DS_Store").touch()
    (tmp_path / "b" / "data").mkdir(parents=True)
    (tmp_path / "b" / "notes.txt").touch()
    for name in "ab":
        assert Project.open(tmp_path / name).settings == Settings()


def test_what_is_something_elses_is_refused_and_untouched(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="is not a project"):
        Project.open(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        Project.open(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match="is a file"):
        Project.open(tmp_path / "notes.txt" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "project.json").write_text("{}", encoding="utf-8")
    (tmp_path / "p" / "voices").touch()
    with pytest.raises(ConfigError, match="voices is not a folder"):
        Project.open(tmp_path / "p")


def test_a_base_that_is_none_is_refused(tmp_path, base):
    with pytest.raises(ConfigError, match="does not exist"):
        Project.open(tmp_path / "p", tmp_path / "gone")
    (base / "model.pth").unlink()
    with pytest.raises(ConfigError, match=r"is not a base model, because it lacks model\.pth"):
        Project.open(tmp_path / "p", base)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"language": 3}', b'{"base_dir": ["x"]}', b'{"language": "../am"}',
     b"[" * 100_000],
)  # fmt: skip
def test_damaged_settings_are_a_sentence(tmp_path, content):
    (tmp_path / "project.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"project\.json is damaged"):
        Project.open(tmp_path)
    assert Project(tmp_path).next_step().screen == "Project"
    assert "damaged" in Project(tmp_path).next_step().sentence


def test_a_language_that_is_malformed_is_not_saved(project):
    with pytest.raises(LanguageError):
        project.save(Settings("A/../b"))
    assert project.settings.language == "am"


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(MachineError, match="No space left"):
        Project.open(tmp_path / "p")


def test_listings(project, tmp_path, base):
    folder = project.folder
    for name in (
        "data/ትምህርት.csv", "data/notes.md", "data/.hidden.csv", "data/corrections.jsonl", "data/set one/metadata.CSV",
        "data/wavs/a.txt", "data/set one/wavs/b.wav",
        "data/dataset/train.csv", "data/dataset/val.csv", "data/dataset/rejected.csv", "data/dataset/clips.jsonl",
        "data/dataset/edits.jsonl", "voices/ድምፅ.wav", "voices/x.flac", "voices/x.txt",
        "vocabularies/am.json", "vocabularies/am.txt", "models/am.safetensors", "models/half/config.json",
        "models/am model/config.json", "models/am model/model.pth", "models/am model/vocab.json",
        "compared/1/compared.json", "compared/2/other", "my base/config.json", "my base/model.pth",
        "runs/a/config.json", "runs/b/checkpoint_3.pth", "runs/c/notes.txt", "runs/.codes/set.json", "runs/file",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert names(project.manifests()) == ["dataset/train.csv", "dataset/val.csv", "set one/metadata.CSV", "ትምህርት.csv"]
    assert project.manifests().entries[2].path == folder / "data" / "set one" / "metadata.CSV"
    assert names(project.voices()) == ["x.flac", "ድምፅ.wav"]
    assert names(project.vocabularies()) == ["am.json"]
    assert names(project.packs()) == ["am.safetensors"]
    assert names(project.models()) == ["am model"]
    assert project.models().skipped == ["half is not a model folder, because it lacks model.pth and vocab.json."]
    assert names(project.compared()) == ["1"]
    assert names(project.bases()) == [str(base), "my base"]
    assert names(project.runs()) == ["a", "b"]
    assert project.runs().skipped == ["c contains neither config.json nor a checkpoint, so it is not a run."]


def test_checkpoints_by_step(run, project):
    for name in ("checkpoint_12.pth", "checkpoint_8.pth", "best_model_8.pth", "best_model.pth", "x.pth"):
        (run / name).touch()
    assert names(project.checkpoints(run)) == ["best_model_8.pth", "checkpoint_8.pth", "checkpoint_12.pth"]
    assert len(project.checkpoints(run / "gone").skipped) == 1


def test_what_cannot_be_used_is_skipped_with_a_reason(project):
    data = project.folder / "data"
    (data / "gone.csv").symlink_to(project.folder / "nothing")
    (data / "ok.csv").touch()
    with open(os.fsencode(data) + b"/\xff.csv", "wb"):
        pass
    listing = project.manifests()
    assert names(listing) == ["ok.csv"]
    assert sorted(listing.skipped) == [
        "'\\udcff.csv' has a name that is not valid Unicode. Rename it.",
        "gone.csv is a broken link.",
    ]
    data.rename(project.folder / "elsewhere")
    assert "data cannot be listed" in project.manifests().skipped[0]


def test_linked_data_is_listed(project, tmp_path):
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "train.csv").touch()
    (project.folder / "data" / "linked").symlink_to(tmp_path / "recordings")
    assert names(project.manifests()) == ["linked/train.csv"]


def test_a_base_that_has_gone_is_skipped(project, base):
    base.rename(base.with_name("moved"))
    assert names(project.bases()) == []
    assert project.bases().skipped == [f"{base} does not exist."]


def test_the_next_step_from_nothing_to_an_export(project, base, jobs, live, statuses, monkeypatch):
    def following():
        step = project.next_step()
        return step.screen, step.sentence

    vocabularies = set()
    monkeypatch.setattr(Project, "speaks", lambda project, file: file in vocabularies)
    folder = project.folder
    project.save(Settings())
    assert following() == ("Project", "Choose the folder of the base model, XTTS-v2.")
    project.save(Settings("", str(folder / "gone")))
    assert following()[1] == f"{folder / 'gone'} does not exist. Choose the folder of the base model again."
    project.save(Settings("", str(base)))
    assert following() == ("Project", "Choose the language to learn.")
    project.save(Settings("am", str(base)))
    assert following()[0] == "Data"
    (folder / "recordings" / "talk.mp3").touch()
    assert following() == ("Recordings", "Make a data set from your recordings.")
    (folder / "data" / "train.csv").touch()
    assert following() == ("Vocabulary", "Create a vocabulary with the letters of 'am'.")
    jobs += [SimpleNamespace(kind="check-data", name="2", state="failed"), SimpleNamespace(
        kind="check-data", name="1", state="finished")]  # fmt: skip
    assert following()[0] == "Data"
    jobs.append(SimpleNamespace(kind="check-data", name="3", state="finished"))
    (folder / "vocabularies" / "am.json").touch()
    vocabularies.add(folder / "vocabularies" / "am.json")
    assert following() == ("Train", "Start training.")
    jobs.append(SimpleNamespace(kind="train", name="4", state="waiting"))
    assert following() == ("Train", "Training is starting or waiting for the GPU.")

    run = folder / "runs" / "xtts-1"
    run.mkdir()
    write_checkpoint(run / "checkpoint_1200.pth", 1200)
    live.add(run)
    assert following() == ("Train", "xtts-1 is training. Watch it and listen to its test sentences.")
    live.clear()
    jobs[-1].state = "finished"
    assert following() == ("Resume", "xtts-1 stopped at step 1,200. Resume it, or export what it learned.")
    statuses[run] = SimpleNamespace(phase="failed", step=3, epoch=0, error="The disk is full.")
    assert following() == ("Resume", "xtts-1 failed: The disk is full. Resume it once that is fixed.")
    statuses.clear()
    append_history(run, ("start", 0), ("end", 1200))
    assert following()[0] == "Export"
    pack = folder / "models" / "am.safetensors"
    pack.touch()
    os.utime(run, (1, 1))
    assert following()[0] == "Compare"
    assert "am.safetensors" in following()[1]
    os.utime(pack, (2, 2))
    os.utime(run, (3, 3))
    assert following()[0] == "Export", "the run went on after the export"


def test_the_base_may_speak_the_language(project, base, mini_base):
    (project.folder / "data" / "train.csv").touch()
    assert project.next_step().screen == "Vocabulary"
    (base / "vocab.json").write_bytes((mini_base / "vocab.json").read_bytes())
    assert not project.speaks(base / "vocab.json")
    project.save(Settings("en", str(base)))
    assert project.next_step().screen == "Train"
