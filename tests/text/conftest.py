"""A small vocabulary with the layout of the real one: the same special ids, gaps, tags and a few merges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LETTERS = "abcdefghijklmnopqrstuvwxyz12345!',-./():;?&"
MERGES = ["t h", "th e", "i n", "a n", "e r", "k a", "o n"]


def small_vocabulary(tags: tuple[str, ...] = ("en", "de", "fr")) -> dict[str, Any]:
    vocab = {"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2}
    vocab |= {letter: index for index, letter in enumerate(LETTERS, start=14)}
    vocab |= {merge.replace(" ", ""): index for index, merge in enumerate(MERGES, start=100)}
    vocab |= {"[START]": 261} | {f"[{tag}]": index for index, tag in enumerate(tags, start=262)}
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": index, "content": token, **flags} for token, index in vocab.items() if token.startswith("[")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": vocab,
            "merges": list(MERGES),
        },
    }


@pytest.fixture
def small_vocab_data() -> dict[str, Any]:
    return small_vocabulary()


@pytest.fixture
def write_vocab(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a vocabulary, by default the small one, and returns its path."""

    def write(
        data: Any = None, name: str = "base.json", indent: int | None = 4, tags: tuple[str, ...] = ("en", "de", "fr")
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(small_vocabulary(tags) if data is None else data, ensure_ascii=False, indent=indent),
            encoding="utf-8",
        )
        return path

    return write


@pytest.fixture
def small_vocab(write_vocab: Callable[..., Path]) -> Path:
    return write_vocab()


@pytest.fixture
def write_text(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes, name: str = "corpus.txt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
