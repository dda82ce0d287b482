"""A base model is downloaded after its license was accepted, resumes after interruptions, and is checked."""

from __future__ import annotations

import io
import shutil

import pytest
from fake_hub import TOKEN, FakeRepository

from xtts_extend import files
from xtts_extend.cli import main
from xtts_extend.errors import ConfigError, DiskFullError, MachineError
from xtts_extend.findings import Finding
from xtts_extend.hub.base_download import download_base, find_base, licence_of
from xtts_extend.hub_client import repository as repository_module
from xtts_extend.hub_client.repository import Repository

FILES = {
    "config.json": b"{}\n",
    "vocab.json": '{"ሰ": 1}'.encode(),
    "model.pth": bytes(range(256)) * 40,
    "dvae.pth": b"dvae" * 700,
    "mel_stats.pth": b"mel" * 5,
    "speakers_xtts.pth": b"voices" * 9,
}
LICENCE = b"Coqui Public Model License 1.0.0\n\x1b[2JOnly Non-Commercial Purposes.\n"
REPO = "coqui/XTTS-v2"


@pytest.fixture
def base(hub):
    """The hub's repository with a base model, which has files that nobody needs as well."""
    hub.repositories[REPO] = FakeRepository({**FILES, "LICENSE.txt": LICENCE, "README.md": b"#", "samples/a.wav": b"a"})
    return hub.repositories[REPO]


@pytest.fixture
def checked(monkeypatch):
    """The folders that the command checked; these files are too small for the real check."""
    folders = []
    monkeypatch.setattr(
        "xtts_extend.setup.base.check_base", lambda path: [*map(folders.append, [path])] and [Finding("ok", "ok", True)]
    )
    return folders


