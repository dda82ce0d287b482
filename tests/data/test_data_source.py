"""From the name of a data set to samples: converted or unpacked once, with its license, for every command."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, FakeRepository, commit_of
from made_archives import clip, common_voice, fleurs, make_tar, make_zip
from web_server import Page, WebServer, serving

from xtts_extend.data import data_source, parquet_set, resumable_download
from xtts_extend.data.data_source import LocalData, resolve_source
from xtts_extend.data.manifest import read_manifest
from xtts_extend.data.sample import Sample
from xtts_extend.data.source_spec import parse_source
from xtts_extend.errors import ConfigError, DataError, MachineError


@pytest.fixture(scope="module")
def shared_server() -> Iterator[WebServer]:
    """One server for all tests."""
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def server(shared_server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    """The server without pages; the cache is in `cache`."""
    shared_server.pages.clear()
    shared_server.requests.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(resumable_download, "_BETWEEN_ATTEMPTS_S", 0.0)
    monkeypatch.setattr(resumable_download, "_BLOCK", 1000)
    data_source._log_once.cache_clear()
    return shared_server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder for data sets in the user's cache."""
    return tmp_path / "cache" / "xtts_extend" / "sources"


def resolve(spec: str, cache: Path | None = None) -> LocalData:
    """Resolve a data set by its name."""
    source = parse_source(spec)
    assert source is not None
    return resolve_source(source, cache, progress=False)


def texts(samples: list[Sample]) -> list[tuple[str, str, str]]:
    """Return text, speaker and language of samples whose recordings exist."""
    assert all(Path(sample.audio_file).is_file() for sample in samples)
    return [(sample.text, sample.speaker_name, sample.language) for sample in samples]


def test_a_data_set_of_the_hub(hub: FakeHub, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "am_et/train/0000.parquet": fleurs(tmp_path / "0", ["ሰላም", "ዓለም"], without_audio=[1]),
        "am_et/train/0001.parquet": fleurs(tmp_path / "1", ["ደህና"], start=5),
        "am_et/validation/0000.parquet": fleurs(tmp_path / "2", ["ነኝ"], start=9),
    }
    hub.repositories["datasets/google/fleurs"] = FakeRepository(
        {"fleurs.py": b""}, {"refs/convert/parquet": files}, card={"license": "cc-by-4.0"}
    )
    caplog.set_level(logging.INFO, "trainer")
    train = read_manifest("hf:google/fleurs/am_et", "am")
    assert texts(train) == [("ሰላም", "speaker", "am"), ("ደህና", "speaker", "am")]
    assert [Path(sample.audio_file).read_bytes() for sample in train] == [clip(0), clip(5)]
    assert texts(read_manifest("hf:google/fleurs/am_et@dev:am", None)) == [("ነኝ", "speaker", "am")]
    folder = next(path for path in cache.iterdir() if len(list(path.rglob("*.wav"))) == 2)
    assert folder.name.startswith("google-fleurs-am-et-")
    record = json.loads((folder / "SOURCE.json").read_text())
    assert {key: record[key] for key in ("source", "url", "revision", "license")} == {
        "source": "hf:google/fleurs/am_et",
        "url": f"{hub.address}/datasets/google/fleurs",
        "revision": commit_of(files),
        "license": "cc-by-4.0",
    }
    assert record["date"].startswith("20")
    # The Parquet files are not kept.
    assert not list(cache.rglob("*.parquet"))
    # The second time, nothing is asked; the license is logged once, and the skipped row each time.
    hub.requests.clear()
    assert read_manifest("hf:google/fleurs/am_et", "am") == train
    assert hub.requests == []
    assert caplog.text.count("hf:google/fleurs/am_et is in") == 1
    assert caplog.text.count("License: cc-by-4.0.") == 2
    assert caplog.text.count("am_et/train/0000.parquet, row 2: there is no recording") == 2


