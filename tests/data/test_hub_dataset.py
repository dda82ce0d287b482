"""Data sets of the hub: which files are downloaded, in which revision, and what stops a download."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub, FakeRepository, commit_of
from web_server import Page, serving

from xtts_extend.data.hub_dataset import HubSplit, find_hub_split
from xtts_extend.errors import ConfigError, DataError, MachineError

CONTENT = os.urandom(50_000)


def serve(hub: FakeHub, files: dict[str, bytes], converted: dict[str, bytes] | None = None, **card: object) -> None:
    """Put the data set a/b on the hub."""
    branches = {"refs/convert/parquet": converted} if converted else {}
    hub.repositories["datasets/a/b"] = FakeRepository(files, branches, card=card)


def found(config: str = "", split: str = "") -> HubSplit:
    """Find a split of the data set a/b."""
    return find_hub_split("a/b", config, split)


def test_parquet_in_the_repository(hub: FakeHub) -> None:
    files = {"am_et/train-00000-of-00001.parquet": CONTENT, "en_us/train-00000-of-00001.parquet": b"2", "x.tar": b""}
    serve(hub, files, license="cc-by-4.0")
    split = found("am_et")
    repository = split.repository
    assert (split.config, split.split, repository.commit) == ("am_et", "train", commit_of(files))
    assert (repository.licence, repository.page) == ("cc-by-4.0", f"{hub.address}/datasets/a/b")
    (file,) = repository.files.values()
    assert (file.name, file.size_bytes) == ("am_et/train-00000-of-00001.parquet", 50_000)
    assert HubSplit.from_dict(json.loads(json.dumps(split.to_dict()))) == split


def test_configurations_of_the_card(hub: FakeHub) -> None:
    configs = [
        {
            "config_name": "am",
            "data_files": [{"split": "train", "path": "x/*.parquet"}, {"split": "dev", "path": "y.tar"}],
        },
        {"config_name": "ti", "data_files": ["z/a.parquet", "z/b.parquet"]},
        {"config_name": "sw", "data_files": "none.csv"},
    ]
    files = dict.fromkeys(("x/2.parquet", "x/1.parquet", "z/a.parquet", "z/b.parquet", "other.parquet"), b"1")
    serve(hub, files, license=["mit", "other"], license_name="own", configs=configs)
    split = found("am", "train")
    assert list(split.repository.files) == ["x/1.parquet", "x/2.parquet"]
    assert split.repository.licence == "mit, other own"
    assert list(found("ti").repository.files) == ["z/a.parquet", "z/b.parquet"]
    with pytest.raises(ConfigError, match="has several configurations: am, ti"):
        found()


def test_parquet_that_the_hub_converted(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    converted = {"am/partial-train/0000.parquet": CONTENT, "am/test/0000.parquet": b"3"}
    serve(hub, {"data/am.tar.gz": b"1"}, converted, license="cc0-1.0")
    repository = found().repository
    assert list(repository.files) == ["am/partial-train/0000.parquet"]
    assert (repository.commit, repository.licence) == (commit_of(converted), "cc0-1.0")
    assert "The hub has converted only the first part of this data set" in caplog.text


def test_a_data_set_without_parquet(hub: FakeHub) -> None:
    serve(hub, {"am.tar.gz": b"1"})
    with pytest.raises(DataError, match="hf:a/b has no Parquet files, and the hub has not converted it"):
        found()


@pytest.mark.parametrize(
    ("page", "error", "message"),
    [
        (
            Page(b"", 403, {"X-Error-Code": "GatedRepo"}),
            ConfigError,
            r"hf:a/b is gated\. Request access at http://.*/datasets/a/b, or accept its terms there\. .*hf auth login",
        ),
        (Page(b"", 401, {"X-Error-Code": "GatedRepo"}), ConfigError, "hf:a/b is gated"),
        (Page(b"", 403), ConfigError, "refused access to hf:a/b: .*Use a token that has the permission to read it"),
        (Page(b"<html>"), MachineError, "The connection to http://.* failed: .*Check the network"),
    ],
    ids=["gated", "gated without login", "forbidden", "web page"],
)
def test_answers_that_are_not_a_list_of_files(
    page: Page, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server:
        server.pages["/api/datasets/a/b"] = page
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
        with pytest.raises(error, match=message):
            found()


def test_a_missing_data_set(hub: FakeHub) -> None:
    hub.repositories["a/b"] = FakeRepository({"train.parquet": b"a model"})
    with pytest.raises(
        ConfigError, match=r"hf:a/b does not exist on http://.*, is private, or your token is not valid"
    ):
        found()
    with pytest.raises(ConfigError, match="Expected the name of a repository, USER/NAME, got 'a b/c'"):
        find_hub_split("a b/c", "", "")


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match=r"connection to http://127.0.0.1:9 failed: .*refused. Check the network"):
        found()


def downloaded(folder: Path) -> bytes:
    """Download the only file of a data set and return its contents."""
    found().repository.download("train.parquet", folder / "train.parquet")
    return (folder / "train.parquet").read_bytes()


def test_a_download_resumes(hub: FakeHub, tmp_path: Path) -> None:
    serve(hub, {"train.parquet": CONTENT})
    hub.cut = {"train.parquet": 20_500}
    with pytest.raises(MachineError, match="answered the request for hf:a/b with status 503"):
        downloaded(tmp_path)
    hub.repair()
    hub.requests.clear()
    assert downloaded(tmp_path) == CONTENT
    assert hub.downloads() == [("train.parquet", "bytes=20000-")]
    # A complete file is not requested again; a wrong one is.
    downloaded(tmp_path)
    assert len(hub.downloads()) == 1
    (tmp_path / "train.parquet").write_bytes(CONTENT[:-1] + b"?")
    assert downloaded(tmp_path) == CONTENT
    assert len(hub.downloads()) == 2


def test_a_file_that_does_not_have_its_digest(hub: FakeHub, tmp_path: Path) -> None:
    serve(hub, {"train.parquet": CONTENT})
    hub.wrong = "train.parquet"
    with pytest.raises(MachineError, match=r"train\.parquet from a/b arrived damaged"):
        downloaded(tmp_path)
    assert not list(tmp_path.glob("*train.parquet*"))


def test_a_gated_data_set_whose_list_of_files_is_public(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, {"train.parquet": CONTENT})
    hub.repositories["datasets/a/b"].gated = True
    with pytest.raises(ConfigError, match="hf:a/b is gated"):
        downloaded(tmp_path)
    # The token is sent to the hub, but not to the host that stores the files.
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.requests.clear()
    assert downloaded(tmp_path) == CONTENT
    assert {("/cdn/" in request.path, request.token) for request in hub.requests} == {(True, False), (False, True)}
