"""Packs read back as written, fit only the base they were made for, and name what does not fit."""

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


def test_a_pack_reads_back_as_written(mini_base, pack):
    read = Pack.open(pack.path)
    assert read.info == pack.info
    assert values(read)["training"] == {
        "steps": 3, "hours": {"am": 0.5}, "utterances": {"am": 7}, "losses": {"trained": 2.5}, "replay": False,
        "began_with": "", "xtts_extend": "",
    }  # fmt: skip
    rows = len(pack.info.vocabulary.entries)
    expected = trained(base_weights(mini_base), rows, 0)
    weights = read.weights(base_weights(mini_base))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name
    # It stores new rows and changed tensors, but nothing of the voice side.
    assert {name.removeprefix("gpt.") for name in read.info.tensors if len(read.stored[name]) == rows} == {
        *TOKEN_TENSORS
    }
    assert not any(name.startswith(VOICE_SIDE) or not name.startswith("gpt.") for name in read.info.tensors)


def test_a_low_rank_and_a_small_type_make_packs_smaller(mini_base, pack, tmp_path):
    """Factors are stored only if they are smaller than the matrix: for 64 × 192, up to rank 47."""
    base = base_weights(mini_base)
    matrix = "gpt.gpt.h.0.attn.c_attn.weight"
    whole = pack.weights(base)[matrix]
    sizes, matrices = [pack.size_bytes], []
    for rank, dtype in ((8, torch.float32), (8, torch.bfloat16), (64, torch.float32)):
        made = make_pack(mini_base, "am", tmp_path / f"{rank}{dtype}.safetensors", rank=rank, dtype=dtype)
        sizes.append(made.size_bytes)
        matrices.append(made.weights(base)[matrix])
        assert matrices[-1].dtype == torch.float32
    errors = [float((found - whole).norm()) for found in matrices]
    assert sizes[2] < sizes[1] < sizes[3] == pytest.approx(sizes[0], rel=0.01)
    assert errors[2] == 0 < errors[0] < errors[1]
    assert torch.linalg.matrix_rank(matrices[0] - base[matrix], rtol=1e-3) == 8


def test_a_digest_covers_type_shape_and_bytes():
    tensor = torch.arange(6.0)
    assert tensor_digest(tensor) == tensor_digest(tensor.clone()) == tensor_digest(torch.arange(12.0)[:6])
    others = [
        tensor.reshape(2, 3), tensor.double(), tensor.bfloat16(), tensor + 1e-6, torch.tensor(0.0), torch.zeros(0),
    ]  # fmt: skip
    assert len({tensor_digest(other) for other in [tensor, *others]}) == 7


def test_another_base(mini_base, pack):
    weights = base_weights(mini_base)
    pack.require_base(digests(weights), mini_base)
    name = "gpt.final_norm.weight"
    with pytest.raises(PackError, match=rf"a different base than .*: 1 of \d+ tensors differ \(first: {name}\)"):
        pack.require_base(digests({**weights, name: weights[name] + 1e-7}), mini_base)
    incomplete = {key: tensor for key, tensor in weights.items() if key != name}
    with pytest.raises(PackError, match="made for a different base than"):
        pack.require_base(digests(incomplete), mini_base)
    with pytest.raises(PackError, match="made for a different base than"):
        pack.require_base(digests({**weights, "gpt.more": weights[name]}), mini_base)


def test_a_changed_byte(pack, tmp_path):
    copy = tmp_path / "am.safetensors"
    content = bytearray(pack.path.read_bytes())
    content[-5] ^= 1
    copy.write_bytes(content)
    with pytest.raises(PackError, match=r"is damaged: checksum mismatch in 1 of \d+ tensors"):
        Pack.open(copy).require_intact()
    pack.require_intact()


