from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from xtts_extend.errors import LanguageError, VocabularyError
from xtts_extend.text.change import compare_tokens
from xtts_extend.text.tokenizer import load_tokenizer, require_tag
from xtts_extend.text.verify import check_vocabulary
from xtts_extend.text.vocabulary import (
    append_entries,
    coqui_vocabulary_path,
    load_vocabulary,
    parse_vocabulary,
    require_extension,
    romanized_spellings,
)


def test_the_real_vocabulary(shared_data: Path) -> None:
    """Facts that the extension relies on."""
    vocabulary = load_vocabulary(shared_data / "xtts_vocab.json")
    assert len(vocabulary.tokens) == 5411
    assert vocabulary.size == 5413
    assert set(range(5413)) - set(vocabulary.tokens.values()) == {5024, 5025}
    assert len(vocabulary.merges) == 7071
    assert len(set(vocabulary.merges)) == 5326, "the file repeats merges"
    assert " ".join(vocabulary.languages) == "en de fr ru es it pt cs pl tr nl ar zh-cn ja"
    assert [vocabulary.tokens[f"[{name}]"] for name in ("STOP", "UNK", "SPACE", "START")] == [0, 1, 2, 261]
    assert vocabulary.unk_id == 1
    assert vocabulary.tokens["[ja]"] == 5412


