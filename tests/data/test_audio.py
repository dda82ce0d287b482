from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from xtts_extend.data.audio import audio_length, load_audio, load_slice, save_wav
from xtts_extend.errors import DataError


def test_load_audio_averages_resamples_and_clips_like_coqui(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.7, (9000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "stereo.wav", samples, 44100, subtype="FLOAT")
    audio = load_audio(tmp_path / "stereo.wav", 22050)

    mono = torch.mean(torch.from_numpy(samples.T.copy()), dim=0, keepdim=True)
    expected = torchaudio.functional.resample(mono, 44100, 22050)
    assert expected.abs().max() > 1
    assert audio.dtype == torch.float32
    assert audio.shape == (1, 4500)
    assert torch.equal(audio, expected.clip(-1, 1))


def test_load_audio_keeps_mono_samples_at_the_model_rate(tmp_path: Path) -> None:
    codes = np.array([0, 1, -1, 32767, -32768, 12345] * 100, dtype=np.int16)
    soundfile.write(tmp_path / "mono.wav", codes, 22050)
    assert torch.equal(load_audio(str(tmp_path / "mono.wav"), 22050), torch.from_numpy(codes / np.float32(32768))[None])


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_load_audio_reads_every_format_under_any_name(tmp_path: Path, write_voice, suffix: str) -> None:
    path = write_voice(tmp_path / "ሰላም ለዓለም" / f"один два{suffix}", seconds=1.0)
    audio = load_audio(path, 22050)
    assert audio.shape == (1, 22050)
    assert 0.4 < audio.abs().max() < 0.7


def test_load_audio_reads_human_speech(shared_data: Path) -> None:
    path = shared_data / "ljspeech" / "wavs" / "LJ001-0002.flac"
    assert load_audio(path, 22050).shape == (1, soundfile.info(path).frames)


@pytest.mark.parametrize("rate", [22050, 44100, 48000, 16000, 8000, 24000, 11025])
def test_load_slice_equals_the_slice_of_the_full_recording(tmp_path: Path, rate: int) -> None:
    samples = np.random.default_rng(1).uniform(-0.9, 0.9, (3 * rate + 17, 2)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, rate, subtype="FLOAT")
    full = load_audio(tmp_path / "long.wav", 22050)
    length = full.shape[-1]
    assert audio_length(tmp_path / "long.wav", 22050) == length
    for start, end in ((0, 5000), (0, length), (12345, 40001), (length - 3000, length), (31000, 31001)):
        part = load_slice(tmp_path / "long.wav", 22050, start, end)
        assert part.shape == (1, end - start)
        if rate == 22050:
            assert torch.equal(part, full[:, start:end])
        else:
            assert (part - full[:, start:end]).abs().max() <= 1e-6


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_load_slice_reads_every_format(tmp_path: Path, write_voice, suffix: str) -> None:
    path = write_voice(tmp_path / f"voice{suffix}", seconds=2.0)
    full = load_audio(path, 22050)
    assert audio_length(path, 22050) == full.shape[-1]
    part = load_slice(path, 22050, 20000, 30000)
    # A lossy decoder rounds differently if it starts in the middle.
    assert (part - full[:, 20000:30000]).abs().max() <= (0 if suffix in (".wav", ".flac") else 1e-4)


@pytest.mark.parametrize("rate", [22050, 44100])
def test_load_slice_beyond_the_end_is_an_error(tmp_path: Path, write_voice, rate: int) -> None:
    path = write_voice(tmp_path / "short.wav", seconds=1.0, rate=rate)
    for start, end in ((22000, 22051), (40000, 40010)):
        with pytest.raises(DataError, match=rf"short\.wav ends before sample {end:,} at"):
            load_slice(path, 22050, start, end)


def test_load_slice_of_a_truncated_file_is_an_error(tmp_path: Path, write_voice) -> None:
    content = write_voice(tmp_path / "half.mp3", seconds=2).read_bytes()
    (tmp_path / "half.mp3").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"half\.mp3 is truncated: its header declares"):
        load_slice(tmp_path / "half.mp3", 22050, 15000, 40000)


def test_load_audio_says_what_is_wrong(tmp_path: Path, write_voice) -> None:
    (tmp_path / "text.wav").write_text("this is not a recording")
    (tmp_path / "nothing.wav").write_bytes(b"")
    (tmp_path / "headerless.raw").write_bytes(bytes(1000))
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "no samples.wav", np.zeros(0), 22050)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.2] * 999, dtype=np.float32), 22050, subtype="FLOAT")
    for suffix in (".wav", ".flac", ".mp3"):
        complete = write_voice(tmp_path / f"complete{suffix}", seconds=2).read_bytes()
        (tmp_path / f"half{suffix}").write_bytes(complete[: len(complete) // 2])
    for name, message in {
        "nowhere.wav": "no such file",
        "folder.wav": "is a folder. Expected an audio file",
        "text.wav": "cannot be read",
        "nothing.wav": "cannot be read",
        "headerless.raw": "cannot be read",
        "no samples.wav": "no samples",
        "nan.wav": "NaN",
        "half.wav": "truncated: its header declares 88,200 bytes of audio, but the file has 44,078",
        "half.flac": "damaged or truncated",
        "half.mp3": "truncated: its header declares 79 frames, but the file has 37",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            load_audio(tmp_path / name, 22050)
        assert name in str(caught.value)


def test_load_audio_accepts_a_wav_that_was_written_to_a_pipe(tmp_path: Path, write_voice) -> None:
    content = bytearray(write_voice(tmp_path / "piped.wav").read_bytes())
    size_offset = content.index(b"data") + 4
    content[size_offset : size_offset + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "piped.wav").write_bytes(content)
    assert load_audio(tmp_path / "piped.wav", 22050).shape == (1, 22050)


def test_save_wav_writes_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "ሰላም.wav"
    save_wav(path, torch.tensor([[0.5, -0.5, 2.0, -2.0]], dtype=torch.bfloat16), 24000)
    assert soundfile.info(path).subtype == "PCM_16"
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 24000
    assert samples.tolist() == [16384, -16384, 32767, -32768]
    save_wav(path, np.array([0.25, -0.25]), 24000)
    assert soundfile.read(path, dtype="int16")[0].tolist() == [8192, -8192]


@pytest.mark.parametrize("audio", [torch.zeros(2, 5), torch.zeros(0), torch.zeros(1, 1, 5), np.array([0.1, np.nan])])
def test_save_wav_rejects_all_but_finite_mono_audio(tmp_path: Path, audio) -> None:
    with pytest.raises(DataError, match="Cannot write"):
        save_wav(tmp_path / "out.wav", audio, 24000)
    assert not (tmp_path / "out.wav").exists()


def test_save_wav_reports_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        save_wav(tmp_path / "file" / "out.wav", torch.zeros(10), 24000)
    (tmp_path / "taken.wav").mkdir()
    with pytest.raises(DataError, match="Cannot write"):
        save_wav(tmp_path / "taken.wav", torch.zeros(10), 24000)
