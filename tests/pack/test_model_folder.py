"""A model folder takes packs of its base, one of a language, and is unchanged by what it refuses."""

import json
import os
import shutil

import pytest
import torch
from packs import make_pack

from xtts_extend.cli import main
from xtts_extend.data.encoded import file_digest
from xtts_extend.errors import ConfigError, MachineError, PackError, VocabularyError
from xtts_extend.pack.model_folder import RECORD, ModelFolder, archive_checksum, open_packs, open_spec, vocabulary_of


@pytest.fixture(scope="module")
def files(mini_base, tmp_path_factory):
    """Packs of three languages of the mini base."""
    folder = tmp_path_factory.mktemp("files")
    return {
        code: make_pack(mini_base, code, folder / f"{code}.safetensors", seed=n).path
        for n, code in enumerate(("am", "ti", "el"))
    }


@pytest.fixture
def folder(mini_base, tmp_path):
    """A base's folder of one's own."""
    return shutil.copytree(mini_base, tmp_path / "ሞዴል my model")


def contents(folder):
    return {str(file.relative_to(folder)): file_digest(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def test_packs_come_and_go(folder, files):
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
    with pytest.raises(PackError, match="has no pack of ti. Its packs: am, el"):
        model.remove("ti")


def test_loading_compares_checksums_and_everything_only_where_these_changed(folder, files, monkeypatch, caplog):
    ModelFolder(folder).add(files["am"])
    asked = []
    whole = ModelFolder.digests.func
    digests = property(lambda self: asked.append(1) or whole(self))
    monkeypatch.setattr(ModelFolder, "digests", digests)
    open_packs(folder)
    assert asked == []
    # the same tensors, saved again, as stock does with a published file
    content = torch.load(folder / "model.pth", weights_only=True)
    torch.save({"config": {}, **content}, folder / "model.pth")
    open_packs(folder)
    assert asked == []
    # a pack that was put there by hand
    shutil.copy(files["ti"], folder / "packs")
    assert list(open_packs(folder)) == ["am", "ti"]
    assert len(asked) == 1
    # another base
    content["model"]["gpt.final_norm.weight"][0] += 1
    torch.save(content, folder / "model.pth")
    with pytest.raises(PackError, match="another base"):
        open_packs(folder)


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"{}", b"\xff"], ids=["empty", "half", "list", "nothing", "bytes"]
)
def test_a_record_that_cannot_be_read_costs_a_comparison(folder, files, record):
    ModelFolder(folder).add(files["am"])
    (folder / "packs" / RECORD).write_bytes(record)
    assert list(open_packs(folder)) == ["am"]


