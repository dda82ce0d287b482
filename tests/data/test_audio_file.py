"""All functions that read a recording get the same samples or raise the same error, whichever library decodes it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from xtts_extend.data.audio import audio_length, load_audio, load_slice, measure_recording
from xtts_extend.errors import DataError

#: FFmpeg's codec and container, sample rate in Hz, and the longest encoder delay in samples.
ENCODED = {
    "m4a": ("aac", "ipod", 44100, 1100),
    "m4a without loss": ("alac", "ipod", 44100, 0),
    "mov": ("pcm_s16le", "mov", 48000, 0),
    "mp4": ("aac", "mp4", 22050, 1100),
    "3gp": ("aac", "3gp", 16000, 1100),
    "aac": ("aac", "adts", 44100, 1100),
    "webm": ("libopus", "webm", 48000, 0),
    "mka": ("libmp3lame", "matroska", 44100, 1200),
    "wma": ("wmav2", "asf", 44100, 2100),
    "ac3": ("ac3", "ac3", 48000, 300),
    "amr": ("libopencore_amrnb", "amr", 8000, 60),
    "avi": ("libmp3lame", "avi", 44100, 1200),
    "flv": ("aac", "flv", 44100, 1100),
    "ts": ("aac", "mpegts", 44100, 1100),
    "tta": ("tta", "tta", 22050, 0),
    "wv": ("wavpack", "wv", 22050, 0),
    "caf": ("alac", "caf", 44100, 0),
    "mp3 in wav": ("libmp3lame", "wav", 44100, 1200),
    "opus": ("libopus", "ogg", 48000, 0),
    "mp2": ("mp2", "mp2", 44100, 600),
}


def voice(rate: int, seconds: float = 1.5) -> np.ndarray:
    """Return a rising tone, in which every shift is detectable."""
    time = np.arange(int(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * (300 + 500 * time) * time)


def require_agreement(path: Path, rate: int = 22050) -> torch.Tensor:
    """Return what `load_audio` returns, after asserting that slices, length and measurements agree with it."""
    full = load_audio(path, rate)
    length = full.shape[-1]
    assert audio_length(path, rate) == length
    measured = measure_recording(path)
    assert -(-measured.frames * rate // measured.sample_rate) == length
    for start, end in ((0, 1000), (length // 2 - 400, length // 2), (length - 700, length)):
        part = load_slice(path, rate, start, end)
        assert (part - full[:, start:end]).abs().max() <= 1e-6, (start, end)
    for start, end in ((length - 5, length + 1), (2 * length, 2 * length + 10)):
        with pytest.raises(DataError, match=f"ends before sample {end:,} at {rate:,} Hz"):
            load_slice(path, rate, start, end)
    return full


@pytest.mark.parametrize("name", ENCODED)
def test_every_container_is_read_by_its_content(tmp_path: Path, encode, name: str) -> None:
    codec, container, rate, delay = ENCODED[name]
    samples = voice(rate)
    # The suffix does not match the format.
    path = encode(tmp_path / "voice.wav", samples, rate, codec, container)
    decoded = require_agreement(path, rate)[0].numpy()
    # Encoders add a delay before the audio and silence after it.
    assert (-700 if name == "wma" else 0) <= len(decoded) - len(samples) <= delay + 2400
    scores = np.correlate(np.pad(decoded, (3000, 0))[: len(samples) + 6000], samples[: len(samples) // 2], "valid")
    assert (-2100 if name == "wma" else -2) <= scores.argmax() - 3000 <= delay
    assert scores.max() / (samples[: len(samples) // 2] ** 2).sum() > 0.8


def test_video_needs_an_audio_track(tmp_path: Path) -> None:
    import av

    def write(path: Path, sound: bool) -> Path:
        with av.open(str(path), "w", format="mp4") as file:
            picture = file.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
            track = file.add_stream("aac", rate=44100, layout="stereo") if sound else None
            for _ in range(10):
                file.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
            file.mux(picture.encode(None))
            if track is not None:
                samples = np.stack([voice(44100, 1.0), 0 * voice(44100, 1.0)]).astype(np.float32)
                for start in range(0, 44032, 1024):
                    part = np.ascontiguousarray(samples[:, start : start + 1024])
                    frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
                    frame.sample_rate, frame.pts = 44100, start
                    file.mux(track.encode(frame))
                file.mux(track.encode(None))
        return path

    audio = require_agreement(write(tmp_path / "talk.mp4", sound=True))
    # This is the mean of two channels, one of which is silent.
    assert 0.2 < audio.abs().max() < 0.35
    with pytest.raises(DataError, match=r"silent\.mp4 cannot be read: it has no audio track"):
        load_audio(write(tmp_path / "silent.mp4", sound=False), 22050)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "GSM610"), ("W64", "GSM610"), ("AIFF", "GSM610"), ("WAV", "G721_32"), ("AU", "G721_32"),
        ("AU", "G723_24"), ("WAV", "NMS_ADPCM_16"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("W64", "IMA_ADPCM"),
        ("WAV", "ULAW"), ("CAF", "ALAC_16"), ("OGG", "OPUS"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"),
    ],
)  # fmt: skip
def test_slices_of_codecs_that_cannot_seek(tmp_path: Path, container: str, subtype: str) -> None:
    rate = {"GSM610": 8000, "OPUS": 48000}.get(subtype, 22050)
    soundfile.write(tmp_path / "voice", voice(rate, 2.0), rate, format=container, subtype=subtype)
    assert abs(require_agreement(tmp_path / "voice", rate).shape[-1] - 2 * rate) < 1100


def test_mp3_without_a_frame_count_and_joined_mp3_files(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.mp3", voice(22050, 2.0), 22050)
    content = (tmp_path / "one.mp3").read_bytes()
    header = content.index(b"\xff", 1)
    while content[header + 1] != content[1] or content[header + 2] & 0x0C != content[2] & 0x0C:
        header = content.index(b"\xff", header + 1)
    # Some programs join files including their ID3 tags.
    tag = b"ID3\x04\x00\x00" + struct.pack(">I", 20) + bytes(20)
    for name, written, seconds in (
        ("bare.mp3", content[header:], 2.0),
        ("joined.mp3", 3 * content, 6.0),
        ("joined with tags.mp3", tag + content + b"TAG" + bytes(125) + tag + content, 4.0),
        ("joined with a bare one.mp3", content + content[header:], 4.0),
        ("junk before.mp3", bytes(300) + content[header:], 2.0),
    ):
        (tmp_path / name).write_bytes(written)
        # The encoder adds silence at the beginning and end of each file.
        assert 0 <= require_agreement(tmp_path / name).shape[-1] - seconds * 22050 <= 3000 * seconds / 2, name


def test_junk_around_an_mp3_is_not_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.mp3", voice(22050, 2.0), 22050)
    content, expected = (tmp_path / "one.mp3").read_bytes(), load_audio(tmp_path / "one.mp3", 22050)
    page = b"<!DOCTYPE html><html><body>Not found</body></html>\n" * 20
    noise = np.random.default_rng(0).bytes(50_000)
    picture = b"ID3\x03\x00\x00\x00\x24\x4f\x00" + np.random.default_rng(1).bytes(600_000 - 64)
    for name, before, behind in (
        ("picture", picture[: 10 + 36 * 16384 + 79 * 128], b""),
        ("tag of a wrong size", picture[:5000], b""),
        ("web page before", page, b""),
        ("web page behind", b"", page),
        ("answer of a server", b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n", b"\r\n"),
        ("zeros", bytes(3000), bytes(9000)),
        ("noise", noise, noise),
    ):
        (tmp_path / "a.mp3").write_bytes(before + content + behind)
        assert load_audio(tmp_path / "a.mp3", 22050).equal(expected), name
    require_agreement(tmp_path / "a.mp3")
    # Junk between the frames of one recording means that audio is missing.
    half = len(content) // 2
    (tmp_path / "a.mp3").write_bytes(content[:half] + noise + content[half:])
    with pytest.raises(DataError, match=r"a\.mp3 is damaged: the [\d,]+ bytes starting at byte [\d,]+ are not audio"):
        load_audio(tmp_path / "a.mp3", 22050)


@pytest.mark.parametrize("codec", [0x0000, 0x1234])
def test_unknown_codec_is_an_error(tmp_path: Path, codec: int) -> None:
    soundfile.write(tmp_path / "a.wav", voice(22050), 22050)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[20:22] = codec.to_bytes(2, "little")
    (tmp_path / "a.wav").write_bytes(content)
    for read in (measure_recording, lambda path: load_audio(path, 22050)):
        with pytest.raises(DataError, match=r"a\.wav cannot be read: its codec is unknown"):
            read(tmp_path / "a.wav")


def test_joined_mp3_files_with_different_formats_are_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "22050.mp3", voice(22050), 22050)
    soundfile.write(tmp_path / "44100.mp3", voice(44100), 44100)
    soundfile.write(tmp_path / "stereo.mp3", np.stack([voice(22050)] * 2, axis=1), 22050)
    for other in ("44100.mp3", "stereo.mp3"):
        joined = (tmp_path / "22050.mp3").read_bytes() + (tmp_path / other).read_bytes()
        (tmp_path / "joined.mp3").write_bytes(joined)
        for read in (measure_recording, lambda path: load_audio(path, 22050)):
            with pytest.raises(
                DataError,
                match=r"joined\.mp3 changes format partway .* 22,050 Hz \(number of channels: 1\) "
                r"to .* joined into one",
            ):
                read(tmp_path / "joined.mp3")


def test_flac_that_was_written_to_a_pipe(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "piped.flac", voice(22050), 22050)
    content = bytearray((tmp_path / "piped.flac").read_bytes())
    # Clear the 36 bits of the stream description that are the number of samples.
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(content)
    assert require_agreement(tmp_path / "piped.flac").shape[-1] == 33075


@pytest.mark.parametrize(
    ("name", "length"),
    [("vbr-without-xing.mp3", 107136), ("cbr-without-info.mp3", 107136), ("gsm.wav", 38808), ("wavs/op.opus", 38482)],
)
def test_unusual_real_files_are_read_to_the_end(shared_data: Path, name: str, length: int) -> None:
    assert require_agreement(shared_data / "wild" / name).shape[-1] == length


def test_rates_without_a_large_common_divisor_are_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "odd.wav", voice(44101), 44101)
    for read in (lambda path: load_audio(path, 22050), lambda path: load_slice(path, 22050, 0, 10)):
        with pytest.raises(
            DataError, match="odd.wav has a sample rate of 44,101 Hz and cannot be resampled to 22,050 Hz"
        ):
            read(tmp_path / "odd.wav")
    # The rate of old Macintosh computers needs a large filter, but not too large a one.
    soundfile.write(tmp_path / "mac.wav", voice(22254), 22254)
    assert load_audio(tmp_path / "mac.wav", 22050).shape == (1, 33075)


def test_webm_without_a_size_as_browsers_record_it(tmp_path: Path, encode) -> None:
    # A file that is streamed while it is recorded has no size or length in its header.
    path = encode(tmp_path / "a.webm", voice(48000), 48000, "libopus", "webm", live="1")
    assert b"\x18\x53\x80\x67\x01" + b"\xff" * 7 in path.read_bytes()
    assert require_agreement(path).shape == (1, 33075)


def test_tags_that_are_not_utf_8_are_ignored(tmp_path: Path, encode) -> None:
    path = encode(tmp_path / "a.mka", voice(44100), 44100, "libmp3lame", "matroska")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xe9\xe8\xfc\xff"))
    assert load_audio(path, 22050).shape[-1] > 33000


def test_formats_that_make_ffmpeg_open_other_files_are_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "voice.wav", voice(22050), 22050)
    # The control character keeps the file from being rejected as text before FFmpeg opens it.
    (tmp_path / "list.wav").write_bytes(b"ffconcat version 1.0\n# \x01\nfile voice.wav\n")
    with pytest.raises(DataError, match=r"list\.wav cannot be read: it is not audio"):
        load_audio(tmp_path / "list.wav", 22050)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nvoice.wav\n#EXT-X-ENDLIST\n")
    with pytest.raises(DataError, match="cannot be read: expected audio, got text"):
        load_audio(tmp_path / "list.m3u8", 22050)
