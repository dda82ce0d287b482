"""Corrections are appended, the last one counts, originals stay, and jobs read a corrected copy."""

import json
import os
import time

import pytest

from xtts_extend.data.manifest import read_manifest
from xtts_extend.errors import DataError, MachineError
from xtts_extend.page import corrections
from xtts_extend.page.corrections import add_correction, apply, corrections_of, row, rows
from xtts_extend.page.project import Project, Settings

TEXTS = ["ሰላም ለዓለም።", "እንዴት ነህ", "ደህና ነኝ", "አንድ, ሁለት"]


@pytest.fixture
def project(tmp_path):
    made = Project.open(tmp_path / "ፕሮጀክት one")
    made.save(Settings("am", ""))
    return made


@pytest.fixture
def manifest(project):
    folder = project.folder / "data" / "my set"
    (folder / "wavs").mkdir(parents=True)
    lines = ["audio_file|text|speaker_name"]
    for number, text in enumerate(TEXTS):
        (folder / "wavs" / f"{number}.wav").touch()
        lines.append(f"wavs/{number}.wav|{text}|voice")
    (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "train.csv"


def test_nothing_corrected_is_the_original(project, manifest):
    applied = apply(project, manifest)
    assert applied == corrections.Applied(manifest)
    assert applied.describe() == "train.csv is used without changes."
    assert not any((project.folder / "prepared").iterdir())


def test_edits_and_drops(project, manifest):
    before = manifest.read_bytes()
    add_correction(project, manifest, "wavs/0.wav", text="first")
    add_correction(project, manifest, "wavs/0.wav", text=" ሰላም\nዓለም ")
    add_correction(project, manifest, "wavs/2.wav", drop=True)
    add_correction(project, manifest, "wavs/9.wav", drop=True)
    applied = apply(project, manifest)
    assert manifest.read_bytes() == before
    assert applied.manifest == project.folder / "prepared" / "my set - train.csv"
    assert (applied.edited, applied.dropped, applied.unmatched) == (1, 1, ("wavs/9.wav",))
    assert applied.describe() == (
        "my set - train.csv: texts edited: 1, recordings left out: 1. "
        "Corrections that no longer match a row (1): wavs/9.wav."
    )
    samples = read_manifest(str(applied.manifest), "am")
    assert [sample.text for sample in samples] == ["ሰላም ዓለም", *TEXTS[1:2], *TEXTS[3:]]
    originals = {sample.audio_file for sample in read_manifest(str(manifest), "am")}
    assert originals >= {sample.audio_file for sample in samples}
    lines = [json.loads(line) for line in (project.folder / "data/corrections.jsonl").read_bytes().splitlines()]
    assert [set(line) - {"time"} for line in lines[1:3]] == [
        {"manifest", "audio_file", "text"},
        {"manifest", "audio_file", "drop"},
    ]
    assert {line["manifest"] for line in lines} == {"my set/train.csv"}


def test_the_last_line_counts_and_can_undo(project, manifest):
    add_correction(project, manifest, "wavs/0.wav", drop=True)
    add_correction(project, manifest, "wavs/0.wav", text="back")
    assert not row(project, manifest, 0).is_dropped
    assert row(project, manifest, 0).text == "back"
    add_correction(project, manifest, "wavs/0.wav")
    assert corrections_of(project, manifest) == {}
    assert apply(project, manifest).manifest == manifest


def test_an_edit_to_the_same_text_is_no_edit(project, manifest):
    add_correction(project, manifest, "wavs/0.wav", text=TEXTS[0])
    assert apply(project, manifest).manifest == manifest
    assert not row(project, manifest, 0).is_corrected


@pytest.mark.parametrize(
    "damage",
    [
        b'{"manifest": "my set/train.csv", "audio_f',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"[1]\n",
        b"\n\n",
        b"3\n",
        b'{"manifest": 1, "audio_file": []}\n',
        b'{"manifest": "my set/train.csv", "audio_file": "wavs/1.wav", "text": 5}\n',
    ],
)
def test_damaged_lines_are_skipped(project, manifest, damage):
    add_correction(project, manifest, "wavs/0.wav", text="before")
    with (project.folder / "data/corrections.jsonl").open("ab") as file:
        file.write(damage)
    add_correction(project, manifest, "wavs/2.wav", text="after")
    found = corrections_of(project, manifest)
    assert {name: correction.text for name, correction in found.items()} == {
        "wavs/0.wav": "before",
        "wavs/2.wav": "after",
    }


def test_manifests_of_one_name_are_apart(project, manifest):
    other = project.folder / "data" / "train.csv"
    other.write_bytes(manifest.read_bytes())
    add_correction(project, other, "wavs/0.wav", text="other")
    assert corrections_of(project, manifest) == {}
    assert corrections_of(project, other)["wavs/0.wav"].text == "other"


def test_rows_are_paged(project, manifest):
    add_correction(project, manifest, "wavs/1.wav", text="new")
    add_correction(project, manifest, "wavs/2.wav", drop=True)
    found, total = rows(project, manifest, 1, 2)
    assert total == 4
    assert [(one.number, one.audio_file, one.text, one.original, one.is_dropped) for one in found] == [
        (1, "wavs/1.wav", "new", TEXTS[1], False),
        (2, "wavs/2.wav", TEXTS[2], TEXTS[2], True),
    ]
    assert found[0].path == manifest.parent / "wavs" / "1.wav"
    assert rows(project, manifest, 4, 2) == ([], 4)
    assert len(rows(project, manifest, -5, 99)[0]) == 4
    for number in (-1, 4):
        with pytest.raises(DataError, match="Number of rows: 4"):
            row(project, manifest, number)


def test_what_coquis_columns_cannot_represent_becomes_json(project, manifest):
    add_correction(project, manifest, "wavs/0.wav", text="a | b")
    applied = apply(project, manifest)
    assert applied.manifest.name == "my set - train.jsonl"
    assert read_manifest(str(applied.manifest), "am")[0].text == "a | b"


def test_languages_of_rows_are_kept(project):
    manifest = project.folder / "data" / "two.jsonl"
    manifest.write_text(
        '{"audio_file": "a.wav", "text": "ሰላም", "language": "am"}\n'
        '{"audio_file": "b.wav", "text": "hello", "language": "en"}\n',
        encoding="utf-8",
    )
    add_correction(project, manifest, "a.wav", text="አለም")
    applied = apply(project, manifest)
    assert [(one.language, one.text) for one in read_manifest(str(applied.manifest), "am")] == [
        ("am", "አለም"),
        ("en", "hello"),
    ]


def test_a_project_without_a_language(tmp_path, manifest):
    project = Project(manifest.parents[2])
    project.save(Settings())
    add_correction(project, manifest, "wavs/0.wav", text="new")
    applied = apply(project, manifest)
    assert applied.manifest.suffix == ".csv"
    assert {one.language for one in read_manifest(str(applied.manifest), "ti")} == {"ti"}


def test_all_left_out(project, manifest):
    for number in range(4):
        add_correction(project, manifest, f"wavs/{number}.wav", drop=True)
    with pytest.raises(DataError, match=r"All recordings in train.csv are left out \(4\)"):
        apply(project, manifest)


@pytest.mark.parametrize("text", ["", " \n\t", "\ud800"])
def test_texts_that_are_refused(project, manifest, text):
    with pytest.raises(DataError):
        add_correction(project, manifest, "wavs/0.wav", text=text)
    assert not (project.folder / "data/corrections.jsonl").exists()


def test_a_full_disk_is_said(project, manifest, monkeypatch):
    add_correction(project, manifest, "wavs/0.wav", text="kept")
    written = os.write
    monkeypatch.setattr(os, "write", lambda file, content: written(file, content[:9]))
    with pytest.raises(MachineError, match="the disk is full"):
        add_correction(project, manifest, "wavs/1.wav", text="lost")
    monkeypatch.undo()
    add_correction(project, manifest, "wavs/2.wav", text="later")
    assert [one.text for one in corrections_of(project, manifest).values()] == ["kept", "later"]


def test_files_that_cannot_be_read(project, manifest):
    with pytest.raises(DataError, match="cannot be read"):
        rows(project, project.folder / "data" / "gone.csv")
    (project.folder / "data" / "empty.csv").touch()
    with pytest.raises(DataError, match="is empty"):
        rows(project, project.folder / "data" / "empty.csv")
    (project.folder / "data" / "corrections.jsonl").mkdir()
    with pytest.raises(MachineError, match="corrections.jsonl"):
        rows(project, manifest)
    with pytest.raises(MachineError, match="could not be written"):
        add_correction(project, manifest, "wavs/0.wav", text="x")


def test_a_large_manifest_is_read_once(project, monkeypatch):
    reads, read = [], corrections.read_manifest
    monkeypatch.setattr(corrections, "read_manifest", lambda *given: reads.append(given) or read(*given))
    manifest = project.folder / "data" / "large.csv"
    manifest.write_text(
        "audio_file|text\n" + "".join(f"{number}.wav|text {number}\n" for number in range(20_000)), encoding="utf-8"
    )
    assert rows(project, manifest, 0, 1)[1] == 20_000
    began = time.perf_counter()
    (last,), _ = rows(project, manifest, 19_999, 1)
    assert time.perf_counter() - began < 0.1
    assert last.text == "text 19999"
    assert len(reads) == 1
    manifest.write_text("audio_file|text\na.wav|one\n", encoding="utf-8")
    assert rows(project, manifest)[1] == 1
