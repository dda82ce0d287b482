"""Learn BPE merges with sentencepiece, and accept only those that are usable and cannot affect the old languages.

Each sentencepiece piece is tokenized with the base's merges and the merges accepted so far. If two parts remain, they
become a new merge. It comes last in the list of merges, so that the piece by itself always becomes exactly one token,
no matter which merges are added later.
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

# Reasons for rejecting a merge, which are the keys of `ExtensionReport.merges_refused`.
OLD_CHARACTERS = "made of characters that the base has: could change how old text is tokenized"
PREEMPTED = "preempted by the base's merges: would never be used"
UNCLEAN = "changed by the cleaner: would never be used"
BOUNDARY = "spans multiple words or includes punctuation: would never be used"

_SPACE = "\u2581"
# sentencepiece skips words that contain its reserved characters and words longer than 4,192 bytes, and fails if no word
# remains, so such words are left out first.
_RESERVED = frozenset(f"{_SPACE}\u2585\0")
_MAX_WORD_CHARACTERS = 1000


@dataclass(frozen=True)
class LearnedMerges:
    """New merges, with counts that show how they were selected.

    Attributes:
        merges: Merges to append, in order.
        unused: Number of these merges that never apply to the text.
        learned: Number of pieces that sentencepiece learned.
        refused: Number of pieces that were rejected, by reason.
    """

    merges: list[Merge]
    unused: int
    learned: int
    refused: Counter[str]


def known_characters(base: Vocabulary) -> set[str]:
    """Return the characters that a vocabulary can spell. Characters that occur only in tags do not count."""
    return {token for token in base.tokens if len(token) == 1}


def learn_merges(base: Vocabulary, letters: Sequence[str], words: Counter[str], wanted: int) -> LearnedMerges:
    """Learn merges from the words of a cleaned text.

    Learning continues until enough merges are accepted or the text yields no more. Merges that apply to the text
    are preferred; others are added only if there are too few of these.

    Args:
        base: The vocabulary to extend.
        letters: New single characters.
        words: Count of each word.
        wanted: Number of merges to learn. The result has fewer if the text does not yield enough.
    """
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for part, _ in base.tokenizer.pre_tokenizer.pre_tokenize_str(word):
            parts[part] += count
    trainable = {
        part: count
        for part, count in parts.items()
        if 1 < len(part) <= _MAX_WORD_CHARACTERS and _RESERVED.isdisjoint(part)
    }
    # Each piece is part of a word, so sentencepiece cannot form more pieces than this.
    max_pieces = sum(len(part) * (len(part) - 1) // 2 for part in trainable)
    request = min(wanted, max_pieces)
    if request <= 0:
        return LearnedMerges([], 0, 0, Counter())
    while True:
        pieces = _learn_pieces(trainable, request)
        accepted, refused = keep_safe_merges(base, pieces)
        used = _used_merges(base, letters, accepted, parts)
        if len(used) >= wanted or len(pieces) < request or request == max_pieces or not letters:
            break
        request = min(2 * request, max_pieces)
    unused = [merge for merge in accepted if merge not in used][: max(0, wanted - len(used))]
    chosen = {*list(used)[:wanted], *unused}
    return LearnedMerges([merge for merge in accepted if merge in chosen], len(unused), len(pieces), refused)


def _learn_pieces(words: dict[str, int], count: int) -> list[str]:
    """Return up to `count` pieces of two or more characters, in the order in which sentencepiece learned them."""
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
            # The text is already cleaned and split into words.
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
            f"sentencepiece could not learn {count:,} merges from {len(words):,} words: {error}"
        ) from error
    return [piece for piece in _ordered_pieces(ModelProto.FromString(model.getvalue())) if len(piece) > 1]


def _ordered_pieces(model: ModelProto) -> list[str]:
    """Return a model's normal pieces in merge order, which is the order of their BPE scores: 0, -1, -2, ..."""
    normal = ModelProto.SentencePiece.Type.NORMAL
    pieces = sorted((piece for piece in model.pieces if piece.type == normal), key=lambda piece: -piece.score)
    return [piece.piece for piece in pieces]


def read_pieces(path: Path, base: Vocabulary, language: str) -> tuple[list[str], Counter[str]]:
    """Return the usable pieces of a sentencepiece model, and the number of rejected pieces by reason.

    Word markers are removed, because XTTS vocabularies do not use them.

    Args:
        path: A trained BPE model.
        base: The vocabulary to extend.
        language: Code of the language whose cleaner is used.

    Raises:
        VocabularyError: The file cannot be read, or is not a sentencepiece BPE model.
    """
    try:
        model = ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise VocabularyError(f"The sentencepiece model {path} cannot be read: {error.strerror}.") from error
    except DecodeError as error:
        raise VocabularyError(f"{path} is not a sentencepiece model: {error}. Expected a `.model` file.") from error
    if not model.pieces:
        raise VocabularyError(f"{path} is not a sentencepiece model: it has no pieces. Expected a `.model` file.")
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
    if kind != "BPE":
        raise VocabularyError(
            f"{path} is a sentencepiece model of type {kind}, which scores whole pieces. XTTS applies merges in a "
            "fixed order, which only a BPE model defines. Train one with model_type='bpe', or pass the text instead."
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
    """Return the pieces' merges that are safe to append to the base's, and the number of rejected pieces by reason."""
    old = known_characters(base)
    # If a merge occurs twice, the `tokenizers` library uses the last occurrence.
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
    """Return the tokens of a word after applying BPE merges, lowest rank first and then left to right."""
    parts = list(word)
    while len(parts) > 1:
        rank, index = min((ranks.get(pair, math.inf), index) for index, pair in enumerate(pairwise(parts)))
        if rank == math.inf:
            break
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def _used_merges(
    base: Vocabulary, letters: Sequence[str], merges: Sequence[Merge], words: Counter[str]
) -> dict[Merge, None]:
    """Return, in order, the merges that apply somewhere in the words.

    A merge applies if its result is a token of a word or part of another merge that applies. All other merges do
    not affect any word's tokens, so training on the text would teach their rows nothing.
    """
    tokenizer = Tokenizer.from_str(append_entries(base, [], letters, merges))
    used = {token for encoding in encode_all(tokenizer, words) for token in encoding.tokens}
    for left, right in reversed(merges):
        if left + right in used:
            used.update((left, right))
    return dict.fromkeys(merge for merge in merges if "".join(merge) in used)
