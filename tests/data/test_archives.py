"""Archives are unpacked completely or not at all, and never outside their folder."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from made_archives import make_tar, make_zip

from xtts_extend.data import archives
from xtts_extend.data.archives import is_archive, unpack
from xtts_extend.errors import DataError, DiskFullError

FILES = {"ሰላም/a b.wav": b"1" * 5000, "ሰላም/b.txt": "ዓለም".encode(), "empty.txt": b""}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("kind", ["tgz", "tar", "zip"])
def test_unpacking(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "any name"
    make_zip(archive, FILES) if kind == "zip" else make_tar(archive, FILES, "w:gz" if kind == "tgz" else "w")
    assert is_archive(archive)
    unpack(archive, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["any name", "out"]
    # Nothing is done again.
    archive.write_bytes(b"damaged")
    unpack(archive, tmp_path / "out", progress=False)


def test_what_is_not_an_archive(tmp_path: Path) -> None:
    xlsx = make_zip(tmp_path / "a.xlsx", {"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b""})
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a|b\n"))
    (tmp_path / "a.csv").write_bytes(b"a|b\n")
    (tmp_path / "empty.tar.gz").touch()
    names = ["a.csv.gz", "a.csv", "empty.tar.gz", "missing.zip", ".", "x" * 300, "\0"]
    assert [is_archive(path) for path in (xlsx, *(tmp_path / name for name in names))] == [False] * 8
    # What is left of an archive is not read as a table.
    for name, content in (("a.zip", b"PK\x03\x04rest"), ("a.TGZ", gzip.compress(b"a")[:9]), ("b", b"PK\x03\x04rest")):
        (tmp_path / name).write_bytes(content)
        assert is_archive(tmp_path / name) == (name != "b")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil", "..\\evil", "\\evil"])
@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_files_outside_the_folder_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    (make_zip if kind == "zip" else make_tar)(tmp_path / "in" / "a", {"good.txt": b"1", name: b"2"})
    with pytest.raises(DataError, match=r"contains '.*evil', which would be written outside its folder"):
        unpack(tmp_path / "in" / "a", tmp_path / "out" / "data", progress=False)
    assert not any("evil" in file for file in contents(tmp_path))
    assert not any((tmp_path / "out").rglob("good.txt"))


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_links_and_devices_are_skipped(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    archive = tmp_path / "a"
    if kind == "zip":
        make_zip(archive, {"good.txt": b"1"})
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr(link, "/etc/passwd")
        named = "link"
    else:
        with tarfile.open(archive, "w:gz") as tar:
            for name, entry_type in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("fifo", tarfile.FIFOTYPE)):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = entry_type, "/etc/passwd"
                tar.addfile(entry)
            inside = tarfile.TarInfo("link/below")
            inside.size = 1
            tar.addfile(inside, io.BytesIO(b"2"))
        named = "link, hard, fifo"
    unpack(archive, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == ({"good.txt": b"1"} if kind == "zip" else {"link/below": b"2"})
    assert f"Links and devices are not unpacked: {named}." in caplog.text


def test_absurd_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_LARGEST_BYTES", 1 << 20)
    zeros = {"zeros.wav": bytes(1 << 21)}
    for archive in (make_zip(tmp_path / "a.zip", zeros), make_tar(tmp_path / "a.tgz", zeros)):
        with pytest.raises(DataError, match=r"would unpack to at least 0\.0021 GB"):
            unpack(archive, tmp_path / "out", progress=False)
        assert not (tmp_path / "out").exists()


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "a.tgz", {"a": b"1" * 3000, "b": b"2" * 3000})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2000})())
    with pytest.raises(DiskFullError, match=r"\(at 'a'\) needs 3e-06 GB more on the disk"):
        unpack(archive, tmp_path / "out", progress=False)


def test_truncated_archives_are_recognized(tmp_path: Path) -> None:
    files = {f"{number}.wav": os.urandom(3000) for number in range(8)}
    for archive in (
        make_tar(tmp_path / "a.tar.gz", files), make_tar(tmp_path / "a.tar", files, "w"),
        make_zip(tmp_path / "a.zip", files),
    ):  # fmt: skip
        whole = archive.read_bytes()
        for size in (len(whole) // 2, len(whole) - 700 if archive.suffix != ".tar" else 4 * 3584):
            archive.write_bytes(whole[:size])
            with pytest.raises(DataError, match="is damaged, incomplete or encrypted"):
                unpack(archive, tmp_path / "out", progress=False)
            assert not (tmp_path / "out").exists()
            assert [path.name for path in tmp_path.glob(".out*")] == []


def test_a_damaged_byte_is_recognized(tmp_path: Path) -> None:
    for archive in (make_tar(tmp_path / "a.tar.gz", FILES), make_zip(tmp_path / "a.zip", FILES)):
        content = bytearray(archive.read_bytes())
        # The checksum at the end of gzip, or that of the first file in the directory of zip.
        position = -6 if archive.suffix == ".gz" else content.index(b"PK\x01\x02") + 16
        content[position] ^= 1
        archive.write_bytes(content)
        with pytest.raises(DataError, match="is damaged"):
            unpack(archive, tmp_path / "out", progress=False)


def test_empty_archives_are_refused(tmp_path: Path) -> None:
    for archive in (make_tar(tmp_path / "a.tar", {}, "w"), make_zip(tmp_path / "a.zip", {"__MACOSX/._a.wav": b"1"})):
        with pytest.raises(DataError, match="contains no files"):
            unpack(archive, tmp_path / "out", progress=False)


def test_names_of_zip_without_the_unicode_flag(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"ሰላም.wav": b"1"})
    content = archive.read_bytes()
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(signature) + offset
        content = content[:at] + b"\0\0" + content[at + 2 :]
    archive.write_bytes(content)
    unpack(archive, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {"ሰላም.wav": b"1"}


KILLED = """
import sys, time
from pathlib import Path
from xtts_extend.data import archives
write = archives._Unpacking._write
def slowly(self, member):
    write(self, member)
    print(member.name, flush=True)
    time.sleep(0.2 if self.files > 2 else 0)
