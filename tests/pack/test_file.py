"""A language pack is what was written, fits the very base that it was made of, and says so where it does not."""

import json
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from checkpoints import cut
from networks import base_weights
from packs import TEXTS, VOICE_SIDE, make_pack, trained, values, with_num2words
from safetensors.torch import load_file, save_file

from xtts_extend.errors import LanguageError, PackError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.pack.file import Pack, _umask, digests, tensor_digest
from xtts_extend.pack.pack_info import PackedVocabulary
from xtts_extend.text.vocabulary import append_entries, load_vocabulary, parse_vocabulary


@pytest.fixture(scope="module")
def pack(mini_base, tmp_path_factory):
    return make_pack(mini_base, "am", tmp_path_factory.mktemp("packs") / "አማርኛ am.safetensors")


def test_it_reads_as_it_was_written(mini_base, pack):
    read = Pack.open(pack.path)
    assert read.info == pack.info
    assert values(read)["training"] == {
        "steps": 3, "hours": {"am": 0.5}, "utterances": {"am": 7}, "losses": {"trained": 2.5}, "replay": False,
        "began_with": "", "xtts_extend": "",
    }  # fmt: skip
    rows = len(pack.info.vocabulary.entries)
    expected = trained(mini_base, rows, 0)
    given = read.weights(base_weights(mini_base))
    assert given.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(given[name], tensor), name
    # what it holds, and what it does not
    assert {name.removeprefix("gpt.") for name in read.info.tensors if len(read.stored[name]) == rows} == {
        *TOKEN_TENSORS
    }
    assert not any(name.startswith(VOICE_SIDE) or not name.startswith("gpt.") for name in read.info.tensors)


def test_a_rank_and_a_type_make_it_smaller(mini_base, pack, tmp_path):
    """Factors only where they are smaller than the matrix: of 64 × 192 they are up to rank 47."""
    base = base_weights(mini_base)
    matrix = "gpt.gpt.h.0.attn.c_attn.weight"
    sizes, missed = [pack.size_bytes], []
    for rank, dtype in ((8, torch.float32), (8, torch.bfloat16), (64, torch.float32)):
        made = make_pack(mini_base, "am", tmp_path / f"{rank}{dtype}.safetensors", rank=rank, dtype=dtype)
        sizes.append(made.size_bytes)
        weights = made.weights(base)
        assert weights[matrix].dtype == torch.float32
        missed.append(float((weights[matrix] - pack.weights(base)[matrix]).norm()))
    assert sizes[2] < sizes[1] < sizes[3] == pytest.approx(sizes[0], rel=0.01)
    assert missed[2] == 0 < missed[0] < missed[1]
    eight = make_pack(mini_base, "am", tmp_path / "8.safetensors", rank=8).weights(base)[matrix]
    assert torch.linalg.matrix_rank(eight - base[matrix], rtol=1e-3) == 8


def test_the_digest_of_a_tensor_is_of_its_type_shape_and_bytes():
    one = torch.arange(6.0)
    assert tensor_digest(one) == tensor_digest(one.clone()) == tensor_digest(torch.arange(12.0)[:6])
    others = [one.reshape(2, 3), one.double(), one.bfloat16(), one + 1e-6, torch.tensor(0.0), torch.zeros(0)]
    assert len({tensor_digest(tensor) for tensor in [one, *others]}) == 7


def test_another_base(mini_base, pack):
    weights = base_weights(mini_base)
    pack.require_base(digests(weights), mini_base)
    name = "gpt.final_norm.weight"
    with pytest.raises(PackError, match=rf"another base than .*: 1 of \d+ tensors differ \(the first: {name}\)"):
        pack.require_base(digests({**weights, name: weights[name] + 1e-7}), mini_base)
    lacking = {key: tensor for key, tensor in weights.items() if key != name}
    with pytest.raises(PackError, match="another base"):
        pack.require_base(digests(lacking), mini_base)
    with pytest.raises(PackError, match="another base"):
        pack.require_base(digests({**weights, "gpt.more": weights[name]}), mini_base)


def test_a_changed_byte(pack, tmp_path):
    copy = tmp_path / "am.safetensors"
    content = bytearray(pack.path.read_bytes())
    content[-5] ^= 1
    copy.write_bytes(content)
    with pytest.raises(PackError, match=r"is damaged: 1 of \d+ tensors are not what was written"):
        Pack.open(copy).require_intact()
    pack.require_intact()


def written(path, metadata):
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: None, "does not exist", id="missing"),
        pytest.param(lambda path: path.write_bytes(b""), "cannot be read as a language pack", id="empty"),
        pytest.param(lambda path: path.write_bytes(b"PK" * 500), "cannot be read as a language pack", id="other"),
        pytest.param(lambda path: path.mkdir(), "cannot be read as a language pack", id="folder"),
        pytest.param(lambda path: written(path, None), "not a language pack", id="other safetensors"),
        pytest.param(lambda path: written(path, {"xtts_extend.pack": "{"}), "is damaged", id="half of JSON"),
        pytest.param(lambda path: written(path, {"xtts_extend.pack": "[]"}), "is damaged", id="a list"),
        pytest.param(lambda path: written(path, {"xtts_extend.pack": "{}"}), "is damaged", id="nothing in it"),
        pytest.param(
            lambda path: written(path, {"xtts_extend.pack": '{"format": 99}'}), "newer xtts_extend", id="newer"
        ),
    ],
)
def test_what_is_no_pack(make, message, tmp_path):
    make(tmp_path / "am.safetensors")
    with pytest.raises(PackError, match=message):
        Pack.open(tmp_path / "am.safetensors")