def write(path, metadata):
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: None, "does not exist", id="missing"),
        pytest.param(lambda path: path.write_bytes(b""), "cannot be read as a language pack", id="empty"),
        pytest.param(lambda path: path.write_bytes(b"PK" * 500), "cannot be read as a language pack", id="other"),
        pytest.param(lambda path: path.mkdir(), "cannot be read as a language pack", id="folder"),
        pytest.param(lambda path: write(path, None), "not a language pack", id="other safetensors"),
        pytest.param(lambda path: write(path, {"xtts_extend.pack": "{"}), "is damaged", id="half of JSON"),
        pytest.param(lambda path: write(path, {"xtts_extend.pack": "[]"}), "is damaged", id="a list"),
        pytest.param(lambda path: write(path, {"xtts_extend.pack": "{}"}), "is damaged", id="nothing in it"),
        pytest.param(lambda path: write(path, {"xtts_extend.pack": '{"format": 99}'}), "newer version of", id="newer"),
    ],
)
def test_files_that_are_not_packs(make, message, tmp_path):
    make(tmp_path / "am.safetensors")
    with pytest.raises(PackError, match=message):
        Pack.open(tmp_path / "am.safetensors")


def test_a_truncated_pack(pack, tmp_path):
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
        pytest.param(lambda values: {**values, "tensors": {}}, "its tensors do not match its metadata", id="tensors"),
        pytest.param(
            lambda values: {**values, "cleaning": [{"name": "telepathy", "version": 1}]}, "telepathy", id="cleaning"
        ),
    ],
)
def test_metadata_that_was_edited(pack, change, message, tmp_path):
    edit(pack, tmp_path / "am.safetensors", change)
    with pytest.raises(PackError, match=message):
        Pack.open(tmp_path / "am.safetensors")


def test_a_packs_language_is_tokenized_with_its_own_vocabulary(mini_base, pack):
    known = load_vocabulary(mini_base / "vocab.json")
    language = pack.packed_language(known)
    ids = language.encode(TEXTS["am"])
    assert ids == pack.info.texts[TEXTS["am"]]
    assert ids[0] == pack.info.vocabulary.entries["[am]"] == known.size
    assert known.unk_id not in ids


def test_another_vocabulary(corpus, pack):
    with pytest.raises(PackError, match="is not the vocabulary of the pack's base"):
        pack.packed_language(load_vocabulary(corpus.vocab))


def test_texts_that_are_tokenized_differently(mini_base, tmp_path, caplog):
    known = load_vocabulary(mini_base / "vocab.json")
    other = make_pack(mini_base, "am", tmp_path / "other.safetensors", change=with_num2words("0.4.0"))
    other.packed_language(known)
    assert "sample texts are tokenized differently than in training (1 of 1;" in caplog.text
    assert "install num2words==0.4.0" in caplog.text
    same = make_pack(mini_base, "am", tmp_path / "same.safetensors", change=with_num2words(version("num2words")))
    with pytest.raises(PackError, match="which cleans text differently"):
        same.packed_language(known)


def test_num2words_is_not_blamed_for_a_text_without_a_number(mini_base, tmp_path):
    known = load_vocabulary(mini_base / "vocab.json")

    def change(info):
        return replace(info, num2words="0.4.0", texts={"ሰላም": [0]})

    with pytest.raises(PackError, match="which cleans text differently"):
        make_pack(mini_base, "am", tmp_path / "am.safetensors", change=change).packed_language(known)


def test_other_users_may_read_a_pack(pack):
    assert pack.path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_entries_between_those_of_the_base_cannot_be_packed(mini_base):
    known = load_vocabulary(mini_base / "vocab.json")
    extended = parse_vocabulary(append_entries(known, ["[am]"], ["ሰ"], []), mini_base / "vocab.json")
    moved = json.loads(extended.content)
    moved["model"]["merges"] = moved["model"]["merges"][1:] + moved["model"]["merges"][:1]
    other = parse_vocabulary(json.dumps(moved), mini_base / "vocab.json")
    assert PackedVocabulary.between(known, extended).entries == {"[am]": known.size, "ሰ": known.size + 1}
    with pytest.raises(PackError, match="does more than append entries and merges to .*vocab.json"):
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
    """A base saved in another format has the same digests."""
    weights = base_weights(mini_base)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    assert digests(load_file(tmp_path / "model.safetensors")) == digests(weights)


def test_errors_exit_with_code_2():
    assert PackError.exit_code == LanguageError.exit_code == 2
