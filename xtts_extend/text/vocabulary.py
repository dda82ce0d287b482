"""XTTS vocabularies: reading, comparing, appending, and spelling new tokens with old ones."""

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
    """A vocabulary as the `tokenizers` library, and so coqui-tts, understands its file.

    `tokens` maps every entry to its id, added tokens included; `merges` are in order; `content` is the file's text,
    repaired where another tool left something out; `unmatched_tags` are language tags that text never becomes, and
    `without_merges` entries of several characters that no merge leads to.
    """

    path: Path
    tokens: dict[str, int]
    merges: list[Merge] = field(repr=False)
    content: str = field(repr=False)
    unmatched_tags: tuple[str, ...] = ()
    without_merges: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Rows that a model with this vocabulary has: the largest id + 1, gaps included."""
        return max(self.tokens.values()) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of tokens, ids and merges: the same for two files that differ in formatting only."""
        canonical = [sorted(self.tokens.items()), self.merges]
        return hashlib.sha256(json.dumps(canonical, ensure_ascii=True).encode()).hexdigest()

    @property
    def languages(self) -> list[str]:
        """Codes of the language tags, in the order of their ids: ["en", "de", ..., "zh-cn"]."""
        return language_codes(self.tokens)

    @property
    def unk_id(self) -> int:
        return self.tokens["[UNK]"]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bare tokenizer, without coqui's cleaning."""
        return Tokenizer.from_str(self.content)


def language_codes(tokens: dict[str, int]) -> list[str]:
    """The codes among the entries of a vocabulary that are language tags, in the order of their ids."""
    matches = (TAG.fullmatch(token) for token in sorted(tokens, key=tokens.__getitem__))
    return [match[1] for match in matches if match]


def load_vocabulary(path: Path | str, *, quiet: bool = False) -> Vocabulary:
    """Read an XTTS `vocab.json`; `quiet` for a copy of one whose faults were named.

    Raises VocabularyError when it is missing, unreadable, not JSON, not a `tokenizers` BPE file as XTTS uses them, or
    lacks one of [STOP], [UNK], [SPACE] and [START].
    """
    path = Path(path)
    return parse_vocabulary(read_text(path), path, quiet=quiet)


@contextmanager
def coqui_vocabulary_path(path: Path | str) -> Iterator[str]:
    """The path where coqui reads the file as we do; else that of a repaired copy, while the context lasts."""
    content = load_vocabulary(path).content.encode()
    if content == Path(path).read_bytes():
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="xtts_extend-") as folder:
        copy = Path(folder, "vocab.json")
        copy.write_bytes(content)
        yield str(copy)


def parse_vocabulary(content: str, path: Path, *, quiet: bool = False) -> Vocabulary:
    """The vocabulary that a file's text describes; `path` is for messages. Raises VocabularyError."""
    file = parse_file(content, path)
    notes = list(file.notes)
    tokenizer = Tokenizer.from_str(file.content)
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    names: dict[int, str] = {}
    for token, index in tokens.items():
        if names.setdefault(index, token) != token:
            notes.append(f"{path}: {names[index]} and {token} share the id {index}: one row has to learn both.")
    merges = [_split_merge(merge) for merge in file.merges]
    joined = {first + second for first, second in merges}
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | set(file.unmatched_tags)
    alone = [token for token in tokens if len(token) > 1 and token not in joined and token not in special]
    if alone:
        one = len(alone) == 1
        notes.append(
            f"{path}: {len(alone)} {'entry' if one else 'entries'} of several characters {'has' if one else 'have'} no "
            f"merge that leads to {'it' if one else 'them'}, so no text becomes {'it' if one else 'one of them'} and "
            f"{'its row learns' if one else 'their rows learn'} nothing: {first_ten(alone)}."
        )
    for note in [] if quiet else notes:
        warn_once(note)
    return Vocabulary(path, tokens, merges, file.content, tuple(file.unmatched_tags), tuple(alone))


