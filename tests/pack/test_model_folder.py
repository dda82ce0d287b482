"""A model folder accepts packs for its base, one per language, and is unchanged by packs that it refuses."""

import json
import os
import shutil

import pytest
import torch
from packs import make_pack

from xtts_extend.cli import main
from xtts_extend.errors import ConfigError, MachineError, PackError, VocabularyError
from xtts_extend.files import file_digest
from xtts_extend.pack.model_folder import RECORD, ModelFolder, archive_checksum, open_packs, open_spec, vocabulary_of


@pytest.fixture(scope="module")
def files(mini_base, tmp_path_factory):
    """Packs for three languages, made for the mini base."""
    folder = tmp_path_factory.mktemp("files")
    return {
        code: make_pack(mini_base, code, folder / f"{code}.safetensors", seed=n).path
        for n, code in enumerate(("am", "ti", "el"))
    }


@pytest.fixture
def folder(mini_base, tmp_path):
    """A copy of the base's folder without the DVAE, most of its bytes, which packs have nothing to do with."""
    return shutil.copytree(mini_base, tmp_path / "ሞዴል my model", ignore=shutil.ignore_patterns("dvae.pth"))


def contents(folder):
    return {str(file.relative_to(folder)): file_digest(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def test_packs_are_added_and_removed(folder, files):
    base = contents(folder)
    model = ModelFolder(folder)
    for language in ("am", "ti", "el"):
        assert model.add(files[language]).path == folder / "packs" / f"{language}.safetensors"
    packs = open_packs(folder)
    assert list(packs) == ["am", "el", "ti"]
    assert contents(folder).items() >= base.items()
    assert all(file_digest(packs[code].path) == file_digest(files[code]) for code in files)
    assert model.remove("ti") == folder / "packs" / "ti.safetensors"
    assert list(open_packs(folder)) == ["am", "el"]
    assert contents(folder).items() >= base.items()
    with pytest.raises(PackError, match="has no pack for ti. Available packs: am, el"):
        model.remove("ti")


def test_loading_compares_tensors_only_if_checksums_changed(folder, files, monkeypatch, caplog):
    ModelFolder(folder).add(files["am"])
    computed = []
    compute = ModelFolder.digests.func
    digests = property(lambda self: computed.append(1) or compute(self))
    monkeypatch.setattr(ModelFolder, "digests", digests)
    open_packs(folder)
    assert computed == []
    # Stock saves published files again with the same tensors.
    content = torch.load(folder / "model.pth", weights_only=True)
    torch.save({"config": {}, **content}, folder / "model.pth")
    open_packs(folder)
    assert computed == []
    # A pack is copied into the folder by hand.
    shutil.copy(files["ti"], folder / "packs")
    assert list(open_packs(folder)) == ["am", "ti"]
    assert len(computed) == 1
    # The base changes.
    content["model"]["gpt.final_norm.weight"][0] += 1
    torch.save(content, folder / "model.pth")
    with pytest.raises(PackError, match="made for a different base than"):
        open_packs(folder)


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"{}", b"\xff"], ids=["empty", "half", "list", "nothing", "bytes"]
)
def test_without_a_readable_record_everything_is_compared(folder, files, record):
    ModelFolder(folder).add(files["am"])
    (folder / "packs" / RECORD).write_bytes(record)
    assert list(open_packs(folder)) == ["am"]


