"""XTTS vocabularies: reading, comparing, appending, and spelling new tokens with old ones."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from anyascii import anyascii
from tokenizers import Tokenizer

from xtts_extend.errors import VocabularyError

Merge = tuple[str, str]

SPECIAL_TOKENS = ("[STOP]", "[UNK]", "[SPACE]", "[START]")
# Options of the BPE model that XTTS leaves alone; each of them would change how text is cut.
_UNSET_OPTIONS = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
    "fuse_unk",
)
_BATCH = 10_000
_TAG = re.compile(r"\[([a-z]{2,8}(?:-[a-z]{2,8})?)\]")


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary as the `tokenizers` library, and so coqui-tts, understands its file.

    `tokens` maps every entry to its id, added tokens included; `merges` are in order; `content` is the file's text.
    """

    path: Path
    tokens: dict[str, int]
    merges: list[Merge] = field(repr=False)
    content: str = field(repr=False)

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
    def stop_id(self) -> int:
        return self.tokens["[STOP]"]

    @property
    def unk_id(self) -> int:
        return self.tokens["[UNK]"]

    @property
    def space_id(self) -> int:
        return self.tokens["[SPACE]"]

    @property
    def start_id(self) -> int:
        return self.tokens["[START]"]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bare tokenizer, without coqui's cleaning."""
        return Tokenizer.from_str(self.content)


def language_codes(tokens: dict[str, int]) -> list[str]:
    """The codes among the entries of a vocabulary that are language tags, in the order of their ids."""
    matches = (_TAG.fullmatch(token) for token in sorted(tokens, key=tokens.__getitem__))
    return [match[1] for match in matches if match]


def load_vocabulary(path: Path | str) -> Vocabulary:
    """Read an XTTS `vocab.json`.

    Raises VocabularyError when it is missing, unreadable, not JSON, not a `tokenizers` BPE file as XTTS uses them, or
    lacks one of [STOP], [UNK], [SPACE] and [START].
    """
    path = Path(path)
    try:
        content = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise VocabularyError(
            f"Vocabulary {path} cannot be read: {error.strerror}. Expected an XTTS vocab.json."
        ) from error
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"Vocabulary {path} is not UTF-8 text (byte {error.start}). Expected an XTTS vocab.json."
        ) from error
    return parse_vocabulary(content, path)


