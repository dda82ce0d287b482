"""Read, compare and extend XTTS vocabularies, and spell new tokens with old tokens."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from anyascii import anyascii
from tokenizers import Tokenizer

from xtts_extend.errors import VocabularyError
from xtts_extend.notices import warn_once
from xtts_extend.text.vocabulary_file import TAG, parse_file, read_text

Merge = tuple[str, str]

_BATCH = 10_000


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary as the `tokenizers` library, and therefore coqui-tts, reads it from its file.

    >>> vocabulary = load_vocabulary("am/vocab.json")
    >>> vocabulary.languages
    ['en', 'es', 'am']
    >>> vocabulary.tokens["[START]"], vocabulary.unk_id
    (261, 1)

    Attributes:
        path: Path of the file.
        tokens: The id of each entry, including added tokens.
        merges: The merges, in order.
        content: Text of the file after repairs.
        unmatched_tags: Language tags that are never matched in text.
        without_merges: Multi-character entries that no merge produces.
    """

    path: Path
    tokens: dict[str, int]
    merges: list[Merge] = field(repr=False)
    content: str = field(repr=False)
    unmatched_tags: tuple[str, ...] = ()
    without_merges: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of rows that a model needs, counting unused ids: the largest id + 1."""
        return max(self.tokens.values()) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tokens, their ids and the merges. It does not depend on how the file is formatted."""
        canonical = [sorted(self.tokens.items()), self.merges]
        return hashlib.sha256(json.dumps(canonical, ensure_ascii=True).encode()).hexdigest()

    @property
    def languages(self) -> list[str]:
        """Codes of the language tags, ordered by id, such as ["en", "de", ..., "zh-cn"]."""
        return language_codes(self.tokens)

    @property
    def unk_id(self) -> int:
        """Id of [UNK], the token for unknown characters."""
        return self.tokens["[UNK]"]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer from the `tokenizers` library, without coqui's cleaning."""
        return Tokenizer.from_str(self.content)


def language_codes(tokens: dict[str, int]) -> list[str]:
    """Return the codes of a vocabulary's language tags, ordered by id."""
    matches = (TAG.fullmatch(token) for token in sorted(tokens, key=tokens.__getitem__))
    return [match[1] for match in matches if match]


def load_vocabulary(path: Path | str, *, quiet: bool = False) -> Vocabulary:
    """Read the vocabulary from an XTTS `vocab.json` file.

    >>> load_vocabulary("XTTS/vocab.json").languages
    ['en', 'es']

    Args:
        path: Path of the file.
        quiet: Suppress warnings, for a copy of a file that was already read.

    Raises:
        VocabularyError: The file is missing, unreadable, not JSON or not an XTTS vocabulary (a `tokenizers` BPE
            file with [STOP], [UNK], [SPACE] and [START]).
    """
    path = Path(path)
    return parse_vocabulary(read_text(path), path, quiet=quiet)


@contextmanager
def coqui_vocabulary_path(path: Path | str) -> Iterator[str]:
    """Yield the path if coqui can read the file; otherwise, yield the path of a temporary, repaired copy."""
    content = load_vocabulary(path).content.encode()
    if content == Path(path).read_bytes():
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="xtts_extend-") as folder:
        copy = Path(folder, "vocab.json")
        copy.write_bytes(content)
        yield str(copy)


def parse_vocabulary(content: str, path: Path, *, quiet: bool = False) -> Vocabulary:
    """Return the vocabulary that the text of a file defines.

    Args:
        content: Text of the file.
        path: The file's path, for messages.
        quiet: Suppress warnings.

    Raises:
        VocabularyError: The text is not an XTTS vocabulary.
    """
    file = parse_file(content, path)
    notes = list(file.notes)
    tokenizer = Tokenizer.from_str(file.content)
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    names: dict[int, str] = {}
    for token, index in tokens.items():
        if names.setdefault(index, token) != token:
            notes.append(f"{path}: {names[index]} and {token} share id {index}, so one row has to learn both.")
    merges = [_split_merge(merge) for merge in file.merges]
    joined = {first + second for first, second in merges}
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | set(file.unmatched_tags)
    unreachable = [token for token in tokens if len(token) > 1 and token not in joined and token not in special]
    if unreachable:
        count, is_single = len(unreachable), len(unreachable) == 1
        notes.append(
            f"{path}: {count} multi-character {'entry is' if is_single else 'entries are'} not produced by any merge, "
            f"so {'it is' if is_single else 'they are'} never used and "
            f"{'its row learns' if is_single else 'their rows learn'} nothing: {first_ten(unreachable)}."
        )
    for note in [] if quiet else notes:
        warn_once(note)
    return Vocabulary(path, tokens, merges, file.content, tuple(file.unmatched_tags), tuple(unreachable))


