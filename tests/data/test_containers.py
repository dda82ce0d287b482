"""Truncated, damaged and joined files are detected from their headers, and the message says what is wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_extend.data.audio import load_audio, measure_recording
from xtts_extend.data.containers import require_intact_container
from xtts_extend.errors import DataError

VOICE = np.sin(np.arange(33075) / 20) * np.sin(np.arange(33075) / 3000)
#: Files written by soundfile: container and subtype.
WRITTEN = {
    "wav": ("WAV", "PCM_16"), "wavex": ("WAVEX", "PCM_24"), "float wav": ("WAV", "FLOAT"),
    "adpcm wav": ("WAV", "MS_ADPCM"),
    "rf64": ("RF64", "PCM_16"), "w64": ("W64", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "aiff-c": ("AIFF", "FLOAT"),
    "au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16"), "alac caf": ("CAF", "ALAC_16"), "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"), "vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"),
    "8svx": ("SVX", "PCM_16"), "voc": ("VOC", "PCM_16"), "voc of 8 bits": ("VOC", "PCM_U8"), "avr": ("AVR", "PCM_16"),
    "mpc 2000": ("MPC2K", "PCM_16"), "wve": ("WVE", "ALAW"), "mat4": ("MAT4", "PCM_16"), "mat5": ("MAT5", "FLOAT"),
    "sds": ("SDS", "PCM_16"),
}  # fmt: skip
#: Files written by FFmpeg: codec, container and options.
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
def intact(request: pytest.FixtureRequest, tmp_path: Path, encode: Callable[..., Path]) -> Path:
    """An intact file in each container format."""
    return write_intact(tmp_path / "intact", request.param, encode)


def write_intact(path: Path, name: str, encode: Callable[..., Path]) -> Path:
    if name in WRITTEN:
        container, subtype = WRITTEN[name]
        soundfile.write(path, VOICE, 48000 if subtype == "OPUS" else 22050, format=container, subtype=subtype)
        return path
    codec, container, options = ENCODED[name]
    rate = {"libopus": 48000, "libopencore_amrnb": 8000}.get(codec, 44100)
    return encode(path, VOICE, rate, codec, container, **options)


def test_part_of_a_file_is_truncated(intact: Path, tmp_path: Path) -> None:
    content = intact.read_bytes()
    assert measure_recording(intact).frames > 30000
    for share in (0.5, 0.8, 0.95):
        (tmp_path / "part").write_bytes(content[: int(len(content) * share)])
        for read in (measure_recording, lambda path: load_audio(path, 22050)):
            with pytest.raises(DataError, match=r"part is (damaged or )?truncated"):
                read(tmp_path / "part")


def wav(
    data: bytes, *, declared: int | None = None, rate: int = 22050, chunks: bytes = b"", riff: int | None = None
) -> bytes:
    """Return a 16-bit mono WAV file whose header may declare wrong values."""
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate & 0xFFFFFFFF, 2, 16)
    body = b"WAVE" + layout + chunks + b"data" + struct.pack("<I", len(data) if declared is None else declared) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def tag(size: int) -> bytes:
    """Return an ID3v2 tag, whose header gives its size in bytes of seven bits each."""
    return b"ID3\x04\x00\x00" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes([7]) * size


def ape_tag(size: int) -> bytes:
    """Return an APE tag, which players append to the audio."""
    ends = [struct.pack("<8s4I8x", b"APETAGEX", 2000, size + 32, 1, flags) for flags in (0xA0000000, 0x80000000)]
    return ends[0] + bytes([7]) * size + ends[1]


LYRICS = b"LYRICSBEGININD0000210" + b"000021LYRICS200"
SAMPLES = (8000 * VOICE).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("content", "frames"),
    [
        (wav(SAMPLES), 33075),
        (wav(SAMPLES, chunks=b"LIST\x04\x00\x00\x00INFO"), 33075),
        (wav(SAMPLES) + b"LIST\x04\x00\x00\x00INFO", 33075),
        (wav(SAMPLES) + b"id3 " + struct.pack("<I", 9000) + bytes(9000), 33075),
        # Sound editors add padding.
        (wav(SAMPLES) + bytes(9000), 33075),
        # Programs that write to a pipe do not know the size.
        (wav(SAMPLES, declared=0xFFFFFFFF), 33075),
        (wav(SAMPLES, declared=0x7FFFFFFF - 36), 33075),
        (wav(SAMPLES, riff=0), 33075),
        (wav(b""), 0),
        # Some writers count all or part of the header, or a byte that is missing.
        *((wav(SAMPLES, declared=len(SAMPLES) + more), 33075) for more in (1, 8, 36, 44)),
        (wav(SAMPLES, declared=len(SAMPLES) - 1), 33074),
        (tag(5000) + wav(SAMPLES), 33075),
        (wav(SAMPLES) + tag(5000) + b"3DI" + tag(5000)[3:10], 33075),
        (wav(SAMPLES) + b"TAG" + bytes(125), 33075),
    ],
    ids=[
        "plain",
        "chunk before",
        "chunk behind",
        "tag behind",
        "zeros",
        "pipe",
        "pipe of 2 GiB",
        "no size",
        "empty",
        "1 too many",
        "8 too many",
        "36 too many",
        "44 too many",
        "1 too few",
        "tag in front",
        "ID3 behind",
        "ID3v1",
    ],
)
def test_unusual_wav_files_are_intact(tmp_path: Path, content: bytes, frames: int) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert measure_recording(tmp_path / "a.wav").frames == frames


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (wav(SAMPLES, declared=0), "is unfinished: its header declares 0 bytes of audio, but 66,150 more follow"),
        (wav(bytes(400) + SAMPLES, declared=0), "is unfinished: its header declares 0 bytes"),
        (wav(SAMPLES, declared=10000), "is unfinished: its header declares 10,000 bytes of audio, but 56,150 more"),
        (wav(SAMPLES) + wav(SAMPLES), "consists of several files joined into one"),
        (b"RIFF\x00\x00\x00\x00WAVEdata\x10\x00\x00\x00" + SAMPLES, "is damaged: its fmt chunk, which"),
        (wav(SAMPLES)[:36], "is damaged: its data chunk, which"),
        (
            wav(SAMPLES, chunks=b"LIST\x05\x00\x00\x00INFOx"),
            "its LIST chunk has 5 bytes, an odd number, and the padding byte is missing",
        ),
        (wav(SAMPLES, rate=0), "its header declares a sample rate of 0 Hz. Expected 4,000 to 768,000 Hz"),
        (wav(SAMPLES, rate=1), "its header declares a sample rate of 1 Hz"),
        (wav(SAMPLES, rate=4_000_000_000), "its header declares a sample rate of 4,000,000,000 Hz"),
        (b".snd" + struct.pack(">5I", 24, 0, 3, 22050, 1) + SAMPLES, "is unfinished"),
        (b".snd" + struct.pack(">5I", 24, len(SAMPLES), 3, 3, 1) + SAMPLES, "header declares a sample rate of 3 Hz"),
    ],
    ids=[
        "recorder died", "recorder died in silence", "recorder died later", "joined", "no fmt", "no data", "odd chunk",
        "0 Hz", "1 Hz", "4 GHz", "au recorder died", "au of 3 Hz",
    ],
)  # fmt: skip
def test_damaged_headers_are_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_audio(tmp_path / "a.wav", 22050)


def test_unfinished_recordings_in_other_containers(tmp_path: Path) -> None:
    def write(container: str, marker: bytes, after: int, zeros: int) -> Path:
        path = tmp_path / container
        soundfile.write(path, VOICE, 22050, format=container, subtype="PCM_16")
        content = bytearray(path.read_bytes())
        start = content.index(marker) + after
        content[start : start + zeros] = bytes(zeros)
        path.write_bytes(content)
        return path

    for container, marker, after, zeros in (
        ("AIFF", b"SSND", 4, 4), ("CAF", b"data", 4, 8), ("W64", b"data", 16, 8), ("RF64", b"ds64", 16, 8),
    ):  # fmt: skip
        with pytest.raises(DataError, match=r"is unfinished: its header declares 0 bytes"):
            load_audio(write(container, marker, after, zeros), 22050)


#: Formats in which joined files are read completely; in others the next file is ignored, or its header becomes audio.
READ_COMPLETELY = ("mp3", "webm", "mka", "avi", "aac")


@pytest.mark.parametrize("between", [b"", tag(300)], ids=["", "tags"])
def test_joined_files_are_read_completely_or_an_error(intact: Path, tmp_path: Path, between: bytes, request) -> None:
    name = request.node.callspec.params["intact"]
    content, frames = intact.read_bytes(), measure_recording(intact).frames
    (tmp_path / "joined").write_bytes(between + content + between + content)
    if name in READ_COMPLETELY:
        # The encoder adds silence at the beginning of each file.
        assert 2 * frames <= measure_recording(tmp_path / "joined").frames < 2.1 * frames
        return
    message = "damaged" if name == "wv" else "consists of several files joined into one"
    with pytest.raises(DataError, match=message):
        measure_recording(tmp_path / "joined")


@pytest.mark.parametrize(
    "name",
    [
        "wav", "aiff", "au", "caf", "flac", "vorbis", "opus", "mp3", "m4a", "mov", "mka", "webm", "wma", "aac", "amr",
        "tta", "wv", "flv",
    ],
)  # fmt: skip
def test_tags_around_a_recording_are_ignored(tmp_path: Path, encode: Callable[..., Path], name: str) -> None:
    path = write_intact(tmp_path / "intact", name, encode)
    content, expected = path.read_bytes(), load_audio(path, 22050)
    for before, behind in (
        (tag(3000), b""),
        (b"", b"TAG" + bytes(125)),
        (b"", ape_tag(500)),
        (b"", ape_tag(500) + LYRICS + b"TAG" + bytes(125)),
    ):
        (tmp_path / "tagged").write_bytes(before + content + behind)
        assert load_audio(tmp_path / "tagged", 22050).equal(expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it is empty or almost empty \(size in bytes: 0\)"),
        (b"RIFF\x10\x00", r"it is empty or almost empty \(size in bytes: 6\)"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>" + b" " * 900, "a web page that begins with '<!DOCTYPE"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n",
            "a Git LFS pointer; run `git lfs pull`",
        ),
        (b"../.git/annex/objects/xx/SHA256E-s1", "got text that begins with"),
        (b"/annex/objects/SHA256E-s1--12", "a git-annex pointer"),
        (b"PK\x03\x04" + bytes(100), "a zip archive; unpack it"),
        (b"\x1f\x8b\x08" + bytes(100), "a gzip archive"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(100), r"files whose names begin with \._"),
        (b"%PDF-1.7\n" + bytes(100), "a PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "an image"),
        (b"RIFF\x20\x00\x00\x00WEBPVP8 " + bytes(100), "an image"),
        (b"MThd\x00\x00\x00\x06" + bytes(100), "a MIDI file"),
        (b"\x93NUMPY\x01\x00" + bytes(100), "a NumPy array"),
        (bytes(3000), "it begins with null bytes, like an unfinished download"),
        ('{"error": "Доступ запрещён"}'.encode(), 'got text that begins with \'{"error"'),
        (b"Not found", "it is empty or almost empty|got text"),
        (bytes(range(256)) * 20, "not audio in a format that .* If it contains raw samples, add a header"),
    ],
)
def test_files_that_are_not_audio_are_identified(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.wav cannot be read: .*({message})"):
        load_audio(tmp_path / "a.wav", 22050)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.rf64.wav", "truncated: its header declares 83,770 bytes"),
        ("cut.aiff", "truncated: its header declares 83,770 bytes"),
        ("recorder-died.wav", r"unfinished: .*`ffmpeg -i recorder-died\.wav fixed\.wav`"),
        ("no-fmt.wav", "its fmt chunk, which declares the sample rate and format, is missing"),
    ],
)
def test_damaged_real_files(shared_data: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_intact_container(shared_data / "wild" / name)
