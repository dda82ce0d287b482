"""Working copies of recordings: samples, channels, rates, measurements, and recordings that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_extend.corpus.recording import (
    RecordingInfo,
    _FlacWriter,
    convert_recording,
    read_span,
    recording_id,
    stream_copy,
)
from xtts_extend.errors import DataError, DiskFullError

RATE = 16_000


def noise(seconds: float, rate: int = RATE, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, int(seconds * rate)).astype(np.float32)


def convert(folder: Path, samples: np.ndarray, rate: int = RATE, name: str = "a.wav", **options: str) -> RecordingInfo:
    """Write a recording and convert it to `copy.flac`."""
    soundfile.write(folder / name, samples, rate, **options)
    return convert_recording(folder / name, folder / "copy.flac", progress=False)


def samples_of(folder: Path) -> np.ndarray:
    return soundfile.read(folder / "copy.flac", dtype="float64")[0]


@pytest.mark.parametrize(("subtype", "copied"), [("PCM_16", "PCM_16"), ("PCM_U8", "PCM_16"), ("PCM_24", "PCM_24")])
def test_integer_samples_stay_exact(tmp_path: Path, subtype: str, copied: str) -> None:
    info = convert(tmp_path, noise(12.3, level=0.3), subtype=subtype)
    expected = soundfile.read(tmp_path / "a.wav", dtype="float64")[0]
    assert np.array_equal(samples_of(tmp_path), expected)
    assert soundfile.info(tmp_path / "copy.flac").subtype == copied
    assert (info.sample_rate, info.frames, info.channels, info.channel_note) == (RATE, 196_800, 1, "")
    assert info.duration_s == 12.3
    assert info.peak == np.abs(expected).max()
    assert info.level == np.ptp(expected) / 2


def test_the_original_stays_and_its_digest_is_of_its_content(tmp_path: Path) -> None:
    info = convert(tmp_path, noise(1))
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(content)
    assert convert_recording(tmp_path / "b.wav", tmp_path / "b.flac", progress=False).digest == info.digest
    assert (tmp_path / "a.wav").read_bytes() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.wav", "b.flac", "b.wav", "copy.flac"]


def test_samples_beyond_full_scale_are_clipped_and_counted(tmp_path: Path) -> None:
    samples = np.array([0, 1.5, -2.0, 0.5] * 100, dtype=np.float32)
    info = convert(tmp_path, samples, subtype="FLOAT")
    assert info.clipped == 200
    assert info.peak == 2
    assert np.abs(samples_of(tmp_path)).max() == 1


VOICE = noise(2)
OTHER = noise(2, seed=1)


@pytest.mark.parametrize(
    ("channels", "expected", "note"),
    [
        ([VOICE, VOICE], VOICE, ""),
        ([VOICE, OTHER], (VOICE + OTHER) / 2, ""),
        ([VOICE, OTHER / 10], (VOICE + OTHER / 10) / 2, ""),
        ([OTHER / 1000, VOICE], VOICE, "Only channel 2 of 2 is used, because the rest is silent."),
        ([VOICE, 0 * VOICE, OTHER], (VOICE + OTHER) / 2, "Only channels 1 and 3 of 3 are used, because the rest is"),
        ([-VOICE / 2, VOICE], VOICE, "Only channel 2 of 2 is used, because the channels cancel each other"),
        ([0 * VOICE, 0 * VOICE], 0 * VOICE, ""),
    ],
    ids=["same", "two voices", "one quieter", "one unused", "one of three unused", "opposite signs", "silent"],
)
def test_channels_become_one(tmp_path: Path, channels: list[np.ndarray], expected: np.ndarray, note: str) -> None:
    info = convert(tmp_path, np.stack(channels, axis=1), subtype="FLOAT")
    assert np.abs(samples_of(tmp_path) - expected).max() < 2e-7
    assert info.channel_note.startswith(note)
    assert bool(info.channel_note) == bool(note)
    assert info.channels == len(channels)


@pytest.mark.parametrize(("rate", "copied"), [(8000, 8000), (44_100, 44_100), (96_000, 48_000), (44_099, 48_000)])
def test_only_high_and_odd_rates_change(tmp_path: Path, rate: int, copied: int) -> None:
    time = np.arange(21 * rate) / rate
    info = convert(tmp_path, 0.5 * np.sin(2 * np.pi * 1000 * time), rate)
    assert (info.source_rate, info.sample_rate, info.frames) == (rate, copied, 21 * copied)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(21 * copied) / copied)
    # The resampler has no samples beyond the ends.
    assert np.abs(samples_of(tmp_path) - expected)[200:-200].max() < 1e-3


@pytest.mark.parametrize("suffix", [".mp3", ".ogg"])
def test_compressed_recordings_keep_their_length(tmp_path: Path, suffix: str) -> None:
    info = convert(tmp_path, noise(11), name=f"a{suffix}")
    assert info.frames == 11 * RATE
    assert soundfile.info(tmp_path / "copy.flac").subtype == "PCM_16"


def test_the_sound_of_videos_is_converted(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "film.mkv"), "w") as film:
        picture = film.add_stream("mpeg4", rate=5)
        picture.width = picture.height = 16
        picture.pix_fmt = "yuv420p"
        sound = film.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for image in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 40 * image, dtype=np.uint8))
            film.mux(picture.encode(frame))
        codes = (noise(1) * 32768).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(codes[None], format="s16", layout="mono")
        frame.rate = RATE
        for stream, last in ((sound, frame), (sound, None), (picture, None)):
            film.mux(stream.encode(last))
    info = convert_recording(tmp_path / "film.mkv", tmp_path / "copy.flac", progress=False)
    assert (info.sample_rate, info.frames) == (RATE, RATE)
    assert np.array_equal(samples_of(tmp_path) * 32768, codes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "empty or almost empty"),
        (b"<!DOCTYPE html><html><head><title>Login</title>", "got a web page"),
        (b"short", "truncated"),
    ],
    ids=["missing", "empty", "a web page", "truncated"],
)
def test_unusable_recordings_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content == b"short":
        soundfile.write(tmp_path / "a.wav", noise(1), RATE)
        content = (tmp_path / "a.wav").read_bytes()[:-4000]
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.wav.*{message}"):
        convert_recording(tmp_path / "a.wav", tmp_path / "copy.flac", progress=False)
    assert not (tmp_path / "copy.flac").exists()


@pytest.mark.parametrize(
    ("samples", "message"),
    [(np.zeros(0), "has no samples"), (np.array([0, np.nan]), "NaN"), (np.array([0, 3000.0]), "full scale is 1")],
    ids=["no samples", "not a number", "unscaled"],
)
def test_unusable_samples_are_named(tmp_path: Path, samples: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert(tmp_path, samples, subtype="FLOAT")
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    monkeypatch.setattr(_FlacWriter, "_is_complete", lambda _: False)
    with pytest.raises(DiskFullError, match=r"copy\.flac could not be written: the disk is full"):
        convert(tmp_path, noise(1))
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_spans_are_parts_of_the_whole_copy(tmp_path: Path, rate: int) -> None:
    convert(tmp_path, noise(30))
    whole = read_span(tmp_path / "copy.flac", 0, 30, rate)
    assert whole.dtype == np.float32
    assert len(whole) == 30 * rate
    for start, end in ((0, 1), (11.5, 12.25), (29.9, 30)):
        part = read_span(tmp_path / "copy.flac", start, end, rate)
        assert np.abs(part - whole[round(start * rate) : round(end * rate)]).max() < 1e-6
    assert len(read_span(tmp_path / "copy.flac", -1, 0.5, rate)) == round(0.5 * rate)
    assert len(read_span(tmp_path / "copy.flac", 29.5, 31, rate)) == round(0.5 * rate)
    assert len(read_span(tmp_path / "copy.flac", 31, 32, rate)) == 0


def test_the_blocks_of_a_copy_make_the_whole(tmp_path: Path) -> None:
    convert(tmp_path, noise(25))
    blocks = list(stream_copy(tmp_path / "copy.flac", RATE, 70_000))
    assert [len(block) for block in blocks] == [70_000] * 5 + [50_000]
    assert np.array_equal(np.concatenate(blocks), samples_of(tmp_path).astype(np.float32))
    assert sum(map(len, stream_copy(tmp_path / "copy.flac", 24_000, 100_000))) == 25 * 24_000


def test_a_damaged_copy_is_named(tmp_path: Path) -> None:
    (tmp_path / "copy.flac").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"copy\.flac cannot be read .* Delete it"):
        read_span(tmp_path / "copy.flac", 0, 1, RATE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ስብከት 3 [ዓርብ].mp3", "sbket-3-arb-3fa2c1d0"), ("...wav", "recording-3fa2c1d0"), ("x" * 90, "x" * 40)],
)
def test_ids_are_short_and_ascii(name: str, expected: str) -> None:
    assert recording_id(Path("folder") / name, "3fa2c1d05b7e9f40").startswith(expected)


def test_silence_with_clicks_is_silent(tmp_path: Path) -> None:
    samples = noise(60, level=1e-4)
    samples[[RATE, 30 * RATE]] = 0.9
    assert convert(tmp_path, samples).is_silent
    assert not convert(tmp_path, noise(60, level=1e-2)).is_silent