def visible(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def download(output):
    """Download the base and return what was reported."""
    lines = []
    found = find_base(REPO)
    download_base(found, licence_of(found), output, lines.append)
    return lines


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main([*map(str, argv)])
    return caught.value.code, capsys.readouterr().err


def test_all_files_and_the_license_are_downloaded_once(hub, base, checked, tmp_path, capsys):
    output = tmp_path / "ሞዴል my XTTS"
    command = ["download", "--output", str(output), "--accept-licence"]
    assert main(command) == 0
    assert visible(output) == {**FILES, "LICENSE.txt": LICENCE}
    assert checked == [output]
    said = capsys.readouterr()
    assert "Coqui Public Model License (CPML)" in said.err
    assert f"{hub.address}/{REPO}/blob/main/LICENSE.txt" in said.err
    assert "1 of 1 checks passed." in said.out
    assert sorted(name for name, _ in hub.downloads()) == sorted([*FILES, "LICENSE.txt"])
    hub.requests.clear()
    (output / "dvae.pth").unlink()
    assert main(command) == 0
    assert hub.downloads() == [("LICENSE.txt", ""), ("dvae.pth", "")]
    assert visible(output) == {**FILES, "LICENSE.txt": LICENCE}


def test_the_exit_code_is_that_of_check_base(base, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("xtts_extend.setup.base.check_base", lambda path: [Finding("one row per id", "no", False)])
    assert main(["download", "--output", str(tmp_path / "out"), "--accept-licence", "--json"]) == 1
    assert '"ok": false' in capsys.readouterr().out


@pytest.mark.slow
def test_the_downloaded_mini_base_passes_the_check(hub, mini_base, tmp_path, capsys):
    files = {file.name: file.read_bytes() for file in mini_base.iterdir() if file.is_file()}
    hub.repositories["me/mini"] = FakeRepository(files)
    output = tmp_path / "out"
    assert main(["download", "--repo", "me/mini", "--output", str(output), "--accept-licence"]) == 0
    said = capsys.readouterr()
    assert "ok    one forward pass gives a finite loss" in said.out
    assert "me/mini states no license." in said.err
    assert all(content == files[name] for name, content in visible(output).items())


@pytest.mark.parametrize("answer", [None, "no\n", ""], ids=["no terminal", "no", "end of input"])
def test_nothing_is_downloaded_unless_the_license_is_accepted(hub, base, tmp_path, capsys, monkeypatch, answer):
    stdin = io.StringIO(answer or "")
    stdin.isatty = lambda: answer is not None
    monkeypatch.setattr("sys.stdin", stdin)
    code, said = fails(capsys, "download", "--output", tmp_path / "out")
    assert code == 2
    assert "was not accepted, so nothing was downloaded" in said
    assert "--accept-licence" in said
    assert "Only Non-Commercial Purposes." in said
    assert "\x1b" not in said
    assert not (tmp_path / "out").exists()
    assert [name for name, _ in hub.downloads()] == ["LICENSE.txt"]


def test_typing_yes_accepts_the_license(base, checked, tmp_path, monkeypatch):
    stdin = io.StringIO("yes\n")
    stdin.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["download", "--output", str(tmp_path / "out")]) == 0
    assert visible(tmp_path / "out").keys() == {*FILES, "LICENSE.txt"}


def test_an_interrupted_download_resumes_where_it_stopped(hub, base, tmp_path):
    hub.cut = {"model.pth": 4500}
    with pytest.raises(MachineError, match="status 503: down. Run the command again later"):
        download(tmp_path)
    assert "model.pth" not in visible(tmp_path)
    (partial,) = tmp_path.glob(".model.pth.*.partial")
    assert partial.read_bytes() == FILES["model.pth"][:4000]
    hub.repair()
    hub.requests.clear()
    lines = download(tmp_path)
    assert ("model.pth", "bytes=4000-") in hub.downloads()
    assert "config.json is already there and has the right digest." in lines
    assert "Resuming model.pth at 0.0 of 0.0 MB." in lines
    assert visible(tmp_path) == {**FILES, "LICENSE.txt": LICENCE}
    assert not list(tmp_path.glob("*.partial"))


def test_a_short_interruption_is_resumed_at_once(hub, base, tmp_path):
    hub.cut = {"model.pth": 4500}
    hub._broken = type("Never", (set,), {"add": lambda self, name: None})()
    download(tmp_path)
    assert [entry for entry in hub.downloads() if entry[0] == "model.pth"] == [
        ("model.pth", ""),
        ("model.pth", "bytes=4000-"),
    ]
    assert visible(tmp_path)["model.pth"] == FILES["model.pth"]


@pytest.mark.parametrize("name", ["model.pth", "vocab.json"], ids=["sha256", "git"])
@pytest.mark.parametrize(
    "change",
    [lambda content: content[:-1], lambda content: content[:-1] + b"?", lambda content: b""],
    ids=["truncated", "changed", "empty"],
)
def test_a_wrong_file_is_named_and_downloaded_again(hub, base, tmp_path, name, change):
    download(tmp_path)
    (tmp_path / name).write_bytes(change(FILES[name]))
    hub.requests.clear()
    lines = download(tmp_path)
    assert f"{tmp_path / name} differs from the file in {REPO}, so it is downloaded again." in lines
    assert hub.downloads() == [("LICENSE.txt", ""), (name, "")]
    assert visible(tmp_path)[name] == FILES[name]


def test_contents_that_do_not_match_their_digest_are_not_kept(hub, base, tmp_path):
    hub.wrong = "model.pth"
    with pytest.raises(MachineError, match="model.pth from coqui/XTTS-v2 arrived damaged"):
        download(tmp_path)
    assert not list(tmp_path.glob("*model.pth*"))
    hub.repair()
    download(tmp_path)
    assert visible(tmp_path)["model.pth"] == FILES["model.pth"]


def test_incomplete_downloads_of_other_contents_are_removed(hub, base, tmp_path):
    old = tmp_path / ".model.pth.0123456789abcdef.partial"
    old.write_bytes(b"old")
    too_long = find_base(REPO).files["dvae.pth"].partial(tmp_path / "dvae.pth")
    too_long.write_bytes(b"x" * 9999)
    download(tmp_path)
    assert not old.exists()
    assert visible(tmp_path) == {**FILES, "LICENSE.txt": LICENCE}


def test_a_full_disk_is_reported_before_and_during_the_download(hub, base, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(DiskFullError, match="coqui/XTTS-v2 needs 1.31e-05 GB more on the disk"):
        download(tmp_path / "a")
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)

    def full(url, opened, **options):
        raise OSError(28, "No space left on device")

    found = find_base(REPO)
    licence = licence_of(found)
    monkeypatch.setattr(repository_module, "http_get", full)
    with pytest.raises(DiskFullError, match="config.json could not be written: the disk is full"):
        download_base(found, licence, tmp_path / "b", print)


def test_an_output_that_is_a_file_is_refused(base, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="is a file; expected a folder"):
        download(tmp_path / "out")


def test_two_downloads_into_one_folder_do_not_run_at_once(base, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(MachineError, match="Another process is downloading into"):
        download(tmp_path)


def test_a_repository_without_built_in_voices_is_enough(base, tmp_path):
    del base.files["speakers_xtts.pth"]
    assert f"{REPO} has no speakers_xtts.pth. Continuing without the built-in voices." in download(tmp_path)


@pytest.mark.parametrize(
    ("change", "repo", "code", "said"),
    [
        (
            lambda hub: hub.repositories[REPO].files.pop("dvae.pth"),
            REPO,
            2,
            "has no dvae.pth, so it is not a base model",
        ),
        (lambda hub: None, "coqui/XTTS-v3", 2, "coqui/XTTS-v3 does not exist on"),
        (lambda hub: None, "XTTS", 2, "Expected the name of a repository, USER/NAME, got 'XTTS'"),
        (lambda hub: setattr(hub.repositories[REPO], "gated", True), REPO, 2, "is gated. Request access at"),
    ],
    ids=["no base", "missing", "no name", "gated"],
)
def test_unusable_repositories_are_refused(hub, base, tmp_path, capsys, change, repo, code, said):
    change(hub)
    found = fails(capsys, "download", "--repo", repo, "--output", tmp_path / "out", "--accept-licence")
    assert found[0] == code
    assert said in found[1]
    assert not (tmp_path / "out").exists()


def test_a_gated_repository_is_downloaded_with_a_token_that_no_other_host_sees(hub, base, tmp_path, monkeypatch):
    base.gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    download(tmp_path)
    assert visible(tmp_path) == {**FILES, "LICENSE.txt": LICENCE}
    assert {request.token for request in hub.requests if request.path.startswith("/cdn/")} == {False}
    assert {request.token for request in hub.requests if not request.path.startswith("/cdn/")} == {True}


def test_no_network_is_a_clear_error(hub, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, said = fails(capsys, "download", "--output", tmp_path / "out", "--accept-licence")
    assert code == 1
    assert "The connection to http://127.0.0.1:9 failed:" in said
    assert "Check the network, the proxy and HF_ENDPOINT" in said
    monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
    assert (
        "HF_ENDPOINT is 'huggingface.co', which is not an address"
        in fails(capsys, "download", "--output", tmp_path / "out", "--accept-licence")[1]
    )
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, said = fails(capsys, "download", "--output", tmp_path / "out", "--accept-licence")
    assert code == 2
    assert "HF_HUB_OFFLINE is set" in said


def test_a_revision_that_does_not_exist_is_named(base):
    base.branches["v1"] = base.files
    with pytest.raises(ConfigError, match="coqui/XTTS-v2 has no such revision"):
        Repository.open(REPO, "v9")
    assert Repository.open(REPO, "v1").commit == base.commit