archives._Unpacking._write = slowly
archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]), progress=False)
"""


def test_an_interruption_in_the_middle_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{number}.wav": os.urandom(1000) for number in range(6)}
    archive = make_tar(tmp_path / "a.tar.gz", files)
    written: list[int] = []

    def copy(source: io.BufferedIOBase, target: io.BufferedIOBase, length: int) -> None:
        written.append(target.write(source.read(1000 if len(written) < 3 else 500)))
        if len(written) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(archives.shutil, "copyfileobj", copy)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", progress=False)
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    partial = tmp_path / ".out.partial"
    assert contents(partial) == {name: files[name] for name in ("0.wav", "1.wav", "2.wav")}
    # Complete files are not written again.
    (partial / "0.wav").write_bytes(bytes(1000))
    unpack(archive, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == files | {"0.wav": bytes(1000)}


@pytest.mark.slow
def test_a_kill_while_unpacking(tmp_path: Path) -> None:
    files = {f"{number}.wav": os.urandom(1000) for number in range(20)}
    archive = make_tar(tmp_path / "a.tar.gz", files)
    command = [sys.executable, "-c", KILLED, str(archive), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        process.kill()
    assert not (tmp_path / "out").exists()
    kept = contents(tmp_path / ".out.partial")
    assert 3 <= len(kept) < 20
    # A file that was being written does not have its name yet.
    assert all(files[name] == content for name, content in kept.items())
    times = {name: (tmp_path / ".out.partial" / name).stat().st_mtime_ns for name in kept}
    time.sleep(0.01)
    unpack(archive, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == files
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == times


def test_later_files_replace_earlier_ones(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for content in (b"old", b"new"):
            entry = tarfile.TarInfo("a.txt")
            entry.size = 3
            tar.addfile(entry, io.BytesIO(content))
    unpack(archive, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {"a.txt": b"new"}
