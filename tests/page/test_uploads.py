"""Files from a browser: what is stored, what is refused, and that nothing is written outside of the project."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest

from xtts_extend.errors import ConfigError, DataError, DiskFullError, XttsExtendError
from xtts_extend.page import uploads
from xtts_extend.page.project import Project
from xtts_extend.page.uploads import store_data, store_recordings, store_voices

LIMIT = 1_000_000


@pytest.fixture
def project(tmp_path) -> Project:
    return Project.open(tmp_path / "ፕሮጀክት one" / "project")


def files_in(folder: Path) -> dict[str, bytes]:
    """Return name → content of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archive(path: Path, *members: str | zipfile.ZipInfo, content: bytes = b"a|b\n", compression: int = 8) -> Path:
    """Write a zip archive with members of the same content."""
    with zipfile.ZipFile(path, "w", compression) as written:
        for member in members:
            written.writestr(member, content)
    return path


def named(name: str, mode: int) -> zipfile.ZipInfo:
    """Return a member with a name as it is, and a type."""
    member = zipfile.ZipInfo("x")
    member.filename = name
    member.external_attr = mode << 16
    return member


def test_files_are_stored_by_their_kind(project, tmp_path):
    file = tmp_path / "upload"
    file.write_bytes(b"content")
    packed = archive(tmp_path / "zip", "more/አንድ.wav", "more/val.csv", "__MACOSX/more/._val.csv", "more/.DS_Store")
    given = [(file, "train.csv"), (file, "ሁለት.WAV"), (packed, "more.zip")]
    assert store_data(project, given, LIMIT) == ["train.csv", "wavs/ሁለት.WAV", "more/አንድ.wav", "more/val.csv"]
    assert store_voices(project, [(file, "voice.flac")]) == ["voice.flac"]
    stored = files_in(project.folder)
    stored.pop("project.json")
    assert stored == {
        "data/train.csv": b"content",
        "data/wavs/ሁለት.WAV": b"content",
        "data/more/አንድ.wav": b"a|b\n",
        "data/more/val.csv": b"a|b\n",
        "voices/voice.flac": b"content",
    }


def test_long_recordings_are_stored_with_their_texts(project, tmp_path):
    file = tmp_path / "upload"
    file.write_bytes(b"content")
    packed = archive(tmp_path / "zip", "አና/talk.mp3", "አና/talk.srt", "__MACOSX/አና/._talk.mp3")
    given = [(file, "film.MKV"), (file, "film.am.vtt"), (file, "book.txt"), (packed, "more.zip")]
    names = ["film.MKV", "film.am.vtt", "book.txt", "አና/talk.mp3", "አና/talk.srt"]
    assert store_recordings(project, given, LIMIT) == names
    assert sorted(files_in(project.folder / "recordings")) == sorted(names)
    with pytest.raises(DataError, match=r"'train\.csv' is neither a recording nor a text that can belong to one"):
        store_recordings(project, [(file, "train.csv")], LIMIT)
    with pytest.raises(DataError, match=r"'film\.MKV' already exists"):
        store_recordings(project, [(file, "film.MKV")], LIMIT)


def test_archives_of_voices_are_refused(project, tmp_path):
    with pytest.raises(DataError, match=r"'a\.zip' is not a recording"):
        store_voices(project, [(archive(tmp_path / "zip", "a.wav"), "a.zip")])


HOSTILE_NAMES = [
    "", ".", "..", "../x.csv", "../../../x.csv", "/etc/x.csv", "..\\x.csv", "C:\\x.csv", "C:x.csv", "a/b.csv",
    "x\0.csv", "x\n.csv", "\ud800.csv", ".hidden.csv", "-rf.csv", "--output=x.csv", "$(touch pwned).csv", "`id`.csv",
    "; rm -rf x.csv", "|id.csv", "x.csv ", "x.csv.", "con.csv", "NUL", "a" * 300 + ".csv", "ሀ" * 90 + ".csv",
    "x\u202egpj.csv", "<b>.csv", "x.exe", "x.py", "x", "project.json/..", "x.pth",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
@pytest.mark.parametrize(
    "store",
    [
        lambda project, files: store_data(project, files, LIMIT),
        lambda project, files: store_recordings(project, files, LIMIT),
        store_voices,
    ],
    ids=["data", "recordings", "voices"],
)
def test_hostile_names_are_refused(project, tmp_path, name, store):
    file = tmp_path / "upload"
    file.write_bytes(b"x")
    before = files_in(tmp_path)
    with pytest.raises((ConfigError, DataError)):
        store(project, [(file, name)])
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["../x.csv", "a/../../x.csv", "/etc/x.csv", "C:/x.csv", "..\\x.csv", "a//x.csv", "a/./x.csv", "wavs/../../x.csv",
     "~/x.csv", "\\\\server\\x.csv", "con/x.csv", "a/x.py", "corrections.jsonl/../../x.csv"],
)  # fmt: skip
def test_hostile_archives_are_refused_as_a_whole(project, tmp_path, name):
    packed = archive(tmp_path / "zip", "good.csv", named(name, 0o100644))
    before = files_in(tmp_path)
    for store in (store_data, store_recordings):
        with pytest.raises((ConfigError, DataError)):
            store(project, [(packed, "a.zip")], LIMIT)
        assert files_in(tmp_path) == before


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFLNK | 0o777])
def test_links_in_archives_are_refused(project, tmp_path, kind):
    packed = archive(tmp_path / "zip", "good.csv", named("link.csv", kind), content=b"/etc/passwd")
    with pytest.raises(DataError, match=r"contains a symbolic link \(link.csv\)"):
        store_data(project, [(packed, "a.zip")], LIMIT)
    assert files_in(project.folder).keys() == {"project.json"}


