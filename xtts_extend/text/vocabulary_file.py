"""The file of a vocabulary, as XTTS and other tools write it: what is read, what is repaired, what is refused and why.

Other tools leave things out that the `tokenizers` library forgives and training does not. What has one sensible reading
gets it, and a note; what would spoil every text is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_extend.errors import VocabularyError

SPECIAL_TOKENS = ("[STOP]", "[UNK]", "[SPACE]", "[START]")
TAG = re.compile(r"\[([a-z]{2,8}(?:-[a-z]{2,8})?)\]")

# Options of the BPE model that XTTS leaves alone; each of them would change how text is cut.
_UNSET_OPTIONS = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
    "fuse_unk",
)
#: Of an added token, and what they are in a vocabulary of XTTS.
_FLAGS = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
#: Ids without an entry that a vocabulary may have; the base has two. A model has a row for each.
_MOST_GAPS = 10_000
_BYTE_ORDER_MARK = "\ufeff"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class VocabularyFile:
    """A file's JSON text as the `tokenizers` library takes it, its merges as they are written, and what was repaired.

    `unmatched_tags` are language tags that are entries and no added tokens: text never becomes one of them.
    """

    content: str
    merges: list[Any]
    unmatched_tags: list[str]
    notes: list[str]


def read_text(path: Path) -> str:
    """The text of a vocabulary file. Raises VocabularyError when it is missing, unreadable or not UTF-8."""
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
            f"Vocabulary {path} is not UTF-8 text (byte {error.start}). Expected an XTTS vocab.json.{_binary(raw)}"
        ) from error


def _binary(raw: bytes) -> str:
    """What bytes that are no UTF-8 look like, and what to do then."""
    if raw.startswith(_UTF16_MARKS):
        return " It looks like UTF-16: save it as UTF-8."
    if raw.startswith(b"\n") and b"<unk>" in raw[:64]:
        return " It looks like a sentencepiece model: give it to `xtts-extend extend-vocab --sentencepiece`."
    return ""


def parse_file(text: str, path: Path) -> VocabularyFile:
    """What a file's text describes; `path` is for messages. Raises VocabularyError for what is no XTTS vocabulary."""
    notes = []
    content = text.removeprefix(_BYTE_ORDER_MARK)
    if content != text:
        notes.append(f"{path} begins with a byte order mark, which is passed over; stock coqui-tts cannot read it.")
    twice: dict[str, None] = {}
    try:
        data = json.loads(content, object_pairs_hook=lambda pairs: _object(pairs, twice))
    except (ValueError, RecursionError) as error:
        raise VocabularyError(
            f"Vocabulary {path} is not JSON{_not_json(content)}: {error}. Expected an XTTS vocab.json."
        ) from error
    problem = _vocabulary_problem(data) or (f"it says twice what {', '.join(twice)} is" if twice else None)
    if problem:
        raise VocabularyError(
            f"Vocabulary {path} is not one of XTTS: {problem}. Expected the vocab.json of an XTTS model, a "
            "`tokenizers` BPE file."
        )
    model = data["model"]
    if model.get("unk_token") != "[UNK]":
        notes.append(
            f"{path} names no entry as its unknown token (unk_token is {json.dumps(model.get('unk_token'))}), so that "
            "stock coqui-tts drops unknown characters in silence, or fails: [UNK] is taken, and texts with unknown "
            "characters are named."
        )
        model["unk_token"] = "[UNK]"
        content = json.dumps(data, ensure_ascii=False, indent=4)
    repaired = []
    if _fill_flags(data["added_tokens"]):
        repaired.append("added tokens without all of their flags: those of XTTS's own are taken")
    if _unite_merges(model):
        repaired.append("some merges as pairs and some as texts: all are read")
    if repaired:
        notes.append(f"{path} has {'; and '.join(repaired)}. Stock coqui-tts cannot read it.")
        content = json.dumps(data, ensure_ascii=False, indent=4)
    added = {token["content"] for token in data["added_tokens"]}
    unmatched = [token for token in model["vocab"] if TAG.fullmatch(token) and token not in added]
    if unmatched:
        one = len(unmatched) == 1
        notes.append(
            f"{path}: {', '.join(unmatched)} {'is an entry' if one else 'are entries'} and no added "
            f"{'token' if one else 'tokens'}: {'the tag is' if one else 'the tags are'} never matched, and nothing can "
            f"be trained or spoken with {'it' if one else 'them'}."
        )
    return VocabularyFile(content, model["merges"], unmatched, notes)


