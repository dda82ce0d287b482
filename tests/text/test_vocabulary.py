from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from xtts_extend.errors import VocabularyError
from xtts_extend.text.vocabulary import (
    append_entries,
    load_vocabulary,
    parse_vocabulary,
    require_extension,
    romanized_spellings,
)


def test_the_real_vocabulary(shared_data: Path) -> None:
    """The facts that the extension leans on."""
    vocabulary = load_vocabulary(shared_data / "xtts_vocab.json")
    assert len(vocabulary.tokens) == 5411
    assert vocabulary.size == 5413
    assert set(range(5413)) - set(vocabulary.tokens.values()) == {5024, 5025}
    assert len(vocabulary.merges) == 7071
    assert len(set(vocabulary.merges)) == 5326, "the file repeats merges"
    assert " ".join(vocabulary.languages) == "en de fr ru es it pt cs pl tr nl ar zh-cn ja"
    assert (vocabulary.stop_id, vocabulary.unk_id, vocabulary.space_id, vocabulary.start_id) == (0, 1, 2, 261)
    assert vocabulary.tokens["[ja]"] == 5412


def test_digest_sees_content_and_not_formatting(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any]
) -> None:
    digest = load_vocabulary(write_vocab(small_vocab_data)).digest
    assert len(digest) == 64
    assert load_vocabulary(write_vocab(small_vocab_data, "ሌላ ስም.json", indent=None)).digest == digest
    merges = small_vocab_data["model"]["merges"]
    small_vocab_data["model"]["merges"] = [merge.split(" ") for merge in merges]
    small_vocab_data["model"]["vocab"] = dict(reversed(small_vocab_data["model"]["vocab"].items()))
    assert load_vocabulary(write_vocab(small_vocab_data, "b.json")).digest == digest
    small_vocab_data["model"]["merges"] = merges[::-1]
    assert load_vocabulary(write_vocab(small_vocab_data, "c.json")).digest != digest
    small_vocab_data["model"]["merges"] = merges
    small_vocab_data["model"]["vocab"]["ẹ"] = 400
    assert load_vocabulary(write_vocab(small_vocab_data, "d.json")).digest != digest


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("model", to=None), 'no "model" part'),
        (_set("model", "type", to="WordPiece"), "'WordPiece', not 'BPE'"),
        (_set("version", to="2.0"), "format version is '2.0'"),
        (_set("pre_tokenizer", to={"type": "ByteLevel"}), "not Whitespace"),
        (_set("pre_tokenizer", to=None), "not Whitespace"),
        (_set("normalizer", to={"type": "NFC"}), "has a normalizer"),
        (_set("decoder", to={"type": "Nope"}), "has a decoder"),
        (_set("model", "continuing_subword_prefix", to="##"), "sets continuing_subword_prefix"),
        (_set("model", "dropout", to=0.1), "sets dropout"),
        (_set("model", "vocab", to=["a"]), "lacks vocab or merges"),
        (_set("model", "merges", to=None), "lacks vocab or merges"),
        (_set("model", "vocab", "a", to="x"), "the id of 'a' is 'x'"),
        (_set("model", "vocab", "a", to=True), "the id of 'a' is True"),
        (_set("model", "vocab", "a", to=-1), "the id of 'a' is -1"),
        (_set("model", "vocab", "a", to=2**40), "the id of 'a' is 1099511627776"),
        (_set("model", "vocab", "a", to=1.5), "the id of 'a' is 1.5"),
        (_set("model", "vocab", "a", to=15), "share one id"),
        (_set("model", "merges", 0, to="t h e"), "'t h e' is no merge"),
        (_set("model", "merges", 0, to=["t", 5]), "is no merge"),
        (_set("model", "merges", 0, to=None), "None is no merge"),
        (_set("model", "merges", 0, to="t x"), "merge 't x' has parts, or a result, that are no entries"),
        (_set("model", "unk_token", to=None), "its unknown token is None"),
        (_set("added_tokens", to=None), "no added_tokens"),
        (_set("added_tokens", 0, to={"content": "[STOP]"}), "is no added token"),
        (_set("added_tokens", to=[]), r"lacks \[SPACE\], \[START\], \[STOP\], \[UNK\]"),
        (_set("added_tokens", 2, "content", to="[X]"), r"lacks \[SPACE\] among"),
    ],
)
def test_files_that_are_no_xtts_vocabulary(
    change: Callable[[Any], None], message: str, write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any]
) -> None:
    change(small_vocab_data)
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary(write_vocab(small_vocab_data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"not json", "is not JSON"),
        (b"[1]", 'no "model" part'),
        (b"null", 'no "model" part'),
        (b"\xff\xfe{\x00}\x00", r"is not UTF-8 text \(byte 0\)"),
        ("{}".encode("utf-8-sig"), "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_files_that_are_not_even_json(content: bytes, message: str, write_text: Callable[..., Path]) -> None:
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary(write_text(content, "vocab.json"))


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="No such file"):
        load_vocabulary(tmp_path / "missing.json")
    with pytest.raises(VocabularyError, match="Is a directory"):
        load_vocabulary(tmp_path)


def test_ids_of_added_tokens_outside_of_the_model_are_those_of_the_library_and_stay(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any]
) -> None:
    """The library numbers such a token by counting entries, whatever the file says; appending must not move it."""
    del small_vocab_data["model"]["vocab"]["[fr]"]
    path = write_vocab(small_vocab_data)
    base = load_vocabulary(path)
    entries = len(small_vocab_data["model"]["vocab"])
    assert base.tokens["[fr]"] == Tokenizer.from_file(str(path)).token_to_id("[fr]") == entries != 264
    extended = parse_vocabulary(append_entries(base, ["[am]"], ["ሰ", "ላ"], [("ሰ", "ላ")]), Path("extended"))
    require_extension(base, extended)
    assert extended.tokenizer.encode("[fr]a").ids == base.tokenizer.encode("[fr]a").ids


