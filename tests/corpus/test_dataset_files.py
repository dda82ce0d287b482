"""The files of a data set: readable by others, the same bytes for the same clips, and intact after a kill."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
from clips import RECORDING_ID, make_clip

from xtts_extend import files
from xtts_extend.corpus.clip import Reason, RecordingSummary, SetAside, read_clips
from xtts_extend.corpus.dataset_files import require_own_folder, write_dataset, write_wavs
from xtts_extend.data.manifest import read_manifest
from xtts_extend.errors import ConfigError, DataError, MachineError

RATE = 8000
CLIPS = [
    make_clip(1.0, 2.0, text="አንድ", split="train"),
    make_clip(3.0, 4.5, text='ሁለት "two"', split="val", speaker_name="ሰው"),
    make_clip(5.0, 6.0, text="a|b", rejected=Reason.MARKUP, detail="A | in the text."),
    make_clip(7.0, 8.0, text="ሦስት", split="train"),
]
SET_ASIDE = [
    SetAside(RECORDING_ID, "in/My Sermon.mp3", None, None, "lost", Reason.TEXT_WITHOUT_SPEECH, "No anchor."),
    SetAside(RECORDING_ID, "in/My Sermon.mp3", 0.25, 0.5, "", Reason.SPEECH_WITHOUT_TEXT, "0.25 s of speech."),
]


def recordings(key="0 dB"):
    return [RecordingSummary(RECORDING_ID, "in/My Sermon.mp3", "3fa2c1d0", 600.0, 500.0, key)]


def audio(clip):
    """Return a constant that says where the clip starts."""
    return np.full(round(clip.duration_s * RATE), clip.start_s / 100, np.float32), RATE


def write(output, clips=CLIPS, set_aside=SET_ASIDE, key="0 dB"):
    written = write_wavs(output, clips, recordings(key), audio)
    write_dataset(output, written, set_aside)
    return written


def content(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def start_of(path):
    """Return the start of the clip whose samples a WAV file has."""
    samples, _ = soundfile.read(path)
    return round(samples[0] * 100)


def test_files(tmp_path):
    written = write(tmp_path)
    assert read_clips(tmp_path / "clips.jsonl") == written
    assert [replace(clip, audio_file="") for clip in written] == CLIPS
    first, second, third, fourth = (clip.audio_file for clip in written)
    assert (tmp_path / "train.csv").read_text(encoding="utf-8") == (
        f"audio_file|text|speaker_name\n{first}|አንድ|speaker\n{fourth}|ሦስት|speaker\n"
    )
    assert (tmp_path / "val.csv").read_text(encoding="utf-8") == (
        f'audio_file|text|speaker_name\n{second}|ሁለት "two"|ሰው\n'
    )
    (sample,) = read_manifest(f"{tmp_path / 'val.csv'}:am", None)
    assert (sample.text, sample.audio_file) == ('ሁለት "two"', str(tmp_path / second))
    info = soundfile.info(tmp_path / third)
    assert (info.frames, info.samplerate, info.subtype, info.channels) == (RATE, RATE, "PCM_16", 1)
    assert [start_of(tmp_path / clip.audio_file) for clip in written] == [1, 3, 5, 7]
    assert first.startswith(f"wavs/{RECORDING_ID}/00001000-")


def test_rejected_table_is_read_by_pandas(tmp_path):
    write(tmp_path)
    table = pandas.read_csv(tmp_path / "rejected.csv", sep="|", keep_default_na=False)
    assert table.to_dict("records") == [
        dict(zip(table.columns, row, strict=True))
        for row in [
            ("in/My Sermon.mp3", "0.250", "0.500", "", "speech_without_text", "0.25 s of speech."),
            ("in/My Sermon.mp3", "5.000", "6.000", "a|b", "markup", "A | in the text."),
            ("in/My Sermon.mp3", "", "", "lost", "text_without_speech", "No anchor."),
        ]
    ]
    assert list(table.columns) == ["recording", "start", "end", "text", "reason", "detail"]


def test_the_order_of_the_input_does_not_matter(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "two", CLIPS[::-1], SET_ASIDE[::-1])
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_only_changed_clips_are_written(tmp_path):
    before = {clip.id: clip.audio_file for clip in write(tmp_path)}
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in before.values()}
    moved = replace(CLIPS[1], end_s=4.75, edited=True)
    after = write(tmp_path, [replace(CLIPS[0], text="new"), moved, CLIPS[3]])
    assert [clip.audio_file == before[clip.id] for clip in after] == [True, False, True]
    assert {clip.audio_file for clip in after} == {path for path in content(tmp_path) if path.endswith(".wav")}
    assert soundfile.info(tmp_path / after[1].audio_file).frames == 1.75 * RATE
    assert {(tmp_path / clip.audio_file).stat().st_mtime_ns for clip in (after[0], after[2])} <= set(times.values())
    louder = write(tmp_path, key="6 dB")
    assert not {clip.audio_file for clip in louder} & {clip.audio_file for clip in after}


def test_files_of_others_stay(tmp_path):
    write(tmp_path)
    kept = [tmp_path / "wavs" / "mine.wav", tmp_path / "wavs" / RECORDING_ID / "take 2.wav"]
    kept.append(tmp_path / "wavs" / "mine" / "00001000-12345678.wav")
    kept[2].parent.mkdir()
    for file in kept:
        file.touch()
    partial = tmp_path / "wavs" / RECORDING_ID / ".00001000-12345678.wav.77.tmp"
    partial.touch()
    write(tmp_path, CLIPS[:1])
    assert all(file.exists() for file in kept)
    assert not partial.exists()
    write(tmp_path, [], [])
    assert all(file.exists() for file in kept)
    assert sorted(content(tmp_path)) == sorted(
        ["clips.jsonl", "rejected.csv", *(file.relative_to(tmp_path).as_posix() for file in kept)]
    )


def test_folders_of_removed_recordings_are_removed(tmp_path):
    write(tmp_path)
    write_dataset(tmp_path, [], [])
    assert list((tmp_path / "wavs").iterdir()) == []


@pytest.mark.parametrize("killed_at", range(9))
def test_a_kill_leaves_consistent_files(tmp_path, monkeypatch, killed_at):
    """The process is killed after one of the eight renames: two WAV files, two for each manifest, two tables."""
    new = [replace(CLIPS[0], start_s=1.8, text="15"), replace(CLIPS[1], text="3", split="train"), *CLIPS[2:]]
    new[3] = replace(new[3], split="val", end_s=9.0)
    write(tmp_path / "expected", new)
    output = tmp_path / "killed"
    write(output)
    steps = iter(range(100))

    def flush(folder: Path) -> None:
        if next(steps) == killed_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "_sync_folder", flush)
    if killed_at < 8:
        with pytest.raises(KeyboardInterrupt):
            write(output, new)
    else:
        write(output, new)
    monkeypatch.undo()
    starts = {"አንድ": 1, "ሦስት": 7, "15": 2, "3": 3, 'ሁለት "two"': 3}
    for name in ("train.csv", "val.csv"):
        samples = read_manifest(f"{output / name}:am", None)
        assert samples
        assert [start_of(sample.audio_file) for sample in samples] == [starts[sample.text] for sample in samples]
    assert all((output / clip.audio_file).exists() for clip in read_clips(output / "clips.jsonl"))
    write(output, new)
    assert content(output) == content(tmp_path / "expected")


def test_a_full_disk_leaves_the_old_files(tmp_path, monkeypatch):
    written = write(tmp_path)
    before = content(tmp_path)

    def full(value, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(MachineError, match="the disk is full"):
        write_dataset(tmp_path, written[:1], [])
    assert content(tmp_path) == before


def test_manifests_of_others_are_not_replaced(tmp_path):
    require_own_folder(tmp_path)
    (tmp_path / "train.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"train\.csv exists, but was not written by make-dataset"):
        require_own_folder(tmp_path)
    (tmp_path / "clips.jsonl").touch()
    require_own_folder(tmp_path)


def test_speaker_names_that_manifests_cannot_represent(tmp_path):
    with pytest.raises(DataError, match="cannot represent"):
        write(tmp_path, [replace(CLIPS[0], speaker_name="a|b")])
    assert not (tmp_path / "clips.jsonl").exists()