def test_a_pack_that_was_cut_off(pack, tmp_path):
    copy = tmp_path / "am.safetensors"
    copy.write_bytes(pack.path.read_bytes())
    cut(copy, pack.size_bytes // 2)
    with pytest.raises(PackError, match="cannot be read as a language pack"):
        Pack.open(copy)


def edit(pack, path, change):
    metadata = {"xtts_extend.pack": json.dumps(change(pack.info.to_dict()))}
    save_file(load_file(pack.path), path, metadata=metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda values: {**values, "licence2": ""}, "is damaged", id="a key too many"),
        pytest.param(lambda values: {key: values[key] for key in values if key != "texts"}, "damaged", id="a key less"),
        pytest.param(lambda values: {**values, "language": "../../evil"}, "malformed", id="a path for a language"),
        pytest.param(lambda values: {**values, "language": 5}, "malformed", id="a number for a language"),
        pytest.param(lambda values: {**values, "char_limit": "x"}, "is damaged", id="character limit"),
        pytest.param(lambda values: {**values, "tensors": None}, "is damaged", id="no tensors"),
        pytest.param(lambda values: {**values, "texts": {"a": ["b"]}}, "is damaged", id="ids"),
        pytest.param(lambda values: {**values, "training": {"steps": 1, "hours": [1]}}, "is damaged", id="hours"),
        pytest.param(lambda values: {**values, "tensors": {}}, "does not hold the tensors", id="tensors"),
        pytest.param(
            lambda values: {**values, "cleaning": [{"name": "telepathy", "version": 1}]}, "telepathy", id="cleaning"
        ),
    ],
)
def test_metadata_that_was_edited(pack, change, message, tmp_path):
    edit(pack, tmp_path / "am.safetensors", change)
    with pytest.raises(PackError, match=message):
        Pack.open(tmp_path / "am.safetensors")


def test_its_language_is_tokenized_by_its_own_vocabulary(mini_base, pack):
    known = load_vocabulary(mini_base / "vocab.json")
    spoken = pack.speaks(known)
    ids = spoken.encode(TEXTS["am"])
    assert ids == pack.info.texts[TEXTS["am"]]
    assert ids[0] == pack.info.vocabulary.entries["[am]"] == known.size
    assert known.unk_id not in ids


def test_another_vocabulary(corpus, pack):
    with pytest.raises(PackError, match="is not the vocabulary of the pack's base"):
        pack.speaks(load_vocabulary(corpus.vocab))


def test_texts_that_become_other_tokens(mini_base, tmp_path, caplog):
    known = load_vocabulary(mini_base / "vocab.json")
    other = make_pack(mini_base, "am", tmp_path / "other.safetensors", change=with_num2words("0.4.0"))
    other.speaks(known)
    assert "1 of its 1 texts are tokenized differently here" in caplog.text
    assert "Install num2words==0.4.0" in caplog.text
    same = make_pack(mini_base, "am", tmp_path / "same.safetensors", change=with_num2words(version("num2words")))
    with pytest.raises(PackError, match="which cleaned them in another way"):
        same.speaks(known)


def test_a_text_without_a_number_is_not_num2words_s(mini_base, tmp_path):
    known = load_vocabulary(mini_base / "vocab.json")

    def change(info):
        return replace(info, num2words="0.4.0", texts={"ሰላም": [0]})

    with pytest.raises(PackError, match="which cleaned them in another way"):
        make_pack(mini_base, "am", tmp_path / "am.safetensors", change=change).speaks(known)


def test_others_may_read_it(pack):
    assert pack.path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_entries_between_the_base_s_cannot_be_packed(mini_base):
    known = load_vocabulary(mini_base / "vocab.json")
    extended = parse_vocabulary(append_entries(known, ["[am]"], ["ሰ"], []), mini_base / "vocab.json")
    moved = json.loads(extended.content)
    moved["model"]["merges"] = moved["model"]["merges"][1:] + moved["model"]["merges"][:1]
    other = parse_vocabulary(json.dumps(moved), mini_base / "vocab.json")
    assert PackedVocabulary.between(known, extended).entries == {"[am]": known.size, "ሰ": known.size + 1}
    with pytest.raises(PackError, match="is not .* with entries and merges after the last ones"):
        PackedVocabulary.between(known, other)


def test_a_full_disk(mini_base, monkeypatch, tmp_path):
    from xtts_extend.errors import DiskFullError

    def full(*_, **__):
        import safetensors

        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("xtts_extend.pack.file.save_file", full)
    with pytest.raises(DiskFullError, match="the disk is full"):
        make_pack(mini_base, "am", tmp_path / "am.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_digests_are_of_values_not_of_files(mini_base, tmp_path):
    """The same base saved by other means has the same digests."""
    weights = base_weights(mini_base)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    assert digests(load_file(tmp_path / "model.safetensors")) == digests(weights)


def test_errors_are_the_user_s():
    assert PackError.exit_code == LanguageError.exit_code == 2
