"""Packs and model folders are published with a model card, and `pack add` gets the same bytes back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from fake_hub import TOKEN, FakeRepository
from packs import make_pack

from xtts_extend.cli import main
from xtts_extend.hub.pack_download import is_repository_name
from xtts_extend.pack.file import Pack, digests
from xtts_extend.pack.model_folder import ModelFolder

REPO = "me/xtts-am"
WEIGHTS = {
    "gpt.text_embedding.weight": torch.arange(4000.0).reshape(100, 40),
    "gpt.gpt.h.0.ln_1.weight": torch.ones(40),
}
CARD = """---
language:
- "am"
license: other
license_name: coqui-public-model-license
license_link: https://huggingface.co/coqui/XTTS-v2/blob/main/LICENSE.txt
base_model: coqui/XTTS-v2
library_name: xtts_extend
pipeline_tag: text-to-speech
tags:
- xtts
- xtts_extend
- language-pack
---

# Language pack for XTTS: am

This file teaches [coqui/XTTS-v2](https://huggingface.co/coqui/XTTS-v2) a new language. It is a language pack for \
xtts_extend: it is stored beside the base model's files, and every language of the base model sounds exactly as before.

## Usage

```sh
xtts-extend download --repo coqui/XTTS-v2 --output XTTS
xtts-extend pack add me/xtts-am --model XTTS
xtts-extend speak --model XTTS --language am --reference voice.wav --text "…" --output hello.wav
```

## Training of am

| | |
| --- | --- |
| steps | 3 |
| recordings | am 0.50 h |
| utterances | am 7 |
| validation mel loss in am | 2.500 (trained) |
| started from | the base model |
| replay of old languages | no |
| new tokens | NEW |
| precision | float32, full rank |
| license of the recordings | CC0 |
| created | 2026-01-02 |

## License

This repository contains weights that were trained from the base model's. The license of XTTS-v2 applies to them: the \
[Coqui Public Model License (CPML)](https://huggingface.co/coqui/XTTS-v2/blob/main/LICENSE.txt), which allows \
non-commercial use only.
"""


@pytest.fixture(scope="module")
def pack(mini_base, tmp_path_factory):
    """A pack for Amharic and the base in `folder`; its folder's name has a space and other letters."""
    path = tmp_path_factory.mktemp("የኔ packs") / "my pack.safetensors"
    return make_pack(mini_base, "am", path, change=lambda info: replace(info, base=digests(WEIGHTS))).path


@pytest.fixture
def folder(mini_base, tmp_path):
    """A base's folder with few weights, which are enough for checking packs."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "vocab.json", "speakers_xtts.pth", "mel_stats.pth"):
        shutil.copyfile(mini_base / name, folder / name)
    torch.save({"model": WEIGHTS}, folder / "model.pth")
    return folder


@pytest.fixture
def user(hub, monkeypatch):
    """The hub, with a user who is logged in."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def run(capsys):
    """A function that runs a command and returns the exit code, the printed values and standard error."""

    def call(*argv):
        try:
            code = main([*map(str, argv)])
        except SystemExit as error:
            code = error.code
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err
        return code, json.loads(said.out) if said.out.startswith("{") else said.out, said.err

    return call


def test_a_published_pack_is_added_with_the_same_bytes(user, pack, folder, run, monkeypatch, tmp_path):
    code, values, said = run("publish", pack, "--repo", REPO, "--json")
    assert code == 0
    published = user.repositories[REPO]
    assert values == {
        "repo": REPO,
        "url": f"{user.address}/{REPO}",
        "private": False,
        "files": ["am.safetensors", "README.md"],
        "size_bytes": pack.stat().st_size,
        "languages": ["am"],
        "licence": "Coqui Public Model License (CPML)",
        "contains_base": False,
        "commit": published.commit,
    }
    assert "The pack was trained from coqui/XTTS-v2, whose license applies to it." in said
    assert published.files["am.safetensors"] == pack.read_bytes()
    card = published.files["README.md"].decode()
    new = len(Pack.open(pack).info.vocabulary.entries)
    assert card == CARD.replace("NEW", str(new))
    assert yaml.safe_load(card.split("---")[1])["language"] == ["am"]

    monkeypatch.delenv("HF_TOKEN")
    code, values, said = run("pack", "add", REPO, "--model", folder, "--json")
    assert code == 0
    assert (values["added"], values["from"], values["language"]) == (True, REPO, "am")
    assert "There is no file me/xtts-am, so the pack is downloaded from the Hugging Face Hub." in said
    assert (folder / "packs" / "am.safetensors").read_bytes() == pack.read_bytes()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert list(ModelFolder(folder).packs()) == ["am"]


def test_publishing_again_replaces_the_pack(user, pack, run):
    for _ in range(2):
        assert run("publish", pack, "--repo", REPO)[0] == 0
    assert user.repositories[REPO].files.keys() == {"am.safetensors", "README.md"}


def test_a_private_repository(user, pack, run, folder, monkeypatch):
    code, values, _ = run("publish", pack, "--repo", REPO, "--private", "--json")
    assert (code, values["private"], user.repositories[REPO].private) == (0, True, True)
    user.repositories["me/public"] = FakeRepository()
    code, _, said = run("publish", pack, "--repo", "me/public", "--private")
    assert code == 2
    assert "me/public already exists and is public, so --private cannot be met. Nothing was uploaded." in said
    assert user.repositories["me/public"].files == {}
    assert run("pack", "add", REPO, "--model", folder)[0] == 0
    monkeypatch.delenv("HF_TOKEN")
    code, _, said = run("pack", "add", REPO, "--model", folder)
    assert code == 2
    assert "If the repository is private: Log in with `hf auth login`" in said


def test_without_a_token_nothing_is_sent(hub, pack, run):
    code, _, said = run("publish", pack, "--repo", REPO)
    assert code == 2
    assert (
        f"Log in with `hf auth login`, or set the environment variable HF_TOKEN to an access token from {hub.address}"
        in said
    )
    assert hub.requests == []


def test_a_damaged_pack_is_refused_before_anything_is_sent(user, pack, run, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(pack.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    for path, text in ((damaged, "checksum mismatch"), (tmp_path / "none.safetensors", "does not exist")):
        code, _, said = run("publish", path, "--repo", REPO)
        assert code == 2
        assert text in said
    assert user.requests == []


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["plain", "debug"])
@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (403, 2, "refused access to me/xtts-am"),
        (400, 2, "refused the request for me/xtts-am"),
        (401, 2, "me/xtts-am does not exist on"),
        (500, 1, "answered the request for me/xtts-am with status 500"),
    ],
)
def test_errors_never_show_the_token(user, pack, capsys, status, code, text, debug):
    user.answer = (status, f"Bad token {TOKEN}")
    if debug:
        import traceback

        with pytest.raises(Exception, match=text) as caught:
            main(["publish", str(pack), "--repo", REPO, "--debug"])
        assert caught.value.exit_code == code
        said = "".join(traceback.format_exception(caught.value)) + capsys.readouterr().err
    else:
        with pytest.raises(SystemExit) as stopped:
            main(["publish", str(pack), "--repo", REPO])
        assert stopped.value.code == code
        said = capsys.readouterr().err
        assert text in said
        assert "Bad token [token]" in said
    assert TOKEN not in said


