"""Made-up archives and Parquet files in the layouts of Common Voice, OpenSLR, LJSpeech and FLEURS."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def clip(seed: int = 0, format: str = "WAV") -> bytes:
    """Return a file with 0.6 s of noise, 16 kHz; each seed has its own."""
    content = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(9600)
    soundfile.write(content, noise, 16_000, format=format)
    return content.getvalue()


def make_tar(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    """Write a tar archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def make_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a zip archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def common_voice(folder: str = "cv-corpus-24.0-2025-12-05/am") -> dict[str, bytes]:
    """Return the files of a Common Voice archive with two training clips, one of them without a sentence."""
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\n"
    anna, beth, carl = (
        f"{name}\tcommon_voice_am_{number}.mp3\t{sentence}\t2\t0\t\t\t\tam\n"
        for number, (name, sentence) in enumerate([("anna", "ሰላም ለዓለም።"), ("beth", ""), ("carl", "ደህና ነኝ።")], start=1)
    )
    rows = {"train": anna + beth, "dev": carl}
    rows["validated"] = rows["train"] + rows["dev"]
    tables = {f"{folder}/{name}.tsv": (header + lines).encode() for name, lines in rows.items()}
    clips = {f"{folder}/clips/common_voice_am_{number}.mp3": clip(number, "MP3") for number in (1, 2, 3)}
    others = {f"{folder}/reported.tsv": b"sentence\treason\n", f"{folder}/clip_durations.tsv": b"clip\tduration[ms]\n"}
    return tables | clips | others


def write_parquet(path: Path, columns: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> bytes:
    """Write a Parquet file with Hugging Face's metadata, and return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path.read_bytes()


def fleurs(path: Path, sentences: Sequence[str | None], start: int = 0, without_audio: Sequence[int] = ()) -> bytes:
    """Write a Parquet file with the columns of FLEURS.

    Args:
        path: File to write.
        sentences: The sentences, one per row.
        start: Seed of the first clip.
        without_audio: Numbers of the rows, from 0, that have no recording.
    """
    count = len(sentences)
    cells = [
        None if row in without_audio else {"bytes": clip(start + row), "path": f"{row}.wav"} for row in range(count)
    ]
    features = {
        "gender": {"names": ["male", "female", "other"], "_type": "ClassLabel"},
        "lang_id": {"names": ["af_za", "am_et"], "_type": "ClassLabel"},
    }
    columns = {
        "id": list(range(count)),
        "num_samples": [9600] * count,
        "path": [f"/corpus/{row}.wav" for row in range(count)],
        "audio": pa.array(cells, AUDIO),
        "transcription": pa.array(sentences, pa.string()),
        "raw_transcription": pa.array([None if text is None else f"{text}።" for text in sentences], pa.string()),
        "gender": [row % 3 for row in range(count)],
        "lang_id": [1] * count,
        "language": ["Amharic"] * count,
        "lang_group_id": [4] * count,
    }
    return write_parquet(path, columns, features)