def test_append_entries_leaves_all_else_as_it_was(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any]
) -> None:
    base = load_vocabulary(write_vocab(small_vocab_data))
    assert base.size == 265
    data = json.loads(append_entries(base, ["[am]"], ["ሰ", "ላ"], [("ሰ", "ላ")]))
    assert data["added_tokens"].pop() == {**small_vocab_data["added_tokens"][0], "id": 265, "content": "[am]"}
    assert [data["model"]["vocab"].pop(token) for token in ("[am]", "ሰ", "ላ", "ሰላ")] == [265, 266, 267, 268]
    assert data["model"]["merges"].pop() == "ሰ ላ"
    assert data == small_vocab_data
    small_vocab_data["model"]["merges"] = [merge.split(" ") for merge in small_vocab_data["model"]["merges"]]
    paired = load_vocabulary(write_vocab(small_vocab_data))
    assert json.loads(append_entries(paired, [], ["ሰ", "ላ"], [("ሰ", "ላ")]))["model"]["merges"][-1] == ["ሰ", "ላ"]


def test_require_extension(write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any]) -> None:
    base = load_vocabulary(write_vocab(small_vocab_data))
    require_extension(base, base)
    vocab = small_vocab_data["model"]["vocab"]
    vocab |= {"ሰ": 265, "ላ": 266}
    require_extension(base, load_vocabulary(write_vocab(small_vocab_data, "good.json")))
    vocab["ላ"] = 268
    with pytest.raises(VocabularyError, match=r"ids 265 to 268, each once; .*: 266, 267\. "):
        require_extension(base, load_vocabulary(write_vocab(small_vocab_data, "hole.json")))
    vocab["ላ"] = 13
    with pytest.raises(VocabularyError, match=r"13 \(ላ\)"):
        require_extension(base, load_vocabulary(write_vocab(small_vocab_data, "gap.json")))
    del vocab["ላ"]
    for index, letter in enumerate("abcdefghijkl"):
        vocab[letter] = 500 + index
    with pytest.raises(
        VocabularyError, match=r"12 of 57 old entries .*: a \(14 -> 500\), .*j \(23 -> 509\), and 2 more"
    ):
        require_extension(base, load_vocabulary(write_vocab(small_vocab_data, "moved.json")))
    for index, letter in enumerate("abcdefghijkl", start=14):
        vocab[letter] = index
    small_vocab_data["added_tokens"] = [t for t in small_vocab_data["added_tokens"] if t["content"] != "[fr]"]
    del vocab["[fr]"]
    with pytest.raises(VocabularyError, match=r"\[fr\] \(264 -> gone\)"):
        require_extension(base, load_vocabulary(write_vocab(small_vocab_data, "gone.json")))


def test_romanized_spellings(small_vocab: Path) -> None:
    base = load_vocabulary(small_vocab)
    letters = ["ሰ", "ላ", "ም", "Ж", "9", "\u0301", "東"]
    content = append_entries(base, ["[am]"], letters, [("ሰ", "ላ")])
    extended = parse_vocabulary(content, Path("extended"))
    spelled = romanized_spellings(base, extended)
    ids = base.tokens
    assert spelled == {
        265: [ids["[en]"], ids["[de]"], ids["[fr]"]],
        266: [ids["s"], ids["e"]],
        267: [ids["l"], ids["a"]],
        268: [ids["m"]],
        269: [ids["z"], ids["h"]],
        270: [],
        271: [],
        272: [ids["d"], ids["on"], ids["g"]],
        273: [ids["s"], ids["e"], ids["l"], ids["a"]],
    }
    assert romanized_spellings(base, base) == {}