def test_nothing_is_written_through_links_that_lead_out(project, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (project.folder / "data" / "wavs").symlink_to(outside, target_is_directory=True)
    (project.folder / "data" / "train.csv").symlink_to(outside / "train.csv")
    file = tmp_path / "upload"
    file.write_bytes(b"x")
    with pytest.raises(DataError, match="outside the project"):
        store_data(project, [(file, "a.wav")], LIMIT)
    with pytest.raises(DataError, match="already exists"):
        store_data(project, [(file, "train.csv")], LIMIT)
    with pytest.raises(DataError, match="outside the project"):
        store_data(project, [(archive(tmp_path / "zip", "wavs/sub/a.wav"), "a.zip")], LIMIT)
    assert list(outside.iterdir()) == []


def test_an_archive_that_is_refused_late_leaves_nothing(project, tmp_path):
    (project.folder / "data" / "old.csv").write_bytes(b"old")
    packed = archive(tmp_path / "zip", "new.csv", "old.csv")
    with pytest.raises(DataError, match="'old.csv' already exists"):
        store_data(project, [(packed, "a.zip")], LIMIT)
    assert files_in(project.folder / "data") == {"old.csv": b"old"}


def test_several_files_of_one_name_are_refused(project, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        packed = archive(tmp_path / "zip", "a.csv", "a.csv")
    for given in (packed, archive(tmp_path / "zip2", "a.csv", "A.CSV")):
        with pytest.raises(DataError, match="several files with the same name"):
            store_data(project, [(given, "a.zip")], LIMIT)
    assert files_in(project.folder / "data") == {}


def damaged_in_the_middle() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("first.csv", b"a|b\n")
        written.writestr("second.csv", bytes(range(256)) * 100)
    content = bytearray(buffer.getvalue())
    start = content.index(b"second.csv") + len(b"second.csv")
    content[start : start + 60] = b"\xff" * 60
    return bytes(content)


def that_says_a_smaller_size() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("first.csv", b"a|b\n")
        written.writestr("bomb.csv", b"0" * 50_000_000)
    return buffer.getvalue().replace((50_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))


@pytest.mark.parametrize("make", [damaged_in_the_middle, that_says_a_smaller_size, lambda: b"", lambda: b"PK\5\6" * 9])
def test_damaged_archives_are_refused_and_leave_nothing(project, tmp_path, make):
    file = tmp_path / "zip"
    file.write_bytes(make())
    with pytest.raises(DataError, match=r"'a\.zip' (is not a zip archive|has no files)"):
        store_data(project, [(file, "a.zip")], LIMIT)
    assert files_in(project.folder / "data") == {}


def test_a_bomb_is_refused_by_its_size(project, tmp_path):
    packed = archive(tmp_path / "zip", "a.csv", content=b"0" * 50_000_000)
    assert packed.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"unpacks to 0\.1 GB, but at most 0\.0 GB are allowed"):
        store_data(project, [(packed, "a.zip")], LIMIT)
    assert files_in(project.folder / "data") == {}


def test_too_many_files_are_refused(project, tmp_path, monkeypatch):
    assert uploads._MOST_FILES == 50_000
    # Writing an archive with that many files takes seconds.
    monkeypatch.setattr(uploads, "_MOST_FILES", 1000)
    packed = archive(tmp_path / "zip", *(f"{number}.csv" for number in range(1001)), content=b"", compression=0)
    with pytest.raises(DataError, match="contains 1,001 files, but at most 1,000 are allowed"):
        store_data(project, [(packed, "a.zip")], LIMIT)
    assert files_in(project.folder / "data") == {}


def test_an_archive_is_not_unpacked_onto_a_full_disk(project, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3}))
    with pytest.raises(DiskFullError, match="the disk has too little free space"):
        store_data(project, [(archive(tmp_path / "zip", "a.csv"), "a.zip")], LIMIT)


def test_an_upload_that_vanished_is_said(project, tmp_path):
    with pytest.raises(XttsExtendError, match="Upload it again"):
        store_data(project, [(tmp_path / "gone", "a.csv")], LIMIT)
    with pytest.raises(XttsExtendError, match="Upload it again"):
        store_data(project, [(tmp_path / "gone", "a.zip")], LIMIT)
