"""New BPE merges: learned with sentencepiece, and admitted only where they cannot touch old text and really apply.

A piece of sentencepiece becomes a merge by cutting it with the base's merges and those admitted so far. When that
leaves two parts, the two are the merge; it gets the last rank, so the piece alone is cut into exactly itself, now and
after every later merge.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import sentencepiece
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer

from xtts_extend.errors import VocabularyError
from xtts_extend.text.languages import clean_text
from xtts_extend.text.vocabulary import Merge, Vocabulary, append_entries, encode_all

OLD_CHARACTERS = "made of characters that the base knows: could change how old text is cut"
PREEMPTED = "cut otherwise by the base's merges: would never be given"
UNCLEAN = "not as the cleaner leaves text: would never be given"
BOUNDARY = "reaches across words or punctuation: would never be given"

_SPACE = "\u2581"
# sentencepiece skips words with characters that mean something to itself, and words of more than 4,192 bytes, and
# fails when nothing is left: they are left out before.
_RESERVED = frozenset(f"{_SPACE}\u2585\0")
_LONGEST = 1000


@dataclass(frozen=True)
class LearnedMerges:
    """Merges to append, in order; how many of them never apply to the text; how many pieces sentencepiece had learned;
    how many of those were refused, by reason."""

    merges: list[Merge]
    unused: int
    learned: int
    refused: Counter[str]


def known_characters(base: Vocabulary) -> set[str]:
    """The characters that a vocabulary can spell; one that stands only inside of tags is not among them."""
    return {token for token in base.tokens if len(token) == 1}


def learn_merges(base: Vocabulary, letters: Sequence[str], words: Counter[str], wanted: int) -> LearnedMerges:
    """Learn `wanted` merges from the words of a cleaned text, or as many as can be formed.

    While too few are admitted and the text has more, more are learned. Merges that apply to the text go first; only
    when there are not enough of them do others fill up.
    """
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for part, _ in base.tokenizer.pre_tokenizer.pre_tokenize_str(word):
            parts[part] += count
    trainable = {
        part: count for part, count in parts.items() if 1 < len(part) <= _LONGEST and _RESERVED.isdisjoint(part)
    }
    # sentencepiece cannot form more: each of its pieces is a part of a word.
    most = sum(len(part) * (len(part) - 1) // 2 for part in trainable)
    request = min(wanted, most)
    if request <= 0:
        return LearnedMerges([], 0, 0, Counter())
    while True:
        pieces = _learn_pieces(trainable, request)
        admitted, refused = keep_safe_merges(base, pieces)
        applied = _applied(base, letters, admitted, parts)
        if len(applied) >= wanted or len(pieces) < request or request == most or not letters:
            break
        request = min(2 * request, most)
    spare = [merge for merge in admitted if merge not in applied][: max(0, wanted - len(applied))]
    chosen = {*list(applied)[:wanted], *spare}
    return LearnedMerges([merge for merge in admitted if merge in chosen], len(spare), len(pieces), refused)


def _learn_pieces(words: dict[str, int], count: int) -> list[str]:
    """Up to `count` pieces of two or more characters, in the order in which sentencepiece learned them."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{occurrences}" for word, occurrences in words.items()),
            input_format="tsv",
            model_writer=model,
            model_type="bpe",
            vocab_size=count + len(set().union(*words)) + 1,
            hard_vocab_limit=False,
            character_coverage=1.0,
            # The text is clean and cut into words already: nothing is to be normalised or split again.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_unicode_script=False,
            split_by_number=False,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise VocabularyError(
            f"sentencepiece could not learn {count} merges from {len(words)} words: {error}"
        ) from error
    return [piece for piece in _ordered_pieces(ModelProto.FromString(model.getvalue())) if len(piece) > 1]


def _ordered_pieces(model: ModelProto) -> list[str]:
    """Ordinary pieces in the order of their merges: BPE scores are 0, -1, -2, ..."""
    normal = ModelProto.SentencePiece.Type.NORMAL
    pieces = sorted((piece for piece in model.pieces if piece.type == normal), key=lambda piece: -piece.score)
    return [piece.piece for piece in pieces]


def read_pieces(path: Path, base: Vocabulary, language: str) -> tuple[list[str], Counter[str]]:
    """Pieces of a trained sentencepiece model that can stand in an XTTS vocabulary, and how many cannot, by reason.

    Word markers are taken off, as XTTS has none. Raises VocabularyError for a file that is no sentencepiece model, and
    for other models than BPE.
    """
    try:
        model = ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise VocabularyError(f"sentencepiece model {path} cannot be read: {error.strerror}.") from error
    except DecodeError as error:
        raise VocabularyError(f"{path} is not a sentencepiece model: {error}. Expected a `.model` file.") from error
    if not model.pieces:
        raise VocabularyError(f"{path} is not a sentencepiece model: it has no pieces. Expected a `.model` file.")
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
    if kind != "BPE":
        raise VocabularyError(
            f"{path} is a sentencepiece model of type {kind}. XTTS applies merges in a fixed order, which only a BPE "
            f"model has; a {kind} model weighs whole pieces. Train one with model_type='bpe', or give the text instead."
        )
    usable: dict[str, None] = {}
    refused: Counter[str] = Counter()
    for marked in _ordered_pieces(model):
        piece = marked.lstrip(_SPACE)
        if not piece or piece in usable:
            continue
        if _SPACE in piece or len(base.tokenizer.pre_tokenizer.pre_tokenize_str(piece)) > 1:
            refused[BOUNDARY] += 1
        elif clean_text(piece, language) != piece:
            refused[UNCLEAN] += 1
        else:
            usable[piece] = None
    return list(usable), refused


def keep_safe_merges(base: Vocabulary, pieces: Sequence[str]) -> tuple[list[Merge], Counter[str]]:
    """Turn pieces, in order, into merges to append to the base's; also how many were refused, by reason."""
    old = known_characters(base)
    # The library lets the last of two equal merges win.
    ranks = {merge: rank for rank, merge in enumerate(base.merges)}
    merges: list[Merge] = []
    refused: Counter[str] = Counter()
    for piece in pieces:
        if old.issuperset(piece):
            refused[OLD_CHARACTERS] += 1
            continue
        parts = _apply_merges(piece, ranks)
        if len(parts) == 2:
            merge = (parts[0], parts[1])
            ranks[merge] = len(base.merges) + len(merges)
            merges.append(merge)
        elif len(parts) > 2:
            refused[PREEMPTED] += 1
    return merges, refused


def _apply_merges(word: str, ranks: dict[Merge, int]) -> list[str]:
    """Apply BPE merges to one word, the lowest rank first, from the left."""
    parts = list(word)
    while len(parts) > 1:
        rank, at = min((ranks.get(pair, math.inf), place) for place, pair in enumerate(pairwise(parts)))
        if rank == math.inf:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _applied(
    base: Vocabulary, letters: Sequence[str], merges: Sequence[Merge], words: Counter[str]
) -> dict[Merge, None]:
    """Those of the merges that apply somewhere in the words, in order.

    A merge applies when its result is given, or is a part of one that applies. Without the others every word of the
    text is cut as before, and their rows would learn nothing from it.
    """
    tokenizer = Tokenizer.from_str(append_entries(base, [], letters, merges))
    used = {token for encoding in encode_all(tokenizer, words) for token in encoding.tokens}
    for left, right in reversed(merges):
        if left + right in used:
            used.update((left, right))
    return dict.fromkeys(merge for merge in merges if "".join(merge) in used)
