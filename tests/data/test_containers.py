"""What is wrong with a file is found in its frame, and said with its cause."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_extend.data.audio import load_audio, measure_recording
from xtts_extend.data.containers import require_whole_container
from xtts_extend.errors import DataError

VOICE = np.sin(np.arange(33075) / 20) * np.sin(np.arange(33075) / 3000)
#: What soundfile writes: container and subtype.
WRITTEN = {
    "wav": ("WAV", "PCM_16"), "wavex": ("WAVEX", "PCM_24"), "float wav": ("WAV", "FLOAT"),
    "adpcm wav": ("WAV", "MS_ADPCM"),
    "rf64": ("RF64", "PCM_16"), "w64": ("W64", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "aiff-c": ("AIFF", "FLOAT"),
    "au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16"), "alac caf": ("CAF", "ALAC_16"), "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"), "vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"),
    "8svx": ("SVX", "PCM_16"),
}  # fmt: skip
#: What FFmpeg writes: codec, container, options.
ENCODED: dict[str, tuple[str, str, dict[str, str]]] = {
    "m4a": ("aac", "ipod", {}),
    "m4a for the web": ("aac", "ipod", {"movflags": "faststart"}),
    "fragmented mp4": ("aac", "mp4", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"}),
    "mov": ("pcm_s16le", "mov", {}),
    "3gp": ("aac", "3gp", {}),
    "webm": ("libopus", "webm", {}),
    "mka": ("libmp3lame", "matroska", {}),
    "wma": ("wmav2", "asf", {}),
    "avi": ("libmp3lame", "avi", {}),
    "aac": ("aac", "adts", {}),
    "amr": ("libopencore_amrnb", "amr", {}),
    "tta": ("tta", "tta", {}),
    "wv": ("wavpack", "wv", {}),
    "flv": ("aac", "flv", {}),
}


@pytest.fixture(params=[*WRITTEN, *ENCODED])
def whole(request: pytest.FixtureRequest, tmp_path: Path, encode: Callable[..., Path]) -> Path:
    """A sound file of each container."""
    path = tmp_path / "whole"
    if request.param in WRITTEN:
        container, subtype = WRITTEN[request.param]
        soundfile.write(path, VOICE, 48000 if subtype == "OPUS" else 22050, format=container, subtype=subtype)
        return path
    codec, container, options = ENCODED[request.param]
    rate = {"libopus": 48000, "libopencore_amrnb": 8000}.get(codec, 44100)
    return encode(path, VOICE, rate, codec, container, **options)


def test_a_part_of_a_file_is_truncated(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    assert measure_recording(whole).frames > 30000
    for share in (0.5, 0.8, 0.95):
        (tmp_path / "part").write_bytes(content[: int(len(content) * share)])
        for read in (measure_recording, lambda path: load_audio(path, 22050)):
            with pytest.raises(DataError, match=r"part is (damaged or )?truncated"):
                read(tmp_path / "part")


def wav(
    data: bytes, *, stated: int | None = None, rate: int = 22050, chunks: bytes = b"", riff: int | None = None
) -> bytes:
    """A wav file, mono of 16 bits, whose header may state anything."""
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate & 0xFFFFFFFF, 2, 16)
    body = b"WAVE" + layout + chunks + b"data" + struct.pack("<I", len(data) if stated is None else stated) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


SAMPLES = (8000 * VOICE).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("content", "frames"),
    [
        (wav(SAMPLES), 33075),
        (wav(SAMPLES, chunks=b"LIST\x04\x00\x00\x00INFO"), 33075),
        (wav(SAMPLES) + b"LIST\x04\x00\x00\x00INFO", 33075),
        (wav(SAMPLES) + b"id3 " + struct.pack("<I", 9000) + bytes(9000), 33075),
        # a sound editor's padding
        (wav(SAMPLES) + bytes(9000), 33075),
        # of programs that write to a pipe
        (wav(SAMPLES, stated=0xFFFFFFFF), 33075),
        (wav(SAMPLES, stated=0x7FFFFFFF - 36), 33075),
        (wav(SAMPLES, riff=0), 33075),
        (wav(b""), 0),
    ],
    ids=["plain", "chunk before", "chunk behind", "tag behind", "zeros", "pipe", "pipe of 2 GiB", "no size", "empty"],
)
def test_unusual_wav_files_are_sound(tmp_path: Path, content: bytes, frames: int) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert measure_recording(tmp_path / "a.wav").frames == frames


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (wav(SAMPLES, stated=0), "is unfinished: its header says 0 bytes of audio, and 66150 more follow"),
        (wav(bytes(400) + SAMPLES, stated=0), "is unfinished: its header says 0 bytes"),
        (wav(SAMPLES, stated=10000), "is unfinished: its header says 10000 bytes of audio, and 56150 more"),
        (wav(SAMPLES) + wav(SAMPLES), "is several files joined into one"),
        (b"RIFF\x00\x00\x00\x00WAVEdata\x10\x00\x00\x00" + SAMPLES, "has no fmt chunk"),
        (wav(SAMPLES)[:36], "has no data chunk"),
        (wav(SAMPLES, rate=0), "its header says 0 Hz, expected 4000 to 768000"),
        (wav(SAMPLES, rate=1), "its header says 1 Hz"),
        (wav(SAMPLES, rate=4_000_000_000), "its header says 4000000000 Hz"),
        (b".snd" + struct.pack(">5I", 24, 0, 3, 22050, 1) + SAMPLES, "is unfinished"),
        (b".snd" + struct.pack(">5I", 24, len(SAMPLES), 3, 3, 1) + SAMPLES, "its header says 3 Hz"),
    ],
    ids=[
        "recorder died", "recorder died in silence", "recorder died later", "joined", "no fmt", "no data", "0 Hz",
        "1 Hz", "4 GHz", "au recorder died", "au of 3 Hz",
    ],
)  # fmt: skip
def test_broken_headers_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_audio(tmp_path / "a.wav", 22050)


def test_a_dead_recorder_of_other_containers(tmp_path: Path) -> None:
    def write(container: str, place: bytes, after: int, zeros: int) -> Path:
        path = tmp_path / container
        soundfile.write(path, VOICE, 22050, format=container, subtype="PCM_16")
        content = bytearray(path.read_bytes())
        start = content.index(place) + after
        content[start : start + zeros] = bytes(zeros)
        path.write_bytes(content)
        return path

    for container, place, after, zeros in (
        ("AIFF", b"SSND", 4, 4), ("CAF", b"data", 4, 8), ("W64", b"data", 16, 8), ("RF64", b"ds64", 16, 8),
    ):  # fmt: skip
        with pytest.raises(DataError, match=r"is unfinished: its header says 0 bytes"):
            load_audio(write(container, place, after, zeros), 22050)


@pytest.mark.parametrize("name", ["flac", "vorbis", "opus", "aiff", "wav"])
def test_joined_files_of_which_the_first_would_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "joined"
    container, subtype = WRITTEN[name]
    soundfile.write(path, VOICE, 48000, format=container, subtype=subtype)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(DataError, match="is several files joined into one"):
        measure_recording(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it is empty, or nearly so \(0 bytes\)"),
        (b"RIFF\x10\x00", r"it is empty, or nearly so \(6 bytes\)"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>" + b" " * 900, "a web page that begins with '<!DOCTYPE"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n",
            "a Git LFS pointer; run `git lfs pull`",
        ),
        (b"../.git/annex/objects/xx/SHA256E-s1", "it is text that begins with"),
        (b"/annex/objects/SHA256E-s1--12", "a git-annex pointer"),
        (b"PK\x03\x04" + bytes(100), "a zip archive; unpack it"),
        (b"\x1f\x8b\x08" + bytes(100), "a gzip archive"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(100), r"files that begin with \._"),
        (b"%PDF-1.7\n" + bytes(100), "a PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a picture"),
        (b"RIFF\x20\x00\x00\x00WEBPVP8 " + bytes(100), "a picture"),
        (b"MThd\x00\x00\x00\x06" + bytes(100), "a MIDI file"),
        (b"\x93NUMPY\x01\x00" + bytes(100), "a NumPy array"),
        (bytes(3000), "it begins with zeros, as an unfinished download does"),
        ('{"error": "Доступ запрещён"}'.encode(), 'it is text that begins with \'{"error"'),
        (b"Not found", "it is empty, or nearly so|it is text"),
        (bytes(range(256)) * 20, "not audio in a format that .* Raw samples need a header"),
    ],
)
def test_what_is_no_recording_is_called_by_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.wav cannot be read: .*({message})"):
        load_audio(tmp_path / "a.wav", 22050)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.rf64.wav", "truncated: its header promises 83770 bytes"),
        ("cut.aiff", "truncated: its header promises 83770 bytes"),
        ("recorder-died.wav", r"unfinished: .*`ffmpeg -i recorder-died\.wav fixed\.wav`"),
        ("no-fmt.wav", "has no fmt chunk, which states the sample rate"),
    ],
)
def test_recordings_from_the_wild(shared_data: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_whole_container(shared_data / "wild" / name)
