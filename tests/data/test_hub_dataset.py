"""Data sets of the hub: which files are downloaded, in which revision, and what stops a download."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_server import Page, WebServer, serving

from xtts_extend.data import resumable_download
from xtts_extend.data.hub_dataset import HubSplit, download_hub_file, find_hub_split
from xtts_extend.errors import ConfigError, DataError, MachineError

CONTENT = os.urandom(50_000)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[WebServer]:
    """One server for all tests."""
    with serving() as running:
        yield running


@pytest.fixture
def server(shared_server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    """The server without pages, as the hub."""
    shared_server.pages.clear()
    shared_server.requests.clear()
    monkeypatch.setenv("HF_ENDPOINT", f"{shared_server.url}/")
    return shared_server


def test_parquet_in_the_repository(server: WebServer) -> None:
    files = {"am_et/train-00000-of-00001.parquet": CONTENT, "en_us/train-00000-of-00001.parquet": b"2", "x.tar": b""}
    server.add_data_set("google/fleurs", files, license="cc-by-4.0")
    split = find_hub_split("google/fleurs", "am_et", "")
    assert (split.config, split.split, split.revision, split.license) == ("am_et", "train", "a" * 40, "cc-by-4.0")
    (file,) = split.files
    assert (file.name, file.size_bytes) == ("am_et/train-00000-of-00001.parquet", 50_000)
    assert HubSplit.from_dict(split.to_dict()) == split
    assert split.url == f"{server.url}/datasets/google/fleurs"


def test_configurations_of_the_card(server: WebServer) -> None:
    configs = [
        {
            "config_name": "am",
            "data_files": [{"split": "train", "path": "x/*.parquet"}, {"split": "dev", "path": "y.tar"}],
        },
        {"config_name": "ti", "data_files": ["z/a.parquet", "z/b.parquet"]},
        {"config_name": "sw", "data_files": "none.csv"},
    ]
    files = dict.fromkeys(("x/2.parquet", "x/1.parquet", "z/a.parquet", "z/b.parquet", "other.parquet"), b"1")
    server.add_data_set("a/b", files, license=["mit", "other"], license_name="own", configs=configs)
    split = find_hub_split("a/b", "am", "train")
    assert [file.name for file in split.files] == ["x/1.parquet", "x/2.parquet"]
    assert split.license == "mit, other own"
    assert [file.name for file in find_hub_split("a/b", "ti", "").files] == ["z/a.parquet", "z/b.parquet"]
    with pytest.raises(ConfigError, match="has several configurations: am, ti"):
        find_hub_split("a/b", "", "")


def test_parquet_that_the_hub_converted(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    server.add_data_set("a/b", {"data/am.tar.gz": b"1"}, license="cc0-1.0")
    converted = {"am/partial-train/0000.parquet": CONTENT, "am/test/0000.parquet": b"3"}
    server.add_data_set("a/b", converted, "refs/convert/parquet", commit="c" * 40)
    split = find_hub_split("a/b", "", "")
    assert [file.name for file in split.files] == ["am/partial-train/0000.parquet"]
    assert (split.revision, split.license) == ("c" * 40, "cc0-1.0")
    assert "The hub has converted only the first part of this data set" in caplog.text


def test_a_data_set_without_parquet(server: WebServer) -> None:
    server.add_data_set("a/b", {"am.tar.gz": b"1"})
    with pytest.raises(DataError, match="hf:a/b has no Parquet files, and the hub has not converted it"):
        find_hub_split("a/b", "", "")


@pytest.mark.parametrize(
    ("page", "error", "message"),
    [
        (None, DataError, "There is no data set hf:a/b, or it is private"),
        (
            Page(b"", 403, {"X-Error-Code": "GatedRepo"}),
            ConfigError,
            "asks for the acceptance of its terms.*hf auth login",
        ),
        (Page(b"", 401, {"X-Error-Code": "GatedRepo"}), ConfigError, "asks for the acceptance of its terms"),
        (Page(b"", 403), ConfigError, r"refuses access to hf:a/b \(403\)"),
        (Page(b"<html>"), MachineError, "cannot be downloaded"),
    ],
    ids=["missing", "gated", "gated without login", "forbidden", "web page"],
)
def test_errors_of_the_hub(server: WebServer, page: Page | None, error: type[Exception], message: str) -> None:
    if page is not None:
        server.pages["/api/datasets/a/b"] = page
    with pytest.raises(error, match=message):
        find_hub_split("a/b", "", "")


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match=r"cannot be downloaded from http://127.0.0.1:9: .*refused. Check the"):
        find_hub_split("a/b", "", "")


def downloaded(server: WebServer, folder: Path) -> Path:
    """Download the only file of a data set."""
    split = find_hub_split("a/b", "", "")
    return download_hub_file(split, split.files[0], folder, progress=False)


PATH = f"/datasets/a/b/resolve/{'a' * 40}/train.parquet"


def test_a_download_resumes(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_download, "_BLOCK", 1000)
    monkeypatch.setattr(resumable_download, "_ATTEMPTS", 1)
    server.add_data_set("a/b", {"train.parquet": CONTENT})
    server.pages[PATH].breaks = [20_000, 0]
    with pytest.raises(MachineError, match="what has been downloaded is kept"):
        downloaded(server, tmp_path)
    server.requests.clear()
    assert downloaded(server, tmp_path).read_bytes() == CONTENT
    assert server.asked(PATH) == ["bytes=20000-"]
    # A complete file is not requested again; a wrong one is.
    downloaded(server, tmp_path)
    assert len(server.asked(PATH)) == 1
    (tmp_path / "train.parquet").write_bytes(CONTENT[:-1] + b"?")
    assert downloaded(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked(PATH)) == 2


def test_a_file_that_does_not_have_its_digest(server: WebServer, tmp_path: Path) -> None:
    server.add_data_set("a/b", {"train.parquet": CONTENT})
    server.pages[PATH].content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=r"/train\.parquet has the SHA256 .*, expected .*It was deleted"):
        downloaded(server, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".parquet", ".part")]


def test_a_gated_data_set_whose_list_of_files_is_public(server: WebServer, tmp_path: Path) -> None:
    server.add_data_set("a/b", {"train.parquet": CONTENT})
    server.pages[PATH] = Page(b"", 403, {"X-Error-Code": "GatedRepo"})
    with pytest.raises(ConfigError, match="asks for the acceptance of its terms"):
        downloaded(server, tmp_path)


def test_the_token_is_sent_but_not_shown(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sent: list[str | None] = []
    get = resumable_download.requests.get

    def spy(url: str, **options: dict[str, str]) -> object:
        sent.append(options["headers"].get("Authorization"))
        return get(url, **options)

    monkeypatch.setattr(resumable_download.requests, "get", spy)
    server.add_data_set("a/b", {"train.parquet": CONTENT})
    server.pages[PATH].content = b"?"
    with pytest.raises(DataError) as caught:
        downloaded(server, tmp_path)
    assert sent == ["Bearer hf_secret"]
    assert "hf_secret" not in f"{caught.value}{caplog.text}"
