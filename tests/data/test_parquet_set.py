"""Data sets in Parquet: which files belong to a split, and what they are converted to."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from made_archives import AUDIO, clip, fleurs, write_parquet

from xtts_extend.data.manifest import read_manifest
from xtts_extend.data.parquet_set import ParquetSplit, choose_parquet_split, convert_parquet, find_splits
from xtts_extend.errors import ConfigError, DataError


def convert(folder: Path, names: list[str], out: Path) -> list[str]:
    """Convert Parquet files in a folder, and return the names of those that were read."""
    read: list[str] = []

    def fetch(name: str) -> Path:
        read.append(name)
        return folder / name

    convert_parquet(names, fetch, lambda path: None, out, progress=False)
    return read


@pytest.mark.parametrize(
    ("name", "config", "split"),
    [
        ("am_et/train/0000.parquet", "am_et", "train"),
        ("am_et/partial-train/0003.parquet", "am_et", "train"),
        ("am_et/partial-validated/0003.parquet", "am_et", "validated"),
        ("data/train-00000-of-00002.parquet", "", "train"),
        ("data/test-00000-of-00001-0123456789abcdef.parquet", "", "test"),
        ("data/am/validation-00000-of-00001.parquet", "am", "validation"),
        ("am_et/fleurs-train.parquet", "am_et", "train"),
        ("validated-00000-of-00009.parquet", "", "validated"),
        ("train.parquet", "", "train"),
        ("0000.parquet", "", "train"),
        ("a/b/dev_1.parquet", "a/b", "dev"),
    ],
)
def test_configurations_and_splits_by_path(name: str, config: str, split: str) -> None:
    assert find_splits([name]) == [ParquetSplit(config, split, (name,))]


def test_files_of_a_split_are_in_order() -> None:
    names = [f"data/train-{number:05d}-of-00012.parquet" for number in (11, 2, 0)]
    assert [item.files for item in find_splits(names)] == [tuple(sorted(names))]


SPLITS = [ParquetSplit(config, split, (f"{config}/{split}",)) for config in ("am", "en") for split in ("train", "dev")]


def test_choosing_a_configuration() -> None:
    assert choose_parquet_split(SPLITS, "en", "validation", "hf:a/b").files == ("en/dev",)
    assert choose_parquet_split(SPLITS[:2], "", "", "hf:a/b").files == ("am/train",)
    default = ParquetSplit("default", "train", ("x",))
    assert choose_parquet_split([*SPLITS, default], "", "", "hf:a/b") == default
    nested = [ParquetSplit(f"parquet/{item.config}", item.split, item.files) for item in SPLITS]
    assert choose_parquet_split(nested, "en", "dev", "hf:a/b").files == ("en/dev",)
    with pytest.raises(ConfigError, match=r"hf:a/b has several configurations: am, en\. .*as in hf:USER/NAME/am"):
        choose_parquet_split(SPLITS, "", "", "hf:a/b")
    with pytest.raises(ConfigError, match="no configuration 'fr'. Its configurations are: am, en"):
        choose_parquet_split(SPLITS, "fr", "", "hf:a/b")


def test_the_layout_of_fleurs(tmp_path: Path) -> None:
    fleurs(tmp_path / "a.parquet", ["ሰላም", "ዓለም", None], without_audio=[1])
    fleurs(tmp_path / "b.parquet", ["ደህና"], start=3)
    assert convert(tmp_path, ["a.parquet", "b.parquet"], tmp_path / "out") == ["a.parquet", "b.parquet"]
    lines = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {
        "audio_file": "clips/0000-a/000001.wav", "id": 0, "num_samples": 9600, "path": "/corpus/0.wav",
        "transcription": "ሰላም", "raw_transcription": "ሰላም።", "gender": "male", "lang_id": "am_et",
        "language": "Amharic", "lang_group_id": 4,
    }  # fmt: skip
    samples = read_manifest(str(tmp_path / "out" / "metadata.jsonl"), "am")
    assert [(sample.manifest_audio_file, sample.text, sample.language) for sample in samples] == [
        ("clips/0000-a/000001.wav", "ሰላም", "am"),
        ("clips/0000-a/000003.wav", "", "am"),
        ("clips/0001-b/000001.wav", "ደህና", "am"),
    ]
    assert [Path(sample.audio_file).read_bytes() for sample in samples] == [clip(0), clip(2), clip(3)]
    raw = read_manifest(str(tmp_path / "out" / "metadata.jsonl"), "am", columns={"text": "raw_transcription"})
    assert [sample.text for sample in raw] == ["ሰላም።", "", "ደህና።"]
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8")
    assert json.loads(skipped) == {"file": "a.parquet", "row": 2, "reason": "there is no recording"}


def test_the_layout_of_common_voice(tmp_path: Path) -> None:
    cells = [{"bytes": clip(number, "MP3"), "path": f"../../{number}.mp3"} for number in range(2)]
    columns = {
        "client_id": ["anna", "beth"], "path": ["x/0.mp3", "x/1.mp3"], "audio": pa.array(cells, AUDIO),
        "sentence": ["A | b,\n\"c\"", "ሰላም"], "up_votes": [2, 3], "age": [None, "teens"], "locale": ["am", "am"],
        "words": [["a"], ["b"]],
    }  # fmt: skip
    write_parquet(tmp_path / "ሰላም 1.parquet", columns)
    convert(tmp_path, ["ሰላም 1.parquet"], tmp_path / "out")
    samples = read_manifest(str(tmp_path / "out" / "metadata.jsonl"), None)
    assert [(sample.text, sample.speaker_name, sample.language) for sample in samples] == [
        ('A | b,\n"c"', "anna", "am"), ("ሰላም", "beth", "am"),
    ]  # fmt: skip
    assert [Path(sample.audio_file).read_bytes() for sample in samples] == [clip(0, "MP3"), clip(1, "MP3")]
    assert samples[0].audio_file == str(tmp_path / "out" / "clips" / "0000-ሰላም 1" / "000001.mp3")


def test_rows_without_the_bytes_of_a_recording(tmp_path: Path) -> None:
    cells = [{"bytes": clip(), "path": None}, {"bytes": None, "path": "a.wav"}, {"bytes": b"", "path": None}, None]
    write_parquet(tmp_path / "a.parquet", {"speech": pa.array(cells, AUDIO), "text": ["1", "2", "3", "4"]})
    convert(tmp_path, ["a.parquet"], tmp_path / "out")
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [(entry["row"], entry["reason"]) for entry in skipped] == [
        (2, "there is only the name of a recording, 'a.wav', without its bytes"),
        (3, "there is no recording in \"{'bytes': b'', 'path': None}\""),
        (4, "there is no recording"),
    ]


def test_an_interrupted_conversion_continues_with_the_next_file(tmp_path: Path) -> None:
    names = ["a.parquet", "b.parquet"]
    fleurs(tmp_path / "a.parquet", ["one"])
    (tmp_path / "b.parquet").write_bytes(fleurs(tmp_path / "c.parquet", ["two"] * 50)[:-3000])
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as Parquet"):
        convert(tmp_path, names, tmp_path / "out")
    assert not (tmp_path / "out" / "metadata.jsonl").exists()
    assert [path.name for path in (tmp_path / "out" / "clips").iterdir()] == ["0000-a"]
    (tmp_path / "c.parquet").replace(tmp_path / "b.parquet")
    assert convert(tmp_path, names, tmp_path / "out") == ["b.parquet"]
    assert len(read_manifest(str(tmp_path / "out" / "metadata.jsonl"), "am")) == 51


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "n": [1]}, r"a\.parquet has no recordings: its columns are text, n\. Expected a column"),
        ({"audio": ["a.wav"], "text": ["a"]}, "has no recordings"),
        (
            {"audio": pa.array([None], AUDIO), "text": ["a"]},
            r"no recording in a\.parquet\. The reasons are in",
        ),
    ],
    ids=["no audio", "names only", "all null"],
)
def test_tables_without_recordings(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match=message):
        convert(tmp_path, ["a.parquet"], tmp_path / "out")