def parse_vocabulary(content: str, path: Path) -> Vocabulary:
    """The vocabulary that a file's text describes; `path` is for messages. Raises VocabularyError."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"Vocabulary {path} is not JSON: {error}. Expected an XTTS vocab.json.") from error
    problem = _problem(data)
    if problem:
        raise VocabularyError(
            f"Vocabulary {path} is not one of XTTS: {problem}. Expected the vocab.json of an XTTS model, a "
            "`tokenizers` BPE file."
        )
    tokens = Tokenizer.from_str(content).get_vocab(with_added_tokens=True)
    merges = [_split_merge(merge) for merge in data["model"]["merges"]]
    return Vocabulary(path, tokens, merges, content)


def _split_merge(merge: Any) -> Merge:
    """The two parts of a merge, which files write as "t h" or as ["t", "h"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _problem(data: Any) -> str | None:
    """What keeps this JSON from being an XTTS vocabulary, in words.

    The library reports every fault as a plain `Exception`, so all that it would trip over is looked at first.
    """
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        return 'it has no "model" part'
    model = data["model"]
    if model.get("type") != "BPE":
        return f"its model is of type {model.get('type')!r}, not 'BPE'"
    if data.get("version") != "1.0":
        return f"its format version is {data.get('version')!r}, not '1.0'"
    if data.get("pre_tokenizer") != {"type": "Whitespace"}:
        return f"its pre_tokenizer is {data.get('pre_tokenizer')!r}, not Whitespace"
    for part in ("truncation", "padding", "normalizer", "post_processor", "decoder"):
        if data.get(part) is not None:
            return f"it has a {part}"
    for option in _UNSET_OPTIONS:
        if model.get(option):
            return f"its model sets {option}"
    return _entries_problem(model) or _added_tokens_problem(data, model["vocab"])


def _entries_problem(model: dict[str, Any]) -> str | None:
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        return "its model lacks vocab or merges"
    bad = [token for token, index in vocab.items() if type(index) is not int or not 0 <= index < 2**31]
    if bad:
        return f"the id of {bad[0]!r} is {vocab[bad[0]]!r}"
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
            return f"{merge!r} is no merge"
        if not {*parts, "".join(parts)} <= vocab.keys():
            return f"merge {merge!r} has parts, or a result, that are no entries"
    if model.get("unk_token") != "[UNK]" or "[UNK]" not in vocab:
        return f"its unknown token is {model.get('unk_token')!r}, not an entry '[UNK]'"
    return None


def _added_tokens_problem(data: dict[str, Any], vocab: dict[str, int]) -> str | None:
    added = data.get("added_tokens")
    if not isinstance(added, list):
        return "it has no added_tokens"
    flags = ("special", "single_word", "lstrip", "rstrip", "normalized")
    for token in added:
        if not (
            isinstance(token, dict)
            and isinstance(token.get("content"), str)
            and type(token.get("id")) is int
            and 0 <= token["id"] < 2**31
            and all(isinstance(token.get(flag), bool) for flag in flags)
        ):
            return f"{token!r} is no added token"
    contents = {token["content"] for token in added}
    # The library may give an added token the id of an entry; two entries with one id are no vocabulary.
    ids = [index for token, index in vocab.items() if token not in contents]
    if len(set(ids)) != len(ids):
        return "two of its entries share one id"
    missing = sorted(set(SPECIAL_TOKENS) - contents)
    return f"it lacks {', '.join(missing)} among its added tokens" if missing else None


def append_entries(base: Vocabulary, tags: Sequence[str], letters: Sequence[str], merges: Sequence[Merge]) -> str:
    """The text of a vocabulary file with new language tags, letters and merges after the base's, in this order."""
    data = json.loads(base.content)
    model = data["model"]
    vocab = model["vocab"]
    for token in data["added_tokens"]:
        # The library gives an added token without an entry an id that depends on the number of entries: pin it.
        token["id"] = vocab.setdefault(token["content"], base.tokens[token["content"]])
    for index, token in enumerate([*tags, *letters, *map("".join, merges)], start=base.size):
        vocab[token] = index
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


def first_of(names: list[str]) -> str:
    """The first ten names, for a message."""
    return ", ".join(names[:10]) + (f", and {len(names) - 10} more" if len(names) > 10 else "")


def require_extension(base: Vocabulary, extended: Vocabulary) -> None:
    """Raise VocabularyError, naming the first ten, unless `extended` is `base` plus ids right after its last one."""
    moved = [
        f"{token} ({index} -> {extended.tokens.get(token, 'gone')})"
        for token, index in sorted(base.tokens.items(), key=lambda entry: entry[1])
        if extended.tokens.get(token) != index
    ]
    if moved:
        raise VocabularyError(
            f"{extended.path} does not extend {base.path}: {len(moved)} of {len(base.tokens)} old entries have "
            f"moved or vanished: {first_of(moved)}. "
            "Make it with `xtts-extend extend-vocab` from the base's own vocab.json."
        )
    new = {index: token for token, index in extended.tokens.items() if token not in base.tokens}
    wrong = sorted(set(new) ^ set(range(base.size, extended.size)))
    named = [f"{index} ({new[index]})" if index in new else str(index) for index in wrong]
    if wrong or len(new) != len(extended.tokens) - len(base.tokens):
        raise VocabularyError(
            f"{extended.path} does not extend {base.path}: its new entries should have the ids {base.size} to "
            f"{extended.size - 1}, each once; missing, misplaced or doubled: "
            f"{first_of(named) or 'doubled ids'}. Make it with `xtts-extend extend-vocab`."
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
        if _TAG.fullmatch(token):
            spellings[index] = old_tags
            continue
        ids = base.tokenizer.encode(anyascii(token).lower().replace(" ", "[SPACE]")).ids
        spellings[index] = [] if base.unk_id in ids else ids
    return dict(sorted(spellings.items()))