def test_a_repository_holds_one_pack(user, pack, run, mini_base, tmp_path, folder):
    other = make_pack(mini_base, "ti", tmp_path / "ti.safetensors", seed=1).path
    user.repositories[REPO] = FakeRepository({"ti.safetensors": other.read_bytes()})
    code, _, said = run("publish", pack, "--repo", REPO)
    assert code == 2
    assert "me/xtts-am already contains a different pack: ti.safetensors." in said
    assert user.repositories[REPO].files.keys() == {"ti.safetensors"}
    user.repositories[REPO].files["am.safetensors"] = pack.read_bytes()
    user.repositories["me/none"] = FakeRepository({"README.md": b"#"})
    code, _, said = run("pack", "add", REPO, "--model", folder)
    assert code == 2
    assert "got 2 files NAME.safetensors (ti.safetensors, am.safetensors)" in said
    code, _, said = run("pack", "add", "me/none", "--model", folder)
    assert code == 2
    assert "in me/none; got none." in said
    assert not (folder / "packs").exists()


def test_an_interrupted_pack_resumes(user, pack, folder, run):
    files = {"am.safetensors": pack.read_bytes()}
    user.repositories[REPO] = FakeRepository(files, {"v1": files})
    user.cut = {"am.safetensors": 5500}
    assert run("pack", "add", f"{REPO}@v1", "--model", folder)[0] == 1
    assert not (folder / "packs").exists()
    user.repair()
    code, _, said = run("pack", "add", f"{REPO}@v1", "--model", folder)
    assert code == 0, said
    assert ("am.safetensors", "bytes=5000-") in user.downloads()
    assert (folder / "packs" / "am.safetensors").read_bytes() == pack.read_bytes()
    code, _, said = run("pack", "add", f"{REPO}@v9", "--model", folder)
    assert code == 2
    assert "has no such revision" in said


