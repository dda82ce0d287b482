"""A language of tones for quick tests: each letter is a tone, which an aligner hears without a trained model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from xtts_extend.corpus.aligners import LOWEST, CtcAligner
from xtts_extend.corpus.pauses import STEP_S, loudness_curve
from xtts_extend.corpus.voice_activity import Span

RATE = 16_000
_LETTERS = "abcdefghijklmnopqrstuvwxyz'"
_TONE_S, _AFTER_LETTER_S, _AFTER_WORD_S = 0.06, 0.04, 0.04
_LOWEST_HZ, _STEP_HZ = 400.0, 200.0
_STRIDE = 320

_WORDS = [
    "river",
    "window",
    "morning",
    "village",
    "nobody",
    "children",
    "house",
    "summer",
    "winter",
    "garden",
    "silver",
    "travel",
    "letter",
    "yellow",
    "market",
    "bridge",
    "sister",
    "brother",
    "forest",
    "mountain",
    "kitchen",
    "harbor",
    "candle",
    "ribbon",
    "shadow",
    "pencil",
    "basket",
    "donkey",
    "valley",
    "copper",
]
#: Words that share few letters in a row with the others.
OTHER_WORDS = ["although", "because", "cannot", "document", "everything", "frequency", "government", "history"]


def make_sentences(count: int, seed: int = 0, words: Sequence[str] = _WORDS) -> list[str]:
    """Return different sentences of six words, 3 s long."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, 6)).capitalize() + "." for _ in range(count)]


def speak(text: str) -> npt.NDArray[np.float32]:
    """Return the tones of a text, float32 [samples] at 16 kHz. Only the letters a to z and apostrophes sound."""
    times = np.arange(round(_TONE_S * RATE)) / RATE
    pieces = []
    for word in text.lower().split():
        for letter in re.sub("[^a-z']", "", word):
            frequency = _LOWEST_HZ + _STEP_HZ * _LETTERS.index(letter)
            pieces += [0.5 * np.sin(2 * np.pi * frequency * times), np.zeros(round(_AFTER_LETTER_S * RATE))]
        pieces.append(np.zeros(round(_AFTER_WORD_S * RATE)))
    return np.concatenate(pieces).astype(np.float32)


def write_recording(
    path: Path, sentences: Sequence[str], text: Sequence[str] | None = None, pause_s: float = 0.6
) -> list[tuple[float, float]]:
    """Write a recording of sentences with pauses and faint noise, and a transcript beside it.

    Args:
        path: The recording. Its transcript has the extension .txt.
        sentences: What is spoken.
        text: The transcript, if it differs.
        pause_s: Pause before each sentence and at the end, in seconds.

    Returns:
        Start and end of each sentence in seconds.
    """
    pause = np.zeros(round(pause_s * RATE), dtype=np.float32)
    pieces, times, length = [], [], 0
    for sentence in sentences:
        speech = speak(sentence)
        times.append(((length + len(pause)) / RATE, (length + len(pause) + len(speech)) / RATE))
        pieces += [pause, speech]
        length += len(pause) + len(speech)
    audio = np.concatenate([*pieces, pause])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio + 1e-4 * np.random.default_rng(0).standard_normal(len(audio)), RATE)
    path.with_suffix(".txt").write_text(" ".join(sentences if text is None else text), encoding="utf-8")
    return times


class ToneAligner(CtcAligner):
    """A CTC aligner that hears tones."""

    def __init__(self) -> None:
        self.name, self.digest, self.rate, self.stride = "tones", "tones", RATE, _STRIDE
        self._extra_frames, self._language = 0, "en"
        self.letters, self.columns, self.romanized = tuple(_LETTERS), len(_LETTERS) + 1, False
        self._columns_of_letters = {letter: column for column, letter in enumerate(_LETTERS, start=1)}
        self._letter = re.compile(".")

    @property
    def on_gpu(self) -> bool:
        """There is no model."""
        return False

    def log_probs(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return 98 % for the tone of each frame, or for the blank if it is quiet."""
        frames = audio.reshape(len(audio), -1, _STRIDE)
        spectra = np.abs(np.fft.rfft(frames, axis=2))
        columns = np.rint((spectra.argmax(axis=2) * RATE / _STRIDE - _LOWEST_HZ) / _STEP_HZ).astype(int) + 1
        columns[np.sqrt(np.square(frames).mean(axis=2)) < 0.1] = 0
        values = np.full((*columns.shape, self.columns), 0.02 / (self.columns - 1))
        np.put_along_axis(values, columns.clip(0, len(_LETTERS))[..., None], 0.98, axis=2)
        return np.log(values).clip(LOWEST).astype(np.float32)


def find_tones(flac: Path, duration_s: float, progress: bool = True) -> list[Span]:
    """Return where there are tones, with pauses of 0.1 s between them: `find_speech` of this language."""
    levels = loudness_curve(flac)
    loud = np.convolve(levels > -40, np.ones(11), mode="same") > 0
    edges = np.flatnonzero(np.diff(loud.astype(np.int8), prepend=0, append=0)) * STEP_S
    return [
        Span(start, min(end, duration_s)) for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


def _letters_heard(audio: npt.NDArray[np.float32]) -> list[tuple[int, str]]:
    """Return the letters in audio, each with the frame where it begins."""
    padded = np.pad(audio, (0, -len(audio) % _STRIDE))
    columns = ToneAligner().log_probs(padded[None])[0].argmax(axis=1)
    begins = np.flatnonzero((columns != np.concatenate([[0], columns[:-1]])) & (columns != 0))
    return [(int(frame), _LETTERS[columns[frame] - 1]) for frame in begins]


def recognise(audio: npt.NDArray[np.float32], rate: int) -> str:
    """Return the words in audio: a recognizer for `--asr`."""
    assert rate == RATE
    text, previous = "", 0
    for frame, letter in _letters_heard(audio):
        # A letter takes five frames, and the gap between words two more.
        text += f" {letter}" if text and frame - previous > 6 else letter
        previous = frame
    return text


def align(audio: npt.NDArray[np.float32], rate: int, words: list[str]) -> list[tuple[float, float, float]]:
    """Return the time of each word, looking for it behind the previous one: a function for `--aligner`."""
    heard = _letters_heard(audio)
    letters = "".join(letter for _, letter in heard)
    times, used = [], 0
    for word in words:
        first = letters.find(word, used)
        if first < 0:
            times.append((times[-1][1] if times else 0.0, len(audio) / rate, 0.0))
        else:
            used = first + len(word)
            times.append((heard[first][0] * _STRIDE / RATE, (heard[used - 1][0] + 3) * _STRIDE / RATE, 1.0))
    return times
