"""Resemblyzer as a judge of voices: a plug of benchmarks/judged.py. Needs Resemblyzer 0.1.4 and webrtcvad-wheels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]


@functools.cache
def _encoder() -> Any:
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def embed(audio: Samples, rate: int) -> npt.NDArray[np.float32]:
    """Return the voice of audio, float32 [samples], as a vector of length 1, float32 [256]."""
    from resemblyzer import preprocess_wav

    embedding: npt.NDArray[np.float32] = _encoder().embed_utterance(preprocess_wav(audio, source_sr=rate))
    return embedding
