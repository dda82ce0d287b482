"""The table of texts in an unpacked archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_archives import clip, common_voice

from xtts_extend.data.archive_tables import find_table, prepare_tables
from xtts_extend.data.manifest import read_manifest
from xtts_extend.errors import ConfigError, DataError


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files, prepare their tables, and return the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    prepare_tables(folder)
    return folder


def rows(table: Path | None) -> list[tuple[str, str, str]]:
    """Return the recording, text and speaker of each row, with the recordings found."""
    assert table is not None
    samples = read_manifest(str(table), "am")
    assert all(Path(sample.audio_file).is_file() for sample in samples)
    return [(Path(sample.audio_file).name, sample.text, sample.speaker_name) for sample in samples]


def test_common_voice(tmp_path: Path) -> None:
    folder = put(tmp_path, common_voice())
    train = [("common_voice_am_1.mp3", "ሰላም ለዓለም።", "anna"), ("common_voice_am_2.mp3", "", "beth")]
    dev = [("common_voice_am_3.mp3", "ደህና ነኝ።", "carl")]
    assert rows(find_table(folder, "", "x")) == train
    assert rows(find_table(folder, "validation", "x")) == dev
    assert rows(find_table(folder, "validated", "x")) == train + dev
    with pytest.raises(ConfigError, match=r"x has no split 'test'\. Its splits are: dev, train, validated\."):
        find_table(folder, "test", "x")


def test_several_languages_in_one_archive(tmp_path: Path) -> None:
    folder = put(tmp_path, common_voice("cv/am") | common_voice("cv/ti"))
    with pytest.raises(ConfigError, match=r"contains several tables: cv/am/dev.tsv, .*unpacked in .*pass one of them"):
        find_table(folder, "", "x")


def test_line_index_of_openslr(tmp_path: Path) -> None:
    # Speakers are part of the ids; some tables have an empty column; and there may be one table for women and for men.
    table = "afr_0184_0123\t Goeie môre.\nafr_0185_77\tDankie.\n\nafr_1_1\tWeg.\n"
    folder = put(
        tmp_path,
        {
            "af_za/za/afr/line_index.tsv": table.encode(),
            "af_za/za/afr/wavs/afr_0184_0123.wav": clip(0),
            "af_za/za/afr/wavs/afr_0185_77.wav": clip(1),
            "line_index_male.tsv": "ml 3\t\tനന്ദി\n".encode(),
            "male/ml 3.wav": clip(2),
            "LICENSE": b"CC BY-SA 4.0",
        },
    )
    assert rows(find_table(folder, "", "x")) == [
        ("ml 3.wav", "നന്ദി", "speaker"),
        ("afr_0184_0123.wav", "Goeie môre.", "afr_0184"),
        ("afr_0185_77.wav", "Dankie.", "afr_0185"),
    ]
    skipped = (folder / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in skipped] == [
        {"file": "af_za/za/afr/line_index.tsv", "row": 4, "reason": "the recording 'afr_1_1' is not in the archive"}
    ]


def test_utt_spk_text_of_openslr(tmp_path: Path) -> None:
    table = b"0a1b\tspk1\tsugeng\n0c2d\tspk2\tenjing\n"
    folder = put(tmp_path, {"asr/utt_spk_text.tsv": table, "asr/data/0a/0a1b.flac": clip(0, "FLAC")})
    assert rows(find_table(folder, "", "x")) == [("0a1b.flac", "sugeng", "spk1")]
    assert json.loads((folder / "skipped.jsonl").read_text())["row"] == 2


def test_unusable_tables_of_openslr(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: Expected columns separated by tabs, got 'b only'"):
        put(tmp_path / "a", {"line_index.tsv": b"a\tText\nb only\n", "a.wav": clip()})
    with pytest.raises(DataError, match=r"The recordings that line_index\.tsv names are not in"):
        put(tmp_path / "b", {"line_index.tsv": b"a\tText\n", "b.wav": clip()})
    with pytest.raises(DataError, match="not UTF-8"):
        put(tmp_path / "c", {"line_index.tsv": "a\tmôre\n".encode("latin-1"), "a.wav": clip()})


def test_other_tables(tmp_path: Path) -> None:
    lj = put(tmp_path / "lj", {"LJ/metadata.csv": b"a1|One.|One.\n", "LJ/wavs/a1.wav": clip(), "LJ/README": b"..."})
    assert rows(find_table(lj, "", "x")) == [("a1.wav", "One.", "speaker")]
    splits = put(tmp_path / "s", {"metadata_train.csv": b"a|b\n", "metadata_eval.csv": b"a|b\n", "wavs/a.wav": clip()})
    assert find_table(splits, "", "x") == splits / "metadata_train.csv"
    assert find_table(splits, "dev", "x") == splits / "metadata_eval.csv"
    two = put(tmp_path / "two", {"a.csv": b"a|b\n", "b.csv": b"a|b\n"})
    with pytest.raises(ConfigError, match=r"several tables: a\.csv, b\.csv"):
        find_table(two, "", "x")
    apart = put(tmp_path / "apart", {"am/train.csv": b"a|b\n", "ti/dev.csv": b"a|b\n"})
    with pytest.raises(ConfigError, match=r"several tables: am/train\.csv, ti/dev\.csv"):
        find_table(apart, "", "x")
    assert find_table(put(tmp_path / "none", {"talk.mp3": b"1", "talk.srt": b"2"}), "", "x") is None
