"""Fixtures: a small vocabulary with the layout of XTTS's, and synthetic recordings."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend import enable

SAMPLE_RATE = 22050
WriteVoice = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> VoiceBpeTokenizer:
    """A tokenizer with letters, punctuation, two merges, the tags of English and German, and XTTS's special ids.

    Coqui is patched as in runs. Otherwise, the results would depend on whether an earlier test patched it.
    """
    special = ["[STOP]", "[UNK]", "[SPACE]"]
    letters = [*special, *"!'(),-.:;?", *string.ascii_lowercase, *"äöüß", "th", "the", "[START]", "[en]", "[de]"]
    bpe = models.BPE({token: i for i, token in enumerate(letters)}, [("t", "h"), ("th", "e")], unk_token="[UNK]")
    vocabulary = Tokenizer(bpe)
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    vocabulary.add_special_tokens([AddedToken(token, normalized=False) for token in letters if len(token) > 3])
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
    vocabulary.save(str(path))
    enable()
    return VoiceBpeTokenizer(str(path))


@pytest.fixture(scope="session")
def write_voice() -> WriteVoice:
    """A function that writes a recording whose samples depend on `seed` and whose format follows the suffix."""

    def write(
        path: Path, seconds: float = 1.0, rate: int = SAMPLE_RATE, channels: int = 1, seed: int = 0, gain: float = 0.5
    ) -> Path:
        generator = np.random.default_rng(seed)
        time = np.arange(int(seconds * rate)) / rate
        voice = np.sin(2 * np.pi * (110 + 10 * seed) * time) * np.sin(2 * np.pi * 3 * time)
        samples = gain * voice[:, None] + 0.01 * generator.standard_normal((len(time), channels))
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)
        return path

    return write


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    """A function that encodes samples, [frames] in [-1, 1], with one of FFmpeg's encoders."""
    import av

    def write(path: Path, samples: np.ndarray, rate: int, codec: str, container: str, **options: str) -> Path:
        with av.open(str(path), "w", format=container, options=options) as file:
            stream = file.add_stream(codec, rate=rate, layout="mono")
            stream.bit_rate = 64000 if codec != "libopencore_amrnb" else 12200
            stream.codec_context.open()
            resampler = av.AudioResampler(
                stream.codec_context.format.name, "mono", rate, frame_size=stream.codec_context.frame_size or 1024
            )
            frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
        return path

    return write
