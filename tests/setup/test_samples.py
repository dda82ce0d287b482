from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import replace

import pytest
from samples import make_sample

from xtts_extend.data.encoded import Encoded
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.setup.samples import data_digest, load_samples


def test_overlap_of_training_and_validation_recordings(corpus, tmp_path, caplog) -> None:
    shutil.copytree(corpus.train.parent, tmp_path / "am")
    lines = (tmp_path / "am" / "train.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    # Recordings are compared by content, so a copy under another name counts too.
    name = lines[1].split("|")[0]
    shutil.copy(tmp_path / "am" / name, tmp_path / "am" / "copy.wav")
    held_out = (tmp_path / "am" / "val.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    both = [lines[0], lines[1].replace(name, "copy.wav"), *lines[2:4], *held_out[1:]]
    (tmp_path / "am" / "both.csv").write_text("".join(both), encoding="utf-8")

    def warnings(val: str) -> list[str]:
        caplog.clear()
        config = NewLanguageConfig(
            language="am",
            output_path=str(tmp_path / "runs"),
            train_manifests=[str(tmp_path / "am" / "train.csv")],
            val_manifests=[str(tmp_path / "am" / val)],
        )
        config.model_args.tokenizer_file = str(corpus.vocab)
        load_samples(config)
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    (warning,) = warnings("both.csv")
    second, third = (line.split("|")[0] for line in lines[2:4])
    assert warning.startswith(
        " > Validation recordings that are also training recordings: "
        f"3 of {len(both) - 1} (copy.wav, {second}, {third}). Losses on these recordings"
    )
    assert warnings("val.csv") == []


def test_an_archive_in_place_of_manifests(corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = shutil.make_archive(str(tmp_path / "am"), "gztar", corpus.train.parent)

    def samples(train: str, val: str):
        config = NewLanguageConfig(
            language="am", output_path=str(tmp_path / "runs"), train_manifests=[train], val_manifests=[val]
        )
        config.model_args.tokenizer_file = str(corpus.vocab)
        return load_samples(config)

    found, expected = samples(archive, f"{archive}@val:am"), samples(str(corpus.train), str(corpus.val))
    # A run can be resumed with either.
    assert data_digest(found.train) == data_digest(expected.train)
    assert data_digest(found.evaluation) == data_digest(expected.evaluation)
    assert found.train[0].audio_file.startswith(str(tmp_path / "cache" / "xtts_extend" / "sources"))


SPOKEN = make_sample("ሰላም", language="am", manifest_audio_file="wavs/a b.wav")


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (SPOKEN, "wavs/a b.wav\0ሰላም\0am\0"),
        (replace(SPOKEN, encoded=Encoded("x", 0, 9, has_ids=True), audio_digest="d"), "wavs/a b.wav\0ሰላም\0am\0"),
        (replace(SPOKEN, replay=True), "wavs/a b.wav\0ሰላም\0am\0replay\0"),
        (
            replace(SPOKEN, encoded=Encoded("x", 0, 9, part_digest="abc"), replay=True),
            "wavs/a b.wav\0ሰላም\0am\0abc\0replay\0",
        ),
    ],
    ids=["recorded", "encoded", "replayed recording", "replay set"],
)
def test_data_digest(sample, text) -> None:
    """The digest must never change, or older checkpoints could not be resumed."""
    assert data_digest([sample, sample]) == hashlib.sha256(2 * text.encode()).hexdigest()