def damaged(path, source):
    content = bytearray(source.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda files, base, tmp: files["am"], "already has a pack for am", id="existing language"),
        pytest.param(lambda files, base, tmp: tmp / "none.safetensors", "does not exist", id="missing"),
        pytest.param(lambda files, base, tmp: base / "config.json", "cannot be read as a language pack", id="other"),
        pytest.param(lambda files, base, tmp: damaged(tmp / "ti.safetensors", files["ti"]), "is damaged", id="damaged"),
    ],
)
def test_a_refused_pack_changes_nothing(folder, files, mini_base, tmp_path, make, message, capsys):
    ModelFolder(folder).add(files["am"])
    before = contents(folder)
    with pytest.raises(SystemExit) as caught:
        main(["pack", "add", str(make(files, mini_base, tmp_path)), "--model", str(folder)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert contents(folder) == before


def test_a_pack_for_another_base(folder, files):
    content = torch.load(folder / "model.pth", weights_only=True)
    content["model"]["gpt.mel_head.bias"][0] += 1
    torch.save(content, folder / "model.pth")
    before = contents(folder)
    with pytest.raises(PackError, match="made for a different base than"):
        ModelFolder(folder).add(files["am"])
    assert contents(folder) == before
    assert not (folder / "packs").exists()


def test_a_language_of_the_base(folder, mini_base, tmp_path, files):
    """A pack cannot replace a language of the base."""
    with pytest.raises(PackError, match="already supports en"):
        ModelFolder(folder).require_new("en", files["am"])


def test_a_file_name_of_another_language(folder, files, tmp_path):
    """Nothing is overwritten, and a pack in the folder under another name is renamed."""
    (folder / "packs").mkdir()
    shutil.copy(files["ti"], folder / "packs" / "am.safetensors")
    before = contents(folder)
    with pytest.raises(PackError, match=r"am\.safetensors already exists and is a pack for a different language"):
        ModelFolder(folder).add(files["am"])
    assert contents(folder) == before
    (folder / "packs" / "am.safetensors").rename(folder / "packs" / "mine.safetensors")
    assert ModelFolder(folder).add(folder / "packs" / "mine.safetensors").path.name == "ti.safetensors"
    ModelFolder(folder).add(files["am"])
    assert list(open_packs(folder)) == ["am", "ti"]


def test_hidden_files_are_ignored_and_damaged_packs_can_be_removed(folder, files):
    ModelFolder(folder).add(files["am"])
    for name in (".ti.safetensors", "._am.safetensors"):
        (folder / "packs" / name).write_bytes(b"half")
    assert list(open_packs(folder)) == ["am"]
    (folder / "packs" / "am.safetensors").write_bytes(b"half")
    with pytest.raises(PackError, match="cannot be read"):
        open_packs(folder)
    ModelFolder(folder).remove("am")
    assert open_packs(folder) == {}


def test_two_packs_for_a_language(folder, files):
    ModelFolder(folder).add(files["am"])
    shutil.copy(files["am"], folder / "packs" / "amharic.safetensors")
    with pytest.raises(PackError, match="are both packs for am"):
        open_packs(folder)


def test_folders_that_are_not_model_folders(tmp_path, files, mini_base):
    with pytest.raises(ConfigError, match=r"config\.json, model\.pth, vocab\.json are missing"):
        ModelFolder(tmp_path)
    assert open_packs(tmp_path) == {}
    assert open_packs(mini_base) == {}


def raise_disk_full(path):
    raise MachineError("the disk is full")


def test_a_full_disk(folder, files, monkeypatch):
    before = contents(folder)

    def full(source, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xtts_extend.pack.model_folder.copy_file", full)
    with pytest.raises(MachineError, match="the disk is full"):
        ModelFolder(folder).add(files["am"])
    assert contents(folder) == before
    assert not (folder / "packs").exists()
    # There is space for the pack but not for the record.
    monkeypatch.undo()
    monkeypatch.setattr("xtts_extend.pack.model_folder.atomic_write", raise_disk_full)
    with pytest.raises(MachineError, match="the disk is full"):
        ModelFolder(folder).add(files["am"])
    assert contents(folder) == before
    assert not (folder / "packs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to read-only folders")
def test_a_read_only_folder(folder, files):
    folder.chmod(0o555)
    with pytest.raises(MachineError, match="could not be written"):
        ModelFolder(folder).add(files["am"])


def test_a_folder_that_cannot_be_written_to(folder, files, monkeypatch):
    """The same as a read-only folder, for tests that run as root."""
    before = contents(folder)
    ModelFolder(folder).add(files["am"])

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(MachineError, match=r"Could not remove .*am\.safetensors: Permission denied"):
        ModelFolder(folder).remove("am")
    monkeypatch.undo()
    assert list(open_packs(folder)) == ["am"]
    assert contents(folder).items() >= before.items()


def test_the_archive_checksum(mini_base, tmp_path):
    content = torch.load(mini_base / "model.pth", weights_only=True)
    for name, saved in (("again", content), ("more", {**content, "step": 3})):
        torch.save(saved, tmp_path / f"{name}.pth")
    assert archive_checksum(tmp_path / "again.pth") == archive_checksum(tmp_path / "more.pth")
    first, second = "gpt.final_norm.bias", "gpt.final_norm.weight"
    model = content["model"]
    swapped = {name: model[{first: second, second: first}.get(name, name)] for name in model}
    torch.save({"model": swapped}, tmp_path / "swapped.pth")
    model[first][0] += 1
    torch.save(content, tmp_path / "other.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert len({archive_checksum(tmp_path / f"{name}.pth") for name in ("again", "swapped", "other", "old")}) == 4


def test_the_commands(folder, files, mini_base, capsys):
    def run(*command):
        assert main(["pack", *map(str, command), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert run("list", "--model", folder)["packs"] == []
    added = run("add", files["am"], "--model", folder)
    assert (added["added"], added["language"], added["steps"]) == (True, "am", 3)
    verified = run("verify", files["ti"], "--base-dir", mini_base)
    assert (verified["verified"], verified["language"], verified["texts"]) == (True, "ti", 1)
    (listed,) = run("list", "--model", folder)["packs"]
    assert listed == {key: value for key, value in added.items() if key not in ("model", "added")}
    assert listed["hours"] == {"am": 0.5}
    assert run("remove", "am", "--model", folder)["removed"] is True
    assert main(["pack", "list", "--model", str(folder)]) == 0
    assert "has 0 packs." in capsys.readouterr().out


def test_folder_and_language_specify_a_vocabulary(folder, files, mini_base):
    ModelFolder(folder).add(files["am"])
    joined = vocabulary_of(f"{folder}:am")
    assert {"[am]", "[en]", "ሰ"} <= joined.tokens.keys()
    assert vocabulary_of(str(mini_base / "vocab.json")).tokens.keys() < joined.tokens.keys()
    assert open_spec(f"{folder}:am")[1].info.language == "am"
    with pytest.raises(PackError, match="has no pack for ti. Available packs: am"):
        vocabulary_of(f"{folder}:ti")
    with pytest.raises(ConfigError, match="is not a model folder"):
        vocabulary_of(f"{folder.parent}:am")
    with pytest.raises(ConfigError, match="Expected FOLDER:LANG"):
        open_spec("folder")
    with pytest.raises(VocabularyError):
        vocabulary_of(str(folder / "none.json"))
