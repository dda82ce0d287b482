"""Texts of random or of few letters, and what is heard of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xtts_extend.corpus.emissions import Emissions
from xtts_extend.corpus.matching import Ints

_LETTERS = 27


def random_text(size: int, seed: int = 0) -> Ints:
    """Return letters with the uneven frequencies of natural text."""
    rng = np.random.default_rng(seed)
    frequencies = np.random.default_rng(0).dirichlet(np.full(_LETTERS, 2.0))
    return rng.choice(_LETTERS, size, p=frequencies).astype(np.int64)


def hear(text: Ints, error_rate: float = 0.25, seed: int = 1) -> tuple[Ints, Ints]:
    """Return what a recognizer with errors hears, and for each heard letter its index in the text, or -1."""
    rng = np.random.default_rng(seed)
    heard, indices = [], []
    for index, letter in enumerate(text.tolist()):
        draw = rng.random()
        if draw < error_rate / 3:
            continue
        heard.append(int(rng.integers(_LETTERS)) if draw < 2 * error_rate / 3 else letter)
        indices.append(index)
        if draw > 1 - error_rate / 3:
            heard.append(int(rng.integers(_LETTERS)))
            indices.append(-1)
    return np.array(heard), np.array(indices)


def make_emissions(folder: Path, spoken: str, columns: int = 6) -> Emissions:
    """Return emissions from a line with a letter per frame, a to e or - for the blank: each with 90 %."""
    values = np.full((len(spoken), columns), np.log(0.1 / (columns - 1)), dtype=np.float16)
    for frame, letter in enumerate(spoken):
        values[frame, 0 if letter == "-" else ord(letter) - ord("a") + 1] = np.log(0.9)
    np.save(folder / "part-00000.npy", values)
    return Emissions(folder, "", len(spoken), columns, 320, 16_000, len(spoken))


def spell(words: str) -> list[list[int]]:
    """Return the columns of the letters a to e of each word."""
    return [[ord(letter) - ord("a") + 1 for letter in word] for word in words.split()]