def _split_merge(merge: Any) -> Merge:
    """Return the two parts of a merge that a file writes as "t h" or as ["t", "h"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def append_entries(base: Vocabulary, tags: Sequence[str], letters: Sequence[str], merges: Sequence[Merge]) -> str:
    """Return the text of a vocabulary file with language tags, letters and merges appended, in that order."""
    entries = {token: index for index, token in enumerate([*tags, *letters, *map("".join, merges)], start=base.size)}
    return append_exactly(base, entries, tags, merges)


def append_exactly(base: Vocabulary, entries: Mapping[str, int], tags: Sequence[str], merges: Sequence[Merge]) -> str:
    """Return the text of a vocabulary file with entries added at the given ids.

    Args:
        base: The vocabulary to extend.
        entries: The id of each new entry.
        tags: New entries that are language tags and become added tokens.
        merges: Merges to append.
    """
    data = json.loads(base.content)
    model = data["model"]
    vocab = model["vocab"]
    for token in data["added_tokens"]:
        # If an added token has no entry, the library derives its id from the number of entries, so add the entry.
        token["id"] = vocab.setdefault(token["content"], base.tokens[token["content"]])
    vocab.update(entries)
    template = next(token for token in data["added_tokens"] if token["content"] == "[STOP]")
    data["added_tokens"] += [{**template, "id": vocab[tag], "content": tag} for tag in tags]
    in_pairs = bool(model["merges"]) and not isinstance(model["merges"][0], str)
    model["merges"] += [list(merge) if in_pairs else " ".join(merge) for merge in merges]
    return json.dumps(data, ensure_ascii=False, indent=4)


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[Any]:
    """Yield the encodings of texts, in order. They are computed in batches."""
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        yield from tokenizer.encode_batch(batch)


def first_ten(names: list[str]) -> str:
    """Format the first ten names, and the number of remaining ones, for a message."""
    return ", ".join(names[:10]) + (f", and {len(names) - 10} more" if len(names) > 10 else "")


def name_character(character: str) -> str:
    """Format a character with its code point, which distinguishes look-alikes; longer tokens get no code points."""
    return f"{character!r} (U+{ord(character):04X})" if len(character) == 1 else repr(character)


def count_closed_gaps(tokens: Mapping[str, int], other: Mapping[str, int]) -> int:
    """Return how many ids differ in `other` because it numbers the tokens without gaps."""
    ranks = {token: rank for rank, token in enumerate(sorted(tokens, key=tokens.__getitem__))}
    return sum(other.get(token) == rank != tokens[token] for token, rank in ranks.items())


def require_extension(base: Vocabulary, extended: Vocabulary) -> None:
    """Raise VocabularyError unless `extended` is `base` plus new entries whose ids directly follow the old ones."""
    moved = [
        f"{token} ({index} -> {extended.tokens.get(token, 'gone')})"
        for token, index in sorted(base.tokens.items(), key=lambda entry: entry[1])
        if extended.tokens.get(token) != index
    ]
    if moved:
        closed = count_closed_gaps(base.tokens, extended.tokens)
        reason = f" ({closed} of them because gaps in the base's token ids were closed)" if closed else ""
        raise VocabularyError(
            f"{extended.path} does not extend {base.path}: {len(moved)} of {len(base.tokens)} old entries have a "
            f"different id or are missing{reason}: {first_ten(moved)}. Create it with `xtts-extend extend-vocab` from "
            "the base's own vocab.json."
        )
    new = {index: token for token, index in extended.tokens.items() if token not in base.tokens}
    wrong = sorted(set(new) ^ set(range(base.size, extended.size)))
    named = [f"{index} ({new[index]})" if index in new else str(index) for index in wrong]
    if wrong or len(new) != len(extended.tokens) - len(base.tokens):
        raise VocabularyError(
            f"{extended.path} does not extend {base.path}: expected its new entries to use each id from {base.size} "
            f"to {extended.size - 1} exactly once; missing, unexpected or repeated: "
            f"{first_ten(named) or 'repeated ids'}. Create it with `xtts-extend extend-vocab`."
        )


def romanized_spellings(base: Vocabulary, extended: Vocabulary) -> dict[int, list[int]]:
    """Return, for each new id, the old ids that spell the romanized token, or [] if the old vocabulary cannot spell it.

    `anyascii` writes a new token in Latin letters, which are lowercased and tokenized with the old vocabulary. A
    language tag maps to the ids of all old language tags.
    """
    old_tags = [base.tokens[f"[{code}]"] for code in base.languages]
    spellings: dict[int, list[int]] = {}
    for token, index in extended.tokens.items():
        if token in base.tokens:
            continue
        if TAG.fullmatch(token):
            spellings[index] = old_tags
            continue
        ids = base.tokenizer.encode(anyascii(token).lower().replace(" ", "[SPACE]")).ids
        spellings[index] = [] if base.unk_id in ids else ids
    return dict(sorted(spellings.items()))
