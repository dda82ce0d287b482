"""Language packs for tests, made from the mini base with random changes instead of training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from networks import base_weights
from torch import Tensor

from xtts_extend.model.adapter import difference
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.voice import VOICE_PARTS
from xtts_extend.pack.file import Pack, digests, write_pack
from xtts_extend.pack.pack_info import PackedVocabulary, PackInfo, Training
from xtts_extend.text.languages import cleaning_of, language_tag
from xtts_extend.text.tokenizer import PackedLanguage
from xtts_extend.text.vocabulary import append_entries, load_vocabulary, parse_vocabulary

VOICE_SIDE = tuple(f"gpt.{part}" for part in VOICE_PARTS)
#: A text with a number for each language; vocabularies get its letters.
TEXTS = {"am": "ሰላም ለዓለም 12", "ti": "ሰላም ዓለም 7", "el": "γειά σου κόσμε 3"}


@functools.lru_cache(maxsize=2)
def _read_base(base: Path, time_ns: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights of a base whose file was changed at a time, and their digests; both are read-only."""
    weights = base_weights(base)
    return weights, digests(weights)


def trained(base: Mapping[str, Tensor], rows: int, seed: int) -> dict[str, Tensor]:
    """Return a base's weights as a run could change them: the GPT except for old rows and the voice side."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in base.items():
        changed = tensor
        if name.removeprefix("gpt.") in TOKEN_TENSORS:
            new = torch.randn(rows, *tensor.shape[1:], generator=generator) * 0.1
            changed = torch.cat([tensor, new])
        elif name.startswith("gpt.") and not name.startswith(VOICE_SIDE):
            changed = tensor + torch.randn(tensor.shape, generator=generator) * 0.05
        weights[name] = changed
    return weights


def make_pack(
    base: Path,
    language: str,
    path: Path,
    *,
    seed: int = 0,
    merges: Sequence[tuple[str, str]] = (),
    rank: int | None = None,
    dtype: torch.dtype = torch.float32,
    change: Callable[[PackInfo], PackInfo] = lambda info: info,
) -> Pack:
    """Write and return a pack of a language in `TEXTS`.

    Args:
        base: Folder of the base model.
        language: A key of `TEXTS`.
        path: The pack's file.
        seed: Seed of the random changes.
        merges: Merges to add to the vocabulary.
        rank: Rank of the stored factors; None to store full tensors.
        dtype: Precision of the stored tensors.
        change: Function that edits the metadata before it is written.
    """
    known = load_vocabulary(base / "vocab.json")
    cleaning, limit = cleaning_of(language)
    letters = sorted({letter for letter in cleaning(TEXTS[language]) if letter not in known.tokens and letter != " "})
    content = append_entries(known, [language_tag(language)], letters, list(merges))
    vocabulary = parse_vocabulary(content, base / "vocab.json")
    original, original_digests = _read_base(base, (base / "model.pth").stat().st_mtime_ns)
    weights = trained(original, vocabulary.size - known.size, seed)
    spoken = PackedLanguage(language, vocabulary.tokenizer, cleaning, limit)
    info = PackInfo(
        language=language,
        base=dict(original_digests),
        vocabulary=PackedVocabulary.between(known, vocabulary),
        cleaning=cleaning,
        char_limit=limit,
        texts={TEXTS[language]: spoken.encode(TEXTS[language])},
        training=Training(steps=3, hours={language: 0.5}, utterances={language: 7}, losses={"trained": 2.5}),
        licence="CC0",
        created="2026-01-02",
        dtype=str(dtype).removeprefix("torch."),
        rank=rank,
    )
    tensors = {name: part.to(dtype) for name, part in difference(weights, original, rank).items()}
    return write_pack(path, change(info), tensors)


def with_num2words(version: str, ids: Sequence[int] = (0,)) -> Callable[[PackInfo], PackInfo]:
    """Return a `change` for `make_pack` that records a version of num2words and other token ids for the text."""
    return lambda info: replace(info, num2words=version, texts={text: list(ids) for text in info.texts})


def values(pack: Pack) -> dict[str, Any]:
    """Return a pack's metadata without the digests."""
    return {key: value for key, value in pack.info.to_dict().items() if key not in ("base", "tensors")}