def test_digest_depends_on_content_but_not_on_formatting(
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


def _drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("model", to=None), 'no "model" part'),
        (_set("model", "type", to="WordPiece"), "'WordPiece', not 'BPE'"),
        (_set("version", to="2.0"), "format version is '2.0'"),
        (_set("pre_tokenizer", to={"type": "ByteLevel"}), "not Whitespace"),
        (_set("pre_tokenizer", to=None), "not Whitespace"),
        (_set("normalizer", to={"type": "NFC"}), "it sets normalizer, which XTTS vocabularies leave empty"),
        (_set("decoder", to={"type": "Nope"}), "it sets decoder, which XTTS vocabularies leave empty"),
        (_set("model", "continuing_subword_prefix", to="##"), "sets continuing_subword_prefix"),
        (_set("model", "dropout", to=0.1), "sets dropout"),
        (_set("model", "vocab", to=["a"]), "its model's vocab or merges are missing or invalid"),
        (_set("model", "merges", to=None), "its model's vocab or merges are missing or invalid"),
        (_set("model", "vocab", "a", to="x"), "the id of 'a' is 'x'"),
        (_set("model", "vocab", "a", to=True), "the id of 'a' is True"),
        (_set("model", "vocab", "a", to=-1), "the id of 'a' is -1"),
        (_set("model", "vocab", "a", to=2**40), "the id of 'a' is 1099511627776"),
        (_set("model", "vocab", "a", to=1.5), "the id of 'a' is 1.5"),
        (_set("model", "vocab", "a", to="14"), "the id of 'a' is '14'; expected a non-negative whole number"),
        (_set("model", "vocab", "a", to=14.0), "the id of 'a' is 14.0; expected a non-negative whole number"),
        (
            _set("model", "vocab", "a", to=10**8),
            r"the id of 'a' is 100000000 in a file with \d+ entries, but a model needs a row",
        ),
        (
            _set("pre_tokenizer", to={"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}),
            "a byte-level token",
        ),
        (_set("model", "vocab", "a", to=15), "share id 15 and would share a row"),
        (_set("model", "merges", 0, to="t h e"), "'t h e' is not a merge"),
        (_set("model", "merges", 0, to=["t", 5]), "is not a merge"),
        (_set("model", "merges", 0, to=None), "None is not a merge"),
        (_set("model", "merges", 0, to="t x"), "merge 't x' uses or produces a token that is not in the vocabulary"),
        (_set("model", "unk_token", to="a"), "its unknown token is 'a'; expected '\\[UNK\\]', with an entry"),
        (_drop("model", "vocab", "[UNK]"), "its unknown token is '\\[UNK\\]'; expected '\\[UNK\\]', with an entry"),
        (_set("model", "vocab", "ሰ", to=15), r"\('b' and 'ሰ'\) share id 15"),
        (
            _set("added_tokens", to=None),
            "no added_tokens, so every space in a text would become unknown tokens",
        ),
        (_set("added_tokens", 0, to={"content": "[STOP]"}), "is not a valid entry in added_tokens"),
        (_set("added_tokens", to=[]), r"do not include \[SPACE\], \[START\], \[STOP\], \[UNK\]"),
        (_set("added_tokens", 2, "content", to="[X]"), r"its added tokens do not include \[SPACE\]"),
    ],
)
def test_files_that_are_not_xtts_vocabularies(
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
        (b"\xff\xfe{\x00}\x00", r"is not UTF-8 text \(invalid byte at offset 0\)"),
        ("{}".encode("utf-8-sig"), 'no "model" part'),
        ("{".encode("utf-8-sig"), "is not JSON"),
        ("{}".encode("utf-16"), "looks like UTF-16. Save it as UTF-8"),
        (
            b'{"added_tokens_decoder": {}, "tokenizer_class": "GPT2Tokenizer"}',
            "tokenizer_config.json from transformers",
        ),
        (b'{"model_args": {}}', "looks like a model's config.json"),
        (b'{"a": 0, "b": 1}', "vocab.json of a GPT-2 tokenizer"),
        (b'{"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "[START]": 3}', "entries of an XTTS vocabulary without its merges"),
        (b"#version: 0.2\nt h\n", "looks like the merges.txt of a GPT-2 tokenizer"),
        (b"<!DOCTYPE html>", "a web page, so the download may have failed"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer, so run `git lfs pull`"),
        (b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x80\x18\x02", "extend-vocab --sentencepiece"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_other_files(content: bytes, message: str, write_text: Callable[..., Path]) -> None:
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary(write_text(content, "vocab.json"))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="No such file"):
        load_vocabulary(tmp_path / "missing.json")
    with pytest.raises(VocabularyError, match="Is a directory"):
        load_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("change", "encoding", "note"),
    [
        pytest.param(_set("model", "unk_token", to=None), "utf-8", "unk_token is null", id="unk_token null"),
        pytest.param(_drop("model", "unk_token"), "utf-8", "unk_token is null", id="no unk_token"),
        pytest.param(_set("model", "unk_token", to="<unk>"), "utf-8", 'unk_token is "<unk>"', id="unk_token no entry"),
        pytest.param(_set("model", "byte_fallback", to=False), "utf-8-sig", "byte order mark", id="byte order mark"),
        pytest.param(
            _drop("added_tokens", 0, "special"), "utf-8", "added tokens with missing flags", id="no flag special"
        ),
        pytest.param(
            _drop("added_tokens", 1, "normalized"), "utf-8", "added tokens with missing flags", id="no flag normalized"
        ),
        pytest.param(
            _set("model", "merges", 0, to=["t", "h"]),
            "utf-8",
            "some merges written as pairs",
            id="merges as pairs and texts",
        ),
        pytest.param(_drop("model", "type"), "utf-8", "", id="no type"),
        pytest.param(_drop("version"), "utf-8", "", id="no version"),
        pytest.param(_drop("decoder"), "utf-8", "", id="no decoder"),
        pytest.param(_set("model", "ignore_merges", to=False), "utf-8", "", id="newer options"),
    ],
)
def test_vocabularies_from_other_tools_are_repaired(
    change: Callable[[Any], None],
    encoding: str,
    note: str,
    write_vocab: Callable[..., Path],
    small_vocab_data: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    intact = load_vocabulary(write_vocab(name="intact.json"))
    change(small_vocab_data)
    path = write_vocab(name="other.json")
    path.write_text(json.dumps(small_vocab_data), encoding=encoding)
    for _ in range(2):
        assert load_vocabulary(path).digest == intact.digest
    assert [note in message for message in caplog.messages] == [True] * bool(note), "warned once"
    assert load_tokenizer(path).encode("the ж", "en") == load_tokenizer(intact.path).encode("the ж", "en")
    with coqui_vocabulary_path(path) as file:
        assert Tokenizer.from_file(file).encode("the ж").ids == intact.tokenizer.encode("the ж").ids
        assert (file == str(path)) == (not note)


def test_a_tag_that_is_not_an_added_token_is_never_matched(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    small_vocab_data["model"]["vocab"] |= {"[vi]": 265, "[yo]": 266}
    tokenizer = load_tokenizer(write_vocab(small_vocab_data))
    require_tag(tokenizer, "fr")
    with pytest.raises(
        LanguageError, match=r"The tag \[vi\] is never matched, because it is an entry .*begin with \[UNK\]"
    ):
        require_tag(tokenizer, "vi")
    assert "[vi], [yo] are entries in the vocabulary but not added tokens. The tags are never matched" in caplog.text


def test_entries_without_merges_are_reported(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    load_vocabulary(write_vocab(small_vocab_data))
    assert "not produced by any merge" not in caplog.text
    small_vocab_data["model"]["vocab"] |= {"ሰላም": 265, "ሰላ": 266}
    load_vocabulary(write_vocab(small_vocab_data))
    assert "2 multi-character entries are not produced by any merge, so they are" in caplog.text


def test_a_repeated_entry(write_vocab: Callable[..., Path], write_text: Callable[..., Path]) -> None:
    text = write_vocab().read_text(encoding="utf-8")
    twice = write_text(text.replace('"a": 14', '"a": 14, "a": 14'), "twice.json")
    assert load_vocabulary(twice).tokens["a"] == 14
    other = write_text(text.replace('"a": 14', '"a": 14, "a": 400'), "other.json")
    with pytest.raises(VocabularyError, match="it has two values for 'a'"):
        load_vocabulary(other)


def test_quiet_omits_warnings(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    small_vocab_data["model"]["vocab"] |= {"ሰላም": 265}
    vocabulary = load_vocabulary(write_vocab(small_vocab_data))
    assert "1 multi-character entry is not produced by any merge, so it is" in caplog.text
    assert load_vocabulary(write_vocab(small_vocab_data, "copy.json"), quiet=True).without_merges == ("ሰላም",)
    assert vocabulary.without_merges == ("ሰላም",)
    assert len(caplog.messages) == 1


def test_a_tag_with_the_flag_single_word_is_never_matched(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any]
) -> None:
    for token in small_vocab_data["added_tokens"]:
        token["single_word"] = token["content"] == "[fr]"
    tokenizer = load_tokenizer(write_vocab(small_vocab_data))
    require_tag(tokenizer, "en")
    with pytest.raises(LanguageError, match="The tag .* is never matched"):
        require_tag(tokenizer, "fr")


def test_two_tokens_with_one_id_are_reported(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    small_vocab_data["model"]["vocab"]["ሰ"] = 264
    load_vocabulary(write_vocab(small_vocab_data))
    assert "share id 264, so one row has to learn both" in caplog.text


def test_a_vocabulary_with_closed_gaps(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file is from a script that is widely used to extend the vocabulary. It also moved the old entry `ă`."""
    base = load_vocabulary(shared_data / "xtts_vocab.json")
    closed = load_vocabulary(shared_data / "wild" / "vocab-unk-null-gaps-closed.json")
    assert (len(closed.tokens), closed.size, closed.unk_id) == (5411, 5412, 1)
    assert "unk_token is null" in caplog.text
    check_vocabulary(base.path, closed.path, [])
    assert "388 ids changed, 387 of them because gaps in the base's token ids were closed" in caplog.text
    assert closed.tokenizer.encode("日").ids == [1]
    with pytest.raises(
        VocabularyError, match=r"388 of 5411 .* \(387 of them because gaps in the base's token ids were closed\): ă"
    ):
        require_extension(base, closed)
    for change in (compare_tokens(base.tokens, closed.tokens), compare_tokens(closed.tokens, base.tokens)):
        assert (change.added, change.removed, len(change.moved), change.closed_gaps) == ([], [], 388, 387)
        assert (
            "388 tokens moved to a different id, 387 of them because gaps in the base's token ids were closed: "
            in change.describe()
        )


def test_a_real_file_with_a_tag_that_is_never_matched(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "wild" / "vocab-tag-not-added.json")
    with pytest.raises(LanguageError, match=r"The tag \[vi\] is never matched"):
        require_tag(tokenizer, "vi")


def test_added_tokens_outside_the_model_keep_the_ids_of_the_library(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any]
) -> None:
    """The library derives the id of such a token from the number of entries. Appending must not change it."""
    del small_vocab_data["model"]["vocab"]["[fr]"]
    path = write_vocab(small_vocab_data)
    base = load_vocabulary(path)
    entries = len(small_vocab_data["model"]["vocab"])
    assert base.tokens["[fr]"] == Tokenizer.from_file(str(path)).token_to_id("[fr]") == entries != 264
    extended = parse_vocabulary(append_entries(base, ["[am]"], ["ሰ", "ላ"], [("ሰ", "ላ")]), Path("extended"))
    require_extension(base, extended)
    assert extended.tokenizer.encode("[fr]a").ids == base.tokenizer.encode("[fr]a").ids


def test_append_entries_changes_nothing_else(
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
    require_extension(base, load_vocabulary(write_vocab(small_vocab_data, "valid.json")))
    vocab["ላ"] = 268
    with pytest.raises(VocabularyError, match=r"each id from 265 to 268 exactly once; .*: 266, 267\. "):
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
