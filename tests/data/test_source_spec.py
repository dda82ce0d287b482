"""Names of data sets: on the hub, URLs, archives and folders of Parquet files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from made_archives import fleurs, make_tar, make_zip

from xtts_extend.data.manifest import split_source
from xtts_extend.data.source_spec import DataSource, SourceKind, choose_split, is_remote, parse_source
from xtts_extend.errors import ConfigError

SHA = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hf:google/fleurs", ("hub", "google/fleurs", "", "", "")),
        ("hf:google/fleurs/am_et", ("hub", "google/fleurs", "am_et", "", "")),
        ("hf:google/fleurs@test", ("hub", "google/fleurs", "", "test", "")),
        ("hf:a-b/c.d_1/x/y@dev", ("hub", "a-b/c.d_1", "x/y", "dev", "")),
        ("https://x.org/a.tar.gz", ("url", "https://x.org/a.tar.gz", "", "", "")),
        ("https://x.org/a.tar.gz@dev", ("url", "https://x.org/a.tar.gz", "", "dev", "")),
        ("https://me@x.org/a.tar.gz", ("url", "https://me@x.org/a.tar.gz", "", "", "")),
        ("HTTP://x.org:80/d?id=5", ("url", "HTTP://x.org:80/d?id=5", "", "", "")),
        (f"https://x.org/a.zip#sha256={SHA.upper()}", ("url", "https://x.org/a.zip", "", "", f"sha256={SHA}")),
        (f"https://x.org/a.zip@dev#md5={SHA[:32]}", ("url", "https://x.org/a.zip", "", "dev", f"md5={SHA[:32]}")),
        (f"https://x.org/a.zip#sha256={SHA}@dev", ("url", "https://x.org/a.zip", "", "dev", f"sha256={SHA}")),
        ("train.csv", None),
        ("C:\\data\\train.csv", None),
    ],
)
def test_names(spec: str, expected: tuple[str, ...] | None) -> None:
    source = parse_source(spec)
    assert source == (expected and DataSource(SourceKind(expected[0]), *expected[1:]))
    assert is_remote(spec) == (expected is not None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:fleurs", "'hf:fleurs' is not the name of a data set on the hub. Expected hf:USER/NAME"),
        ("hf:a/b@", "is not the name"),
        ("hf:a/../b", "is not the name"),
        ("hf:a/b c", "is not the name"),
        ("https://", "is not a URL"),
        ("https:///a.zip", "is not a URL"),
        ("https://[x/a.zip", "is not a URL"),
        ("https://x.org/a.zip#sha256=12", "Expected #sha256= followed by 64 hexadecimal digits"),
        ("https://x.org/a.zip#crc=12", "ends in #crc=12"),
    ],
)
def test_malformed_names(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_source(spec)


def test_local_archives_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "my data ሰላም"
    archive = make_tar(folder / "a.bin", {"a.txt": b"1"})
    assert parse_source(str(archive)) == DataSource(SourceKind.ARCHIVE, str(archive))
    assert parse_source(f"{archive}@dev") == DataSource(SourceKind.ARCHIVE, str(archive), split="dev")
    assert parse_source(f"{archive}@a/b") is None
    assert parse_source(str(folder)) is None
    fleurs(folder / "sub" / "train.parquet", ["one"])
    assert parse_source(f"{folder}@test") == DataSource(SourceKind.PARQUET, str(folder), split="test")
    # A file of that name comes first.
    literal = make_zip(folder / "a.bin@dev", {"b.txt": b"1"})
    assert parse_source(f"{archive}@dev") == DataSource(SourceKind.ARCHIVE, str(literal))
    (folder / "train.csv").write_text("a|b")
    assert parse_source(str(folder / "train.csv")) is None


@pytest.mark.parametrize(
    ("spec", "location", "language"),
    [
        ("hf:google/fleurs/am_et@train:am", "google/fleurs", "am"),
        ("hf:google/fleurs:am", "google/fleurs", "am"),
        ("https://x.org:8080/a.zip", "https://x.org:8080/a.zip", None),
        ("https://x.org:8080/a.zip@dev:am", "https://x.org:8080/a.zip", "am"),
    ],
)
def test_languages_after_names(spec: str, location: str, language: str | None) -> None:
    source, code = split_source(spec)
    assert source is not None
    assert (source.location, code) == (location, language)


def test_secrets_are_in_neither_name_nor_folder() -> None:
    plain = parse_source("https://x.org/a.tar.gz?id=7")
    signed = parse_source("https://me:pw@x.org/a.tar.gz?id=7&X-Amz-Signature=abc&Expires=9&token=t@dev")
    assert plain is not None
    assert signed is not None
    assert str(signed) == "https://x.org/a.tar.gz?id=7@dev"
    # The link of tomorrow, and another split, are the same archive; another query is not.
    assert signed.folder_name == plain.folder_name
    assert plain.folder_name.startswith("a-tar-gz-")
    other = parse_source("https://x.org/a.tar.gz?id=8")
    assert other is not None
    assert other.folder_name != plain.folder_name


def test_changed_local_files_have_another_folder(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", {"a.txt": b"1"})
    source = DataSource(SourceKind.ARCHIVE, str(archive))
    before = source.folder_name
    assert source.folder_name == before
    os.utime(archive, ns=(0, 0))
    assert source.folder_name != before


@pytest.mark.parametrize(
    ("splits", "wanted", "chosen"),
    [
        (("train", "test"), "", "train"),
        (("test",), "", "test"),
        (("train", "dev"), "validation", "dev"),
        (("train", "validation"), "dev", "validation"),
        (("dev", "validation"), "dev", "dev"),
        (("Train", "test"), "", "Train"),
    ],
)
def test_choosing_a_split(splits: tuple[str, ...], wanted: str, chosen: str) -> None:
    assert choose_split({name: name for name in splits}, wanted, "hf:a/b") == chosen


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"hf:a/b has no split 'x'\. Its splits are: test, dev\. .*as in @test"):
        choose_split({"test": 1, "dev": 2}, "x", "hf:a/b")
    with pytest.raises(ConfigError, match=r"several splits, but none called train.*\(12 in total\)"):
        choose_split({str(number): number for number in range(12)}, "", "hf:a/b")
