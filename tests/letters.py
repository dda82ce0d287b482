"""Random text, and what is heard of it."""

from __future__ import annotations

import numpy as np

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