def damaged(path, source):
    content = bytearray(source.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(lambda files, base, tmp: files["am"], "has a pack of am already", id="existing language"),
        pytest.param(lambda files, base, tmp: tmp / "none.safetensors", "does not exist", id="missing"),
        pytest.param(lambda files, base, tmp: base / "config.json", "cannot be read as a language pack", id="other"),
        pytest.param(lambda files, base, tmp: damaged(tmp / "ti.safetensors", files["ti"]), "is damaged", id="damaged"),
    ],
)
def test_what_is_refused_changes_nothing(folder, files, mini_base, tmp_path, given, message, capsys):
    ModelFolder(folder).add(files["am"])
    before = contents(folder)
    with pytest.raises(SystemExit) as caught:
        main(["pack", "add", str(given(files, mini_base, tmp_path)), "--model", str(folder)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert contents(folder) == before


def test_a_pack_of_another_base(folder, files):
    content = torch.load(folder / "model.pth", weights_only=True)
    content["model"]["gpt.mel_head.bias"][0] += 1
    torch.save(content, folder / "model.pth")
    before = contents(folder)
    with pytest.raises(PackError, match="another base"):
        ModelFolder(folder).add(files["am"])
    assert contents(folder) == before
    assert not (folder / "packs").exists()


def test_a_language_of_the_base(folder, mini_base, tmp_path, files):
    """No pack takes the place of what the base speaks."""
    with pytest.raises(PackError, match="speaks en itself"):
        ModelFolder(folder).require_new("en", files["am"])


def test_a_name_that_is_another_language_s(folder, files, tmp_path):
    """Nothing is written over, and a pack that lies there under another name gets its own."""
    (folder / "packs").mkdir()
    shutil.copy(files["ti"], folder / "packs" / "am.safetensors")
    before = contents(folder)
    with pytest.raises(PackError, match=r"am\.safetensors exists already, and is a pack of another language"):
        ModelFolder(folder).add(files["am"])
    assert contents(folder) == before
    (folder / "packs" / "am.safetensors").rename(folder / "packs" / "mine.safetensors")
    assert ModelFolder(folder).add(folder / "packs" / "mine.safetensors").path.name == "ti.safetensors"
    ModelFolder(folder).add(files["am"])
    assert list(open_packs(folder)) == ["am", "ti"]


def test_what_a_killed_copy_leaves_is_no_pack_and_a_damaged_one_can_be_removed(folder, files):
    ModelFolder(folder).add(files["am"])
    for name in (".ti.safetensors", "._am.safetensors"):
        (folder / "packs" / name).write_bytes(b"half")
    assert list(open_packs(folder)) == ["am"]
    (folder / "packs" / "am.safetensors").write_bytes(b"half")
    with pytest.raises(PackError, match="cannot be read"):
        open_packs(folder)
    ModelFolder(folder).remove("am")
    assert open_packs(folder) == {}


def test_two_packs_of_a_language(folder, files):
    ModelFolder(folder).add(files["am"])
    shutil.copy(files["am"], folder / "packs" / "amharic.safetensors")
    with pytest.raises(PackError, match="are both packs of am"):
        open_packs(folder)


def test_what_is_no_model_folder(tmp_path, files, mini_base):
    with pytest.raises(ConfigError, match=r"config\.json, model\.pth, vocab\.json are missing"):
        ModelFolder(tmp_path)
    assert open_packs(tmp_path) == {}
    assert open_packs(mini_base) == {}


def full_at_once(path):
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
    # with room for the pack, and none for what is recorded
    monkeypatch.undo()
    monkeypatch.setattr("xtts_extend.pack.model_folder.atomic_write", full_at_once)
    with pytest.raises(MachineError, match="the disk is full"):
        ModelFolder(folder).add(files["am"])
    assert contents(folder) == before
    assert not (folder / "packs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(folder, files):
    folder.chmod(0o555)
    with pytest.raises(MachineError, match="could not be written"):
        ModelFolder(folder).add(files["am"])


def test_a_folder_that_cannot_be_written_to(folder, files, monkeypatch):
    """As a read-only one, for whoever tests as root."""
    before = contents(folder)
    ModelFolder(folder).add(files["am"])

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(MachineError, match="cannot be removed: Permission denied"):
        ModelFolder(folder).remove("am")
    monkeypatch.undo()
    assert list(open_packs(folder)) == ["am"]
    assert contents(folder).items() >= before.items()


def test_a_checksum_without_reading(mini_base, tmp_path):
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
    assert "0 packs in" in capsys.readouterr().out


def test_a_folder_and_a_language_name_a_vocabulary(folder, files, mini_base):
    ModelFolder(folder).add(files["am"])
    joined = vocabulary_of(f"{folder}:am")
    assert {"[am]", "[en]", "ሰ"} <= joined.tokens.keys()
    assert vocabulary_of(str(mini_base / "vocab.json")).tokens.keys() < joined.tokens.keys()
    assert open_spec(f"{folder}:am")[1].info.language == "am"
    with pytest.raises(PackError, match="has no pack of ti. Its packs: am"):
        vocabulary_of(f"{folder}:ti")
    with pytest.raises(ConfigError, match="is not a model folder"):
        vocabulary_of(f"{folder.parent}:am")
    with pytest.raises(ConfigError, match="expected FOLDER:LANG"):
        open_spec("folder")
    with pytest.raises(VocabularyError):
        vocabulary_of(str(folder / "none.json"))
