"""Encoded utterances: writing and reading, damage, and batches that mix them with recordings."""

import json
from dataclasses import replace

import pytest
import torch
from samples import make_sample

import xtts_extend
from xtts_extend.data.audio import load_audio, save_wav
from xtts_extend.data.dataset import UtteranceDataset
from xtts_extend.data.encoded import TOP_K, Utterance, is_encoded_set, read_encoded, read_index, write_index, write_part
from xtts_extend.errors import DataError
from xtts_extend.text.tokenizer import load_tokenizer

RATE = 22050


def utterance(codes: int, language: str = "en", **fields) -> Utterance:
    generator = torch.Generator().manual_seed(codes)
    return Utterance(
        f"Hello {codes}", language, "voice ሀ.wav", torch.randint(1024, (codes,), generator=generator), **fields
    )


def distribution(codes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(codes)
    ids = torch.randint(1026, (codes + 1, TOP_K), generator=generator)
    # float16 represents these exactly.
    return ids, -torch.randint(1, 40, (codes + 1, TOP_K), generator=generator) / 4


@pytest.fixture
def folder(tmp_path):
    """A set of two parts: one has slices and distributions, and the other has neither."""
    folder = tmp_path / "set ሁለት"
    folder.mkdir()
    save_wav(folder / "voice ሀ.wav", torch.linspace(-0.5, 0.5, RATE), RATE)
    first = [
        utterance(20, conditioning_slice=(100, 6100), distribution=distribution(20)),
        utterance(30, "es", conditioning_slice=(0, 4000), distribution=distribution(30)),
    ]
    parts = [write_part(folder, 0, first), write_part(folder, 1, [utterance(25)])]
    write_index(folder, {"parts": parts, "seed": 7})
    return folder


def test_a_set_is_read_as_written(folder):
    assert is_encoded_set(folder)
    assert not is_encoded_set(folder.parent)
    assert read_index(folder)["seed"] == 7
    samples = read_encoded(folder, 1024, RATE)
    assert [(sample.text, sample.language) for sample in samples] == [
        ("Hello 20", "en"),
        ("Hello 30", "es"),
        ("Hello 25", "en"),
    ]
    assert [sample.encoded.wav_length for sample in samples] == [20 * 1024, 30 * 1024, 25 * 1024]
    assert [sample.conditioning_slice for sample in samples] == [(100, 6100), (0, 4000), None]
    assert [sample.encoded.has_distribution for sample in samples] == [True, True, False]
    for sample, count in zip(samples, (20, 30, 25), strict=True):
        assert torch.equal(sample.encoded.codes(), utterance(count).codes)
    for sample, count in zip(samples[:2], (20, 30), strict=True):
        for read, written in zip(sample.encoded.distribution(), distribution(count), strict=True):
            assert torch.equal(read, written.to(read.dtype))
    assert samples[2].encoded.distribution() is None


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damage_is_named(folder, damage):
    part = folder / "part-00001.arrow"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flipped": lambda: part.write_bytes(content),
        "truncated": lambda: part.write_bytes(content[:-100]),
        "missing": part.unlink,
    }[damage]()
    with pytest.raises(DataError, match=r"part-00001\.arrow is missing or damaged"):
        read_encoded(folder, 1024, RATE)


def test_invalid_indexes(folder):
    (folder / "set.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"set\.json is damaged"):
        read_index(folder)
    (folder / "set.json").write_text(json.dumps({"version": 9, "parts": []}), encoding="utf-8")
    with pytest.raises(DataError, match="is version 9, but this release reads version 2"):
        read_index(folder)
    write_index(folder, {"parts": []})
    with pytest.raises(DataError, match="contains no utterances yet"):
        read_encoded(folder, 1024, RATE)


@pytest.fixture
def dataset(folder, mini_base):
    xtts_extend.enable()
    save_wav(folder / "recording.wav", torch.linspace(-0.2, 0.2, 2 * RATE), RATE)
    recorded = make_sample("Hello", audio_file=str(folder / "recording.wav"), manifest_audio_file="recording.wav")
    samples = [recorded, *(replace(sample, replay=True) for sample in read_encoded(folder, 1024, RATE))]
    return UtteranceDataset(
        samples,
        load_tokenizer(mini_base / "vocab.json"),
        sample_rate=RATE,
        min_conditioning_length=4000,
        max_conditioning_length=8000,
        seed=1,
        is_eval=False,
        use_masking=True,
    )


def test_a_batch_of_recordings_and_codes(dataset):
    items = [dataset[index] for index in range(4)]
    assert items[1]["cond_idxs"].tolist() == [0, 0]
    # Its slice is fixed.
    voice = load_audio(dataset.samples[1].audio_file, RATE)
    assert torch.equal(items[1]["conditioning"][0, :, :6000], voice[:, 100:6100])
    assert not items[1]["conditioning"][0, 0, 6000:].any()
    start, end = items[3]["cond_idxs"].tolist()
    assert 4000 <= end - start <= 8000
    batch = dataset.collate_fn(items)
    assert batch["replay"].tolist() == batch["is_encoded"].tolist() == [False, True, True, True]
    assert batch["has_distribution"].tolist() == [False, True, True, False]
    assert batch["wav"].shape == (1, 1, 2 * RATE)
    assert batch["wav_lengths"].tolist() == [2 * RATE, 20 * 1024, 30 * 1024, 25 * 1024]
    assert batch["codes"].shape == (3, 30)
    assert torch.equal(batch["codes"][0], torch.nn.functional.pad(utterance(20).codes, (0, 10)))
    assert batch["top_ids"].shape == batch["top_log_probs"].shape == (2, 31, TOP_K)
    assert torch.equal(batch["top_ids"][1], distribution(30)[0])


def test_a_slice_beyond_the_recording(dataset):
    dataset.samples[1] = replace(dataset.samples[1], conditioning_slice=(RATE - 1000, RATE + 1000))
    with pytest.raises(DataError, match="ends before sample 23,050 at 22,050 Hz"):
        dataset[1]