def test_a_pack_for_a_different_base_leaves_the_folder_unchanged(user, pack, folder, run):
    user.repositories[REPO] = FakeRepository({"am.safetensors": pack.read_bytes()})
    torch.save({"model": {name: tensor + 1 for name, tensor in WEIGHTS.items()}}, folder / "model.pth")
    before = sorted(folder.rglob("*"))
    for _ in range(2):
        code, _, said = run("pack", "add", REPO, "--model", folder)
        assert code == 2
        assert "was made for a different base" in said
        assert sorted(folder.rglob("*")) == before
    assert [name for name, _ in user.downloads()] == ["am.safetensors"]


@pytest.mark.parametrize(
    ("name", "is_name"),
    [
        ("me/xtts-am", True),
        ("me/xtts.am@main", True),
        ("am.safetensors", False),
        ("packs/am.safetensors", False),
        ("../am", False),
        ("/me/am", False),
        ("a/b/c", False),
        ("የኔ/am", False),
    ],
)
def test_names_of_repositories(name, is_name, tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    assert is_repository_name(Path(name)) is is_name
    if is_name:
        Path(name).mkdir(parents=True)
        assert not is_repository_name(Path(name))


def test_a_model_folder_is_published_with_its_license(user, pack, folder, run):
    ModelFolder(folder).add(pack)
    (folder / "LICENSE.txt").write_text("CPML")
    (folder / "private notes.txt").write_text("not for others")
    code, values, said = run("publish", folder, "--repo", REPO, "--json")
    assert code == 0, said
    assert "The upload contains the weights of the base model coqui/XTTS-v2." in said
    assert "their license, the Coqui Public Model License (CPML), which allows non-commercial use only." in said
    files = user.repositories[REPO].files
    assert files.keys() == {
        "config.json",
        "model.pth",
        "vocab.json",
        "speakers_xtts.pth",
        "mel_stats.pth",
        "LICENSE.txt",
        "packs/am.safetensors",
        "README.md",
    }
    assert files["model.pth"] == (folder / "model.pth").read_bytes()
    assert values["contains_base"] is True
    card = files["README.md"].decode()
    assert "This repository contains the base model's weights. The license of XTTS-v2 applies to them: the" in card
    assert "hf download me/xtts-am --local-dir xtts-am" in card
    assert yaml.safe_load(card.split("---")[1])["license_name"] == "coqui-public-model-license"


def test_the_card_of_a_different_base_claims_no_license(user, folder, pack, run):
    code, values, said = run("publish", pack, "--repo", REPO, "--base-repo", "me/mini", "--json")
    assert code == 0
    assert "Make sure that its license allows publishing." in said
    assert values["licence"] == "the license of me/mini"
    card = user.repositories[REPO].files["README.md"].decode()
    assert "coqui" not in card.lower()
    assert "base_model: me/mini" in card


def test_merged_weights_and_bases(user, folder, run):
    code, _, said = run("publish", folder, "--repo", REPO)
    assert code == 2
    assert "so it is a base model or not an export" in said
    assert user.requests == []
    metadata = {"language": "am", "step": 1200, "base_dir": "/home/me/XTTS", "checkpoint": "/home/me/run"}
    (folder / "xtts_extend.json").write_text(json.dumps(metadata))
    assert run("publish", folder, "--repo", REPO)[0] == 0
    card = user.repositories[REPO].files["README.md"].decode()
    assert "# XTTS with am, merged" in card
    assert "| steps | 1,200 |" in card
    assert "language-pack" not in card
    assert "xtts_extend.json" not in user.repositories[REPO].files
    metadata["language"] = "a fine-tuned language"
    (folder / "xtts_extend.json").write_text(json.dumps(metadata))
    assert run("publish", folder, "--repo", "me/other")[0] == 0
    card = user.repositories["me/other"].files["README.md"].decode()
    assert "# XTTS with a new language, merged" in card
    assert "language:" not in card


def test_a_damaged_base_is_not_published(user, folder, pack, run):
    ModelFolder(folder).add(pack)
    content = bytearray((folder / "model.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.pth").write_bytes(content)
    code, _, said = run("publish", folder, "--repo", REPO)
    assert code == 2
    assert "model.pth is damaged: checksum mismatch" in said
    assert user.requests == []