def _object(pairs: list[tuple[str, Any]], twice: dict[str, None]) -> dict[str, Any]:
    """An object of JSON; `twice` takes up the keys that it holds with two values, of which readers take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice.update((repr(key), None) for key, value in pairs if found[key] != value)
    return found


def _not_json(content: str) -> str:
    """What a text that is no JSON looks like."""
    if content.startswith("#version"):
        return "; it looks like the merges.txt of a GPT-2 tokenizer"
    if content.lstrip()[:5].lower() in ("<!doc", "<html"):
        return "; it is a web page: the download may have failed, or need a login"
    if content.startswith("version https://git-lfs"):
        return "; it is a Git LFS pointer: run `git lfs pull` where it comes from"
    return ""


def _fill_flags(added: list[dict[str, Any]]) -> bool:
    """Give added tokens the flags that early releases of `tokenizers` did not write; whether there were such."""
    lacking = [token for token in added if _FLAGS.keys() - token.keys()]
    for token in lacking:
        token.update({**_FLAGS, **token})
    return bool(lacking)


def _unite_merges(model: dict[str, Any]) -> bool:
    """Write merges as pairs where some of them are pairs and others texts; whether it was so."""
    is_mixed = len({type(merge) for merge in model["merges"]}) > 1
    if is_mixed:
        model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return is_mixed


def _vocabulary_problem(data: Any) -> str | None:
    """What keeps this JSON from being an XTTS vocabulary, in words.

    The library reports every fault as a plain `Exception`, so all that it would trip over is looked at first.
    """
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        return f'it has no "model" part{_other_file(data)}'
    model = data["model"]
    if model.get("type", "BPE") != "BPE":
        return f"its model is of type {model.get('type')!r}, not 'BPE'"
    if data.get("version", "1.0") != "1.0":
        return f"its format version is {data.get('version')!r}, not '1.0'"
    if "ByteLevel" in json.dumps(data.get("pre_tokenizer")):
        return (
            f"its pre_tokenizer is {data['pre_tokenizer']!r}, not Whitespace: a byte-level tokenizer, as GPT-2 and "
            "most language models have one, whose entries are no letters"
        )
    if data.get("pre_tokenizer") != {"type": "Whitespace"}:
        return f"its pre_tokenizer is {data.get('pre_tokenizer')!r}, not Whitespace"
    for part in ("truncation", "padding", "normalizer", "post_processor", "decoder"):
        if data.get(part) is not None:
            return f"it has a {part}"
    for option in _UNSET_OPTIONS:
        if model.get(option):
            return f"its model sets {option}"
    return _entries_problem(model) or _added_tokens_problem(data, model["vocab"])


def _other_file(data: Any) -> str:
    """Which file of a model this is, where one of them was given for another."""
    if not isinstance(data, dict) or not data:
        return ""
    if "tokenizer_class" in data or "added_tokens_decoder" in data:
        return "; it looks like the tokenizer_config.json of transformers"
    if "model_args" in data or "model_type" in data:
        return "; it looks like the config.json of a model"
    if all(type(index) is int for index in data.values()) and data.keys() >= set(SPECIAL_TOKENS):
        return "; it holds the entries of an XTTS vocabulary without its merges: take the whole file"
    if all(type(index) is int for index in data.values()):
        return "; it looks like the vocab.json of a GPT-2 tokenizer, which has its merges in another file"
    return ""


def _entries_problem(model: dict[str, Any]) -> str | None:
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        return "its model lacks vocab or merges"
    bad = [token for token, index in vocab.items() if type(index) is not int or not 0 <= index < 2**31]
    if bad:
        return f"the id of {bad[0]!r} is {vocab[bad[0]]!r}, expected a whole number from 0"
    if vocab and max(vocab.values()) > len(vocab) + _MOST_GAPS:
        last = max(vocab, key=vocab.__getitem__)
        return (
            f"the id of {last!r} is {vocab[last]} in a file of {len(vocab)} entries: a model has a row for every id up "
            "to the largest"
        )
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
            return f"{merge!r} is no merge"
        if not {*parts, "".join(parts)} <= vocab.keys():
            return f"merge {merge!r} has parts, or a result, that are no entries"
    unknown = model.get("unk_token")
    if "[UNK]" not in vocab or (unknown in vocab and unknown != "[UNK]"):
        return f"its unknown token is {model.get('unk_token')!r}, not an entry '[UNK]'"
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
            return f"{token!r} is no added token"
    contents = {token["content"] for token in added}
    # The library may give an added token the id of an entry; two entries with one id are no vocabulary.
    owner: dict[int, str] = {}
    for token, index in vocab.items():
        if token not in contents and owner.setdefault(index, token) != token:
            return f"two of its entries share one id ({owner[index]!r} and {token!r}, {index}): they would be one row"
    missing = sorted(set(SPECIAL_TOKENS) - contents)
    return (
        f"it lacks {', '.join(missing)} among its added tokens{_missing_added_tokens_effect(missing)}"
        if missing
        else None
    )


def _missing_added_tokens_effect(missing: Any) -> str:
    """What the lack of added tokens does to training."""
    return ", so that every space of a text would be cut into unknown tokens" if "[SPACE]" in missing else ""