def _split_merge(merge: Any) -> Merge:
    """The two parts of a merge, which files write as "t h" or as ["t", "h"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def append_entries(base: Vocabulary, tags: Sequence[str], letters: Sequence[str], merges: Sequence[Merge]) -> str:
    """The text of a vocabulary file with new language tags, letters and merges after the base's, in this order."""
    entries = {token: index for index, token in enumerate([*tags, *letters, *map("".join, merges)], start=base.size)}
    return append_exactly(base, entries, tags, merges)


def append_exactly(base: Vocabulary, entries: Mapping[str, int], tags: Sequence[str], merges: Sequence[Merge]) -> str:
    """The text of a vocabulary file with entries, of given ids, and merges after the base's.

    Args:
        base: the vocabulary to extend.
        entries: token → id.
        tags: those of the entries that are added tokens.
        merges: of the entries.
    """
    data = json.loads(base.content)
    model = data["model"]
    vocab = model["vocab"]
    for token in data["added_tokens"]:
        # The library gives an added token without an entry an id that depends on the number of entries: pin it.
        token["id"] = vocab.setdefault(token["content"], base.tokens[token["content"]])
    vocab.update(entries)
    template = next(token for token in data["added_tokens"] if token["content"] == "[STOP]")
    data["added_tokens"] += [{**template, "id": vocab[tag], "content": tag} for tag in tags]
    in_pairs = bool(model["merges"]) and not isinstance(model["merges"][0], str)
    model["merges"] += [list(merge) if in_pairs else " ".join(merge) for merge in merges]
    return json.dumps(data, ensure_ascii=False, indent=4)


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[Any]:
    """Encodings of many texts, in order, a batch at a time."""
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        yield from tokenizer.encode_batch(batch)


def first_ten(names: list[str]) -> str:
    """The first ten names, for a message."""
    return ", ".join(names[:10]) + (f", and {len(names) - 10} more" if len(names) > 10 else "")


def name_character(character: str) -> str:
    """A character with its code point, which tells apart what looks alike; a longer token as it is."""
    return f"{character!r} (U+{ord(character):04X})" if len(character) == 1 else repr(character)


def count_closed_gaps(tokens: Mapping[str, int], other: Mapping[str, int]) -> int:
    """How many tokens have another id in `other`, and the one that they get when ids are counted without gaps."""
    ranks = {token: rank for rank, token in enumerate(sorted(tokens, key=tokens.__getitem__))}
    return sum(other.get(token) == rank != tokens[token] for token, rank in ranks.items())


def require_extension(base: Vocabulary, extended: Vocabulary) -> None:
    """Raise VocabularyError, naming the first ten, unless `extended` is `base` plus ids right after its last one."""
    moved = [
        f"{token} ({index} -> {extended.tokens.get(token, 'gone')})"
        for token, index in sorted(base.tokens.items(), key=lambda entry: entry[1])
        if extended.tokens.get(token) != index
    ]
    if moved:
        closed = count_closed_gaps(base.tokens, extended.tokens)
        why = f" ({closed} of them because the base's gaps were closed)" if closed else ""
        raise VocabularyError(
            f"{extended.path} does not extend {base.path}: {len(moved)} of {len(base.tokens)} old entries have "
            f"moved or vanished{why}: {first_ten(moved)}. "
            "Make it with `xtts-extend extend-vocab` from the base's own vocab.json."
        )
    new = {index: token for token, index in extended.tokens.items() if token not in base.tokens}
    wrong = sorted(set(new) ^ set(range(base.size, extended.size)))
    named = [f"{index} ({new[index]})" if index in new else str(index) for index in wrong]
    if wrong or len(new) != len(extended.tokens) - len(base.tokens):
        raise VocabularyError(
            f"{extended.path} does not extend {base.path}: its new entries should have the ids {base.size} to "
            f"{extended.size - 1}, each once; missing, misplaced or doubled: "
            f"{first_ten(named) or 'doubled ids'}. Make it with `xtts-extend extend-vocab`."
        )


def romanized_spellings(base: Vocabulary, extended: Vocabulary) -> dict[int, list[int]]:
    """New id -> the old ids that spell its romanisation, [] when the old vocabulary cannot spell it.

    A new token is written in Latin letters by `anyascii`, in lower case, and cut by the old vocabulary. A language tag
    maps to the ids of all old language tags.
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
