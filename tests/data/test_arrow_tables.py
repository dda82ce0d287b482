"""Parquet and Arrow tables as Hugging Face writes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from xtts_extend.data.manifest import Sample, read_manifest
from xtts_extend.data.rows import texts_of_manifest
from xtts_extend.errors import DataError

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
WAV, OGG = b"RIFF....WAVE1", b"OggS2"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "xtts_extend" / "recordings"


def table(**columns: object) -> pa.Table:
    return pa.table(
        {name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()}
    )


def read(folder: Path, data: pa.Table) -> list[Sample]:
    pq.write_table(data, folder / "train.parquet")
    return read_manifest(f"{folder / 'train.parquet'}:am", None)


def test_embedded_bytes_are_extracted_once(tmp_path: Path, cache: Path) -> None:
    audio = pa.array(
        [{"bytes": WAV, "path": "a.WAV"}, {"bytes": OGG, "path": None}, {"bytes": WAV, "path": None}], AUDIO
    )
    data = table(client_id=["x", "y", "x"], path=["p1", "p2", "p3"], audio=audio, sentence=["One", "nan", "Three"])
    samples = read(tmp_path, data)
    names = [hashlib.sha256(content).hexdigest() for content in (WAV, OGG)]
    files = [cache / names[0][:2] / f"{names[0]}.wav", cache / names[1][:2] / f"{names[1]}.ogg"]
    assert [sample.audio_file for sample in samples] == [str(files[0]), str(files[1]), str(files[0])]
    assert [file.read_bytes() for file in files] == [WAV, OGG]
    assert [sample.manifest_audio_file for sample in samples] == ["a.WAV", files[1].name, files[0].name]
    assert [(sample.text, sample.speaker_name, sample.line) for sample in samples] == [
        ("One", "x", 1), ("nan", "y", 2), ("Three", "x", 3),
    ]  # fmt: skip
    # A truncated file is written again; an intact one is not.
    files[0].write_bytes(WAV[:-1])
    written = files[1].stat().st_mtime_ns
    read(tmp_path, data)
    assert files[0].read_bytes() == WAV
    assert files[1].stat().st_mtime_ns == written
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == sorted(files)


def test_paths_name_recordings(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "wavs" / f"{name}.wav").touch()
    expected = [str(tmp_path / "wavs" / "a.wav"), str(tmp_path / "wavs" / "b.wav")]
    structs = pa.array([{"bytes": None, "path": "a.wav"}, {"bytes": None, "path": "wavs/b.wav"}], AUDIO)
    for column in (structs, pa.array(["a", "b.wav"]), pa.array(["a", "b.wav"]).dictionary_encode()):
        assert [s.audio_file for s in read(tmp_path, table(audio=column, text=["One", "Two"]))] == expected


def test_a_column_of_bytes(tmp_path: Path, cache: Path) -> None:
    (sample,) = read(tmp_path, table(audio=pa.array([WAV], pa.large_binary()), transcription=["One"], id=[7]))
    assert Path(sample.audio_file).read_bytes() == WAV
    assert sample.text == "One"


def test_embedded_samples_are_extracted(tmp_path: Path, cache: Path) -> None:
    mono = (0.5 * np.sin(np.arange(16000) / 20)).astype(np.float32)
    stereo = np.stack([mono, -mono / 2])
    pcm = (32767 * mono).astype(np.int16)
    for kind, samples in (
        (pa.list_(pa.float32()), mono),
        (pa.large_list(pa.float64()), mono),
        (pa.list_(pa.list_(pa.float32())), stereo),
        (pa.list_(pa.int16()), pcm),
    ):
        cells = [{"path": "a.mp3", "array": samples.tolist(), "sampling_rate": 16000}] * 2
        audio = pa.array(cells, pa.struct([("path", pa.string()), ("array", kind), ("sampling_rate", pa.int64())]))
        first, second = read(tmp_path, table(audio=audio, text=["One", "Two"]))
        assert first.audio_file == second.audio_file
        assert Path(first.audio_file).is_relative_to(cache)
        assert first.manifest_audio_file == "a.mp3"
        decoded, rate = soundfile.read(first.audio_file, dtype=samples.dtype.name)
        assert (rate, decoded.T.tolist()) == (16000, samples.tolist())


def test_nulls_and_numbers_become_texts(tmp_path: Path) -> None:
    data = table(audio=["a", "b", "c"], normalized_text=[None, None, "z"], text=[1999.0, None, 3.0], id=[1, 2, 3])
    assert [sample.text for sample in read(tmp_path, data)] == ["1999", "", "z"]
    assert [sample.text for sample in read(tmp_path, table(id=[1, 2], text=["x", None]))] == ["x", ""]


def test_class_ids_become_labels(tmp_path: Path) -> None:
    features = {"language": {"names": ["en", "am"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}
    data = table(audio=["a.wav", "b.wav"], text=["One", "Two"], language=[1, 0], speaker=[3, 4])
    data = data.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    assert [(s.language, s.speaker_name) for s in read(tmp_path, data)] == [("am", "3"), ("en", "4")]


def test_arrow_files_and_streams(tmp_path: Path) -> None:
    data = table(audio=["a.wav"], text=["One"])
    with pa.OSFile(str(tmp_path / "data-00000.arrow"), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data)
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
        writer.write_table(data)
    for name in ("data-00000.arrow", "file.arrow"):
        assert texts_of_manifest(tmp_path / name) == ["One"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (table(audio=["a"], mood=["x"]), r"has the columns audio, mood\. Expected an audio column"),
        (table(audio=pa.array([{"bytes": None, "path": None}], AUDIO), text=["x"]), "row 1 has no recording"),
        (table(audio=pa.array([[0.5, 0.25]]), text=["x"]), "row 1 has no recording.*without a sample rate.*Audio"),
        (table(audio=pa.array([{"array": [0.5], "sampling_rate": None}]), text=["x"]), "row 1 has no recording.*Audio"),
        (table(audio=["a"], text=[["x"]]), r"row 1: Expected a string for text, got \['x'\]"),
        (table(audio=["a", None], text=["x", "y"]), "row 2 has no recording: None"),
    ],
    ids=["no text", "no audio", "samples", "samples in a struct", "list", "null"],
)
def test_unusable_tables(tmp_path: Path, data: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, data)


def test_a_damaged_table(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_manifest(f"{tmp_path / 'm.parquet'}:am", None)
