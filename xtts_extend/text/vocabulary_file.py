"""Parse, repair and validate vocabulary files from XTTS and other tools.

Other tools omit parts that the `tokenizers` library does not need but training does. If a file can be read in only one
sensible way, it is repaired, and a message says so. A file that would corrupt every text is rejected.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_extend.errors import VocabularyError

#: Added tokens that every XTTS vocabulary has.
SPECIAL_TOKENS = ("[STOP]", "[UNK]", "[SPACE]", "[START]")
#: Pattern that matches a language tag. Its capture group is the language code.
TAG = re.compile(r"\[([a-z]{2,8}(?:-[a-z]{2,8})?)\]")

# Options of the BPE model that XTTS does not set. Each of them would change how text is tokenized.
_UNSET_OPTIONS = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
    "fuse_unk",
)
#: Flags of added tokens, with their values in XTTS vocabularies.
_FLAGS = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
#: Maximum number of unused ids. A model has a row for each of them. The base has two unused ids.
_MAX_GAPS = 10_000
_BYTE_ORDER_MARK = "\ufeff"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class VocabularyFile:
    """The contents of a vocabulary file after repairs.

    Attributes:
        content: JSON text that the `tokenizers` library can read.
        merges: Merges as they are written in the file.
        unmatched_tags: Language tags that are never matched in text, because they are not added tokens.
        notes: Messages about the repairs.
    """

    content: str
    merges: list[Any]
    unmatched_tags: list[str]
    notes: list[str]


def read_text(path: Path) -> str:
    """Return the text of a vocabulary file. Raise VocabularyError if it is missing, unreadable or not UTF-8."""
    raw = b""
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8")
    except OSError as error:
        raise VocabularyError(
            f"Vocabulary {path} cannot be read: {error.strerror}. Expected an XTTS vocab.json."
        ) from error
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"Vocabulary {path} is not UTF-8 text (invalid byte at offset {error.start}). Expected an XTTS vocab.json."
            f"{_binary_hint(raw)}"
        ) from error


def _binary_hint(raw: bytes) -> str:
    """Return a hint that says what a non-UTF-8 file looks like and what to do about it, or ""."""
    if raw.startswith(_UTF16_MARKS):
        return " It looks like UTF-16. Save it as UTF-8."
    if raw.startswith(b"\n") and b"<unk>" in raw[:64]:
        return " It looks like a sentencepiece model. Pass it to `xtts-extend extend-vocab --sentencepiece`."
    return ""


def parse_file(text: str, path: Path) -> VocabularyFile:
    """Parse and repair the text of a vocabulary file.

    Args:
        text: Text of the file.
        path: The file's path, for messages.

    Raises:
        VocabularyError: The text is not an XTTS vocabulary.
    """
    notes = []
    content = text.removeprefix(_BYTE_ORDER_MARK)
    if content != text:
        notes.append(f"Skipped the byte order mark in {path}. Stock coqui-tts cannot read this file.")
    repeated: dict[str, None] = {}
    try:
        data = json.loads(content, object_pairs_hook=lambda pairs: _object(pairs, repeated))
    except (ValueError, RecursionError) as error:
        raise VocabularyError(
            f"Vocabulary {path} is not JSON{_not_json_hint(content)}: {error}. Expected an XTTS vocab.json."
        ) from error
    problem = _vocabulary_problem(data) or (f"it has two values for {', '.join(repeated)}" if repeated else None)
    if problem:
        raise VocabularyError(
            f"Vocabulary {path} is not an XTTS vocabulary: {problem}. Expected the vocab.json of an XTTS model, which "
            "is a `tokenizers` BPE file."
        )
    model = data["model"]
    if model.get("unk_token") != "[UNK]":
        notes.append(
            f"{path} has no valid unknown token (unk_token is {json.dumps(model.get('unk_token'))}). Stock coqui-tts "
            "would drop unknown characters silently, or fail. [UNK] is used instead, so that texts with unknown "
            "characters are reported."
        )
        model["unk_token"] = "[UNK]"
        content = json.dumps(data, ensure_ascii=False, indent=4)
    repaired = []
    if _fill_flags(data["added_tokens"]):
        repaired.append("added tokens with missing flags (XTTS's values are used)")
    if _unify_merges(model):
        repaired.append("some merges written as pairs and some written as strings (both are accepted)")
    if repaired:
        notes.append(f"{path} has {' and '.join(repaired)}. Stock coqui-tts cannot read this file.")
        content = json.dumps(data, ensure_ascii=False, indent=4)
    added = {token["content"] for token in data["added_tokens"]}
    unmatched = [token for token in model["vocab"] if TAG.fullmatch(token) and token not in added]
    if unmatched:
        is_single = len(unmatched) == 1
        notes.append(
            f"{path}: {', '.join(unmatched)} {'is an entry' if is_single else 'are entries'} in the vocabulary but not "
            f"{'an added token' if is_single else 'added tokens'}. {'The tag is' if is_single else 'The tags are'} "
            "never matched and cannot be used for training or speech."
        )
    return VocabularyFile(content, model["merges"], unmatched, notes)


def _object(pairs: list[tuple[str, Any]], repeated: dict[str, None]) -> dict[str, Any]:
    """Return a JSON object with the last value for each key. Add keys that have different values to `repeated`."""
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated.update((repr(key), None) for key, value in pairs if values[key] != value)
    return values


def _not_json_hint(content: str) -> str:
    """Return a hint that says what kind of file a text that is not JSON looks like, or ""."""
    if content.startswith("#version"):
        return "; it looks like the merges.txt of a GPT-2 tokenizer"
    if content.lstrip()[:5].lower() in ("<!doc", "<html"):
        return "; it is a web page, so the download may have failed or may require a login"
    if content.startswith("version https://git-lfs"):
        return "; it is a Git LFS pointer, so run `git lfs pull` in the repository that it came from"
    return ""


def _fill_flags(added: list[dict[str, Any]]) -> bool:
    """Add flags that early releases of `tokenizers` did not write. Return whether any were missing."""
    incomplete = [token for token in added if _FLAGS.keys() - token.keys()]
    for token in incomplete:
        token.update({**_FLAGS, **token})
    return bool(incomplete)


def _unify_merges(model: dict[str, Any]) -> bool:
    """Write all merges as pairs if some are pairs and others are strings. Return whether they were mixed."""
    is_mixed = len({type(merge) for merge in model["merges"]}) > 1
    if is_mixed:
        model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return is_mixed


def _vocabulary_problem(data: Any) -> str | None:
    """Return why this JSON is not an XTTS vocabulary, or None if it is one.

    The `tokenizers` library raises a plain `Exception` for every error, so everything that it would fail on is checked
    first.
    """
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        return f'it has no "model" part{_other_file_hint(data)}'
    model = data["model"]
    if model.get("type", "BPE") != "BPE":
        return f"its model is of type {model.get('type')!r}, not 'BPE'"
    if data.get("version", "1.0") != "1.0":
        return f"its format version is {data.get('version')!r}, not '1.0'"
    if "ByteLevel" in json.dumps(data.get("pre_tokenizer")):
        return (
            f"its pre_tokenizer is {data['pre_tokenizer']!r}, not Whitespace; this is a byte-level tokenizer, as used "
            "by GPT-2 and most language models, and its entries are bytes rather than characters"
        )
    if data.get("pre_tokenizer") != {"type": "Whitespace"}:
        return f"its pre_tokenizer is {data.get('pre_tokenizer')!r}, not Whitespace"
    for part in ("truncation", "padding", "normalizer", "post_processor", "decoder"):
        if data.get(part) is not None:
            return f"it sets {part}, which XTTS vocabularies leave empty"
    for option in _UNSET_OPTIONS:
        if model.get(option):
            return f"its model sets {option}, which XTTS vocabularies do not set"
    return _entries_problem(model) or _added_tokens_problem(data, model["vocab"])


def _other_file_hint(data: Any) -> str:
    """Return a hint that says which other kind of model file this looks like, or ""."""
    if not isinstance(data, dict) or not data:
        return ""
    if "tokenizer_class" in data or "added_tokens_decoder" in data:
        return "; it looks like a tokenizer_config.json from transformers"
    if "model_args" in data or "model_type" in data:
        return "; it looks like a model's config.json"
    if all(type(index) is int for index in data.values()) and data.keys() >= set(SPECIAL_TOKENS):
        return "; it has the entries of an XTTS vocabulary without its merges, so use the complete file"
    if all(type(index) is int for index in data.values()):
        return "; it looks like the vocab.json of a GPT-2 tokenizer, whose merges are in a separate file"
    return ""


def _entries_problem(model: dict[str, Any]) -> str | None:
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        return "its model's vocab or merges are missing or invalid"
    invalid = [token for token, index in vocab.items() if type(index) is not int or not 0 <= index < 2**31]
    if invalid:
        return f"the id of {invalid[0]!r} is {vocab[invalid[0]]!r}; expected a non-negative whole number"
    if vocab and max(vocab.values()) > len(vocab) + _MAX_GAPS:
        last = max(vocab, key=vocab.__getitem__)
        return (
            f"the id of {last!r} is {vocab[last]} in a file with {len(vocab)} entries, but a model needs a row for "
            "every id up to the largest"
        )
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
            return f"{merge!r} is not a merge"
        if not {*parts, "".join(parts)} <= vocab.keys():
            return f"merge {merge!r} uses or produces a token that is not in the vocabulary"
    unknown = model.get("unk_token")
    if "[UNK]" not in vocab or (unknown in vocab and unknown != "[UNK]"):
        return f"its unknown token is {model.get('unk_token')!r}; expected '[UNK]', with an entry in the vocabulary"
    return None


def _added_tokens_problem(data: dict[str, Any], vocab: dict[str, int]) -> str | None:
    added = data.get("added_tokens")
    if not isinstance(added, list):
        return f"it has no added_tokens{_missing_added_tokens_effect(SPECIAL_TOKENS)}"
    for token in added:
        if not (
            isinstance(token, dict)
            and isinstance(token.get("content"), str)
            and type(token.get("id")) is int
            and 0 <= token["id"] < 2**31
            and all(isinstance(token.get(flag, value), bool) for flag, value in _FLAGS.items())
        ):
            return f"{token!r} is not a valid entry in added_tokens"
    contents = {token["content"] for token in added}
    # The library may give an added token the id of an entry, but two entries must not share an id.
    owner: dict[int, str] = {}
    for token, index in vocab.items():
        if token not in contents and owner.setdefault(index, token) != token:
            return f"two of its entries ({owner[index]!r} and {token!r}) share id {index} and would share a row"
    missing = sorted(set(SPECIAL_TOKENS) - contents)
    return (
        f"its added tokens do not include {', '.join(missing)}{_missing_added_tokens_effect(missing)}"
        if missing
        else None
    )


def _missing_added_tokens_effect(missing: Any) -> str:
    """Return the effect that missing added tokens would have on text, or "" if there is none."""
    return ", so every space in a text would become unknown tokens" if "[SPACE]" in missing else ""
