"""Ogg pages carry checksums, and decoders skip the pages whose checksum is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_extend.data.audio import load_audio, measure_recording
from xtts_extend.errors import DataError

VOICE = np.sin(np.arange(240000) / 20) * np.sin(np.arange(240000) / 3000)


@pytest.fixture(params=["OPUS", "VORBIS"])
def ogg(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.ogg", VOICE, 48000, format="OGG", subtype=request.param)
    return tmp_path / "a.ogg"


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_one_flipped_bit_is_detected(ogg: Path, share: float, bit: int) -> None:
    content = bytearray(ogg.read_bytes())
    offset = int(len(content) * share)
    content[offset] ^= 1 << bit
    ogg.write_bytes(content)
    start = content.rindex(b"OggS", 0, offset + 4)
    for read in (measure_recording, lambda path: load_audio(path, 22050)):
        with pytest.raises(
            DataError, match=rf"a\.ogg is damaged: the Ogg page at byte {start:,} has the wrong checksum"
        ):
            read(ogg)


def test_missing_or_inserted_bytes_are_detected(ogg: Path) -> None:
    content, frames = ogg.read_bytes(), measure_recording(ogg).frames
    half = len(content) // 2
    for changed in (content[:half] + content[half + 100 :], content[:half] + bytes(100) + content[half:]):
        ogg.write_bytes(changed)
        with pytest.raises(DataError, match=r"is damaged|is truncated"):
            measure_recording(ogg)
    for trailer in (bytes(1), bytes(5000), b"TAG" + bytes(125)):
        ogg.write_bytes(content + trailer)
        assert measure_recording(ogg).frames == frames


def test_stream_without_its_last_page_before_another_stream(ogg: Path) -> None:
    content = ogg.read_bytes()
    ogg.write_bytes(content[: content.rindex(b"OggS")] + content)
    with pytest.raises(DataError, match=rf"joined into one.* at byte {content.rindex(b'OggS'):,}"):
        measure_recording(ogg)