def test_an_interrupted_download_keeps_its_revision(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"data/train-0000{number}-of-00002.parquet" for number in range(2)]
    old = {name: fleurs(tmp_path / "f", [f"old {number}"], start=number) for number, name in enumerate(names)}
    repository = hub.repositories["datasets/a/b"] = FakeRepository(old)
    convert, count = parquet_set._convert, []

    def stop_at_the_second(*arguments: object) -> None:
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        convert(*arguments)

    monkeypatch.setattr(parquet_set, "_convert", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        read_manifest("hf:a/b", "am")
    monkeypatch.setattr(parquet_set, "_convert", convert)
    new = {name: fleurs(tmp_path / "f", [f"new {number}"], start=9) for number, name in enumerate(names)}
    repository.files, repository.branches["old"] = new, old
    hub.requests.clear()
    assert [sample.text for sample in read_manifest("hf:a/b", "am")] == ["old 0", "old 1"]
    # The first file is converted, and the second was complete.
    assert hub.requests == []


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    folder = tmp_path / "my set"
    fleurs(folder / "data" / "train-00000-of-00001.parquet", ["ሰላም"])
    fleurs(folder / "data" / "test-00000-of-00001.parquet", ["ዓለም"], start=1)
    (folder / "README.md").write_text('---\nlanguage: am\nlicense:\n- "cc-by-4.0"\n---\nlicense: none\n')
    (folder / "LICENSE").write_text("CC BY 4.0")
    assert [sample.text for sample in read_manifest(f"{folder}:am", None)] == ["ሰላም"]
    assert [sample.text for sample in read_manifest(f"{folder}@test:am", None)] == ["ዓለም"]
    record = resolve(str(folder)).record
    assert (record.license, record.license_files, record.revision) == ("cc-by-4.0", (str(folder / "LICENSE"),), "")
    # A changed file is converted again.
    fleurs(folder / "data" / "train-00000-of-00001.parquet", ["ደህና", "ነኝ"])
    assert [sample.text for sample in read_manifest(str(folder), "am")] == ["ደህና", "ነኝ"]
    with pytest.raises(ConfigError, match="has no split 'x'"):
        read_manifest(f"{folder}@x", "am")


def test_common_voice_from_a_web_server(server: WebServer, tmp_path: Path, cache: Path) -> None:
    content = make_tar(tmp_path / "a", common_voice() | {"cv-corpus-24.0-2025-12-05/LICENSE.txt": b"CC0"}).read_bytes()
    server.pages["/cv am.tar.gz"] = Page(content, headers={"ETag": '"1"'}, breaks=[2000])
    digest = hashlib.sha256(content).hexdigest()
    url = f"{server.url}/cv%20am.tar.gz?X-Amz-Signature=secret"
    train = texts(read_manifest(f"{url}#sha256={digest}", "am"))
    assert train == [("ሰላም ለዓለም።", "anna", "am"), ("", "beth", "am")]
    assert server.asked("/cv am.tar.gz") == ["", "bytes=2000-"]
    (folder,) = cache.iterdir()
    record = json.loads((folder / "SOURCE.json").read_text())
    assert record["license_files"] == ["cv-corpus-24.0-2025-12-05/LICENSE.txt"]
    assert record["revision"] == digest
    assert record["url"] == f"{server.url}/cv%20am.tar.gz"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "SOURCE.json", "data"]
    # Another split of the archive, after the link has expired.
    server.pages.clear()
    dev = texts(read_manifest(f"{server.url}/cv%20am.tar.gz@dev#sha256={digest}:am", None))
    assert dev == [("ደህና ነኝ።", "carl", "am")]


def test_openslr_from_a_local_archive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trainer")
    files = {"line_index.tsv": "suf_00297_01\tWilujeng énjing\n".encode(), "wavs/suf_00297_01.wav": clip(), "x": b""}
    archive = make_zip(tmp_path / "su ሰላም.zip", files)
    assert texts(read_manifest(f"{archive}:su", None)) == [("Wilujeng énjing", "suf_00297", "su")]
    assert archive.is_file()
    assert "Its license is not stated in the data" in caplog.text


def test_a_damaged_archive_of_a_server_is_downloaded_again(server: WebServer, tmp_path: Path, cache: Path) -> None:
    whole = make_tar(tmp_path / "a", common_voice()).read_bytes()
    server.pages["/a.tar.gz"] = Page(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"is damaged, incomplete or encrypted"):
        read_manifest(f"{server.url}/a.tar.gz", "am")
    assert not list(cache.rglob("SOURCE.json"))
    server.pages["/a.tar.gz"] = Page(whole)
    assert len(read_manifest(f"{server.url}/a.tar.gz", "am")) == 2


@pytest.mark.parametrize("content", [b"plain text", b"%PDF-1.4"])
def test_another_file_than_an_archive(server: WebServer, content: bytes) -> None:
    server.pages["/a.tar.gz"] = Page(content)
    with pytest.raises(DataError, match=r"is not a \.zip, \.tar or \.tar\.gz archive\. It was deleted"):
        read_manifest(f"{server.url}/a.tar.gz", "am")


def test_an_archive_without_a_table(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"talk.wav": clip(), "talk.txt": b"Hello"})
    with pytest.raises(DataError, match=r"contains no table of texts, such as train\.tsv.* for make-dataset"):
        read_manifest(str(archive), "am")
    assert resolve(str(archive)).manifest is None


def test_an_unfinished_data_set_is_finished(tmp_path: Path, cache: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", common_voice())
    local = resolve(str(archive))
    record = local.folder.parent / "SOURCE.json"
    for damage in ("", "[]", '{"source": 1}'):
        record.write_text(damage)
        assert resolve(str(archive)) == LocalData(local.folder, local.manifest, resolve(str(archive)).record)
    assert json.loads(record.read_text())["source"] == str(archive)


def test_two_processes_prepare_a_data_set_once(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a.tar.gz"] = Page(make_tar(tmp_path / "a", common_voice()).read_bytes())
    found: list[LocalData] = []
    threads = [threading.Thread(target=lambda: found.append(resolve(f"{server.url}/a.tar.gz"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(server.asked("/a.tar.gz")) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", common_voice())
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(MachineError, match="cannot be written"):
        resolve(str(archive))


def test_a_file_in_place_of_the_cache(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", common_voice())
    (tmp_path / "cache").touch()
    with pytest.raises(ConfigError, match="is a file; expected a folder"):
        resolve(str(archive))
