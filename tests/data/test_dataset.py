from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from samples import make_sample
from torch import Tensor
from torch.utils.data import DataLoader

from xtts_extend.data.audio import load_audio
from xtts_extend.data.dataset import UtteranceDataset
from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError, DataError

SAMPLE_RATE = 22050
MIN_LENGTH, MAX_LENGTH = 11025, 33075


@pytest.fixture(scope="module")
def stock() -> Iterator[ModuleType]:
    """The module of XTTSDataset, with our `load_audio`, because torchaudio needs FFmpeg.

    Importing it sets torch to one thread, which is undone here.
    """
    threads = torch.get_num_threads()
    module = importlib.import_module("TTS.tts.layers.xtts.trainer.dataset")
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_audio", load_audio)
        yield module


@pytest.fixture
def samples(tmp_path: Path, write_voice) -> list[Sample]:
    """Samples in two languages, with recordings shorter and longer than a slice, one at a different rate."""
    texts = ["The first.", "Zweitens, ö", "a third one", "fourth", "the fifth", "sixth"]
    seconds = [0.6, 0.99, 1.0, 1.2, 2.5, 3.0]
    return [
        make_sample(
            text,
            audio_file=str(
                write_voice(tmp_path / f"{i}.wav", seconds[i], rate=44100 if i == 4 else SAMPLE_RATE, seed=i)
            ),
            language="de" if i == 1 else "en",
            manifest_audio_file=f"{i}.wav",
        )
        for i, text in enumerate(texts)
    ]


def make(samples, tokenizer, *, is_eval: bool = False, use_masking: bool = True, seed: int = 7) -> UtteranceDataset:
    return UtteranceDataset(
        samples,
        tokenizer,
        sample_rate=SAMPLE_RATE,
        min_conditioning_length=MIN_LENGTH,
        max_conditioning_length=MAX_LENGTH,
        seed=seed,
        is_eval=is_eval,
        use_masking=use_masking,
    )


def make_stock(stock: ModuleType, samples, tokenizer, use_masking: bool) -> Any:
    args = SimpleNamespace(
        debug_loading_failures=False,
        max_conditioning_length=MAX_LENGTH,
        min_conditioning_length=MIN_LENGTH,
        max_wav_length=10**6,
        max_text_length=200,
        gpt_use_masking_gt_prompt_approach=use_masking,
    )
    config = SimpleNamespace(model_args=args, training_seed=1)
    return stock.XTTSDataset(config, [sample.to_coqui() for sample in samples], tokenizer, SAMPLE_RATE, is_eval=True)


#: Keys of items that XTTSDataset does not have, with their values for a sample that is neither encoded nor replayed.
ITEM = {"replay": False, "codes": None, "distribution": None}
#: Keys of batches that XTTSDataset does not have.
BATCH = {"replay", "is_encoded", "codes", "has_distribution", "top_ids", "top_log_probs"}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        if isinstance(value, Tensor):
            assert ours[key].dtype == value.dtype, key
            assert ours[key].shape == value.shape, key
            if value.isnan().any():
                assert ours[key].isnan().all(), key
            else:
                assert torch.equal(ours[key], value), key
        elif isinstance(value, list) and isinstance(value[0], Tensor):
            assert all(torch.equal(a, b) for a, b in zip(ours[key], value, strict=True)), key
        else:
            assert ours[key] == value, key


@pytest.mark.parametrize("use_masking", [True, False])
def test_items_and_batches_equal_those_of_stock(stock, samples, tokenizer, use_masking: bool) -> None:
    samples[3] = replace(samples[3], reference_path=samples[5].audio_file)
    ours = make(samples, tokenizer, is_eval=True, use_masking=use_masking)
    theirs = make_stock(stock, samples, tokenizer, use_masking)
    assert len(ours) == len(theirs) == 6
    items = [ours[i] for i in range(6)]
    for i, item in enumerate(items):
        assert_same({key: value for key, value in item.items() if key not in {"sample", *ITEM}}, theirs[i])
        assert {key: item[key] for key in ("sample", *ITEM)} == {"sample": f"{i}.wav", **ITEM}
    batch = ours.collate_fn(items)
    assert batch.pop("samples") == [f"{i}.wav" for i in range(6)]
    own = {key: batch.pop(key) for key in BATCH}
    assert (own["codes"], own["top_ids"], own["top_log_probs"]) == (None, None, None)
    assert not (own["replay"] | own["is_encoded"] | own["has_distribution"]).any()
    assert_same(batch, theirs.collate_fn([theirs[i] for i in range(6)]))
    assert (batch["cond_lens"] is None, batch["cond_idxs"] is None) == (use_masking, not use_masking)


def test_items_of_human_speech_equal_those_of_stock(stock, tokenizer, shared_data: Path) -> None:
    names = [f"LJ001-000{i}.flac" for i in (2, 4, 8)]
    folder = shared_data / "ljspeech" / "wavs"
    speech = [
        make_sample("in being comparatively modern.", audio_file=str(folder / name), manifest_audio_file=name)
        for name in names
    ]
    ours = make(speech, tokenizer, is_eval=True)
    theirs = make_stock(stock, speech, tokenizer, True)
    for i, name in enumerate(names):
        item = ours[i]
        assert item.pop("sample") == name
        assert {key: item.pop(key) for key in ITEM} == ITEM
        assert_same(item, theirs[i])


def test_training_slices_equal_those_of_stock_with_the_same_generator(stock, samples, tokenizer, monkeypatch) -> None:
    ours = make(samples, tokenizer)
    for epoch in (0, 3):
        ours.set_epoch(epoch)
        for i, sample in enumerate(samples):
            monkeypatch.setattr(stock, "random", random.Random(f"conditioning 7 {epoch} {i}"))
            conditioning, _, position = stock.get_prompt_slice(sample.audio_file, MAX_LENGTH, MIN_LENGTH, SAMPLE_RATE)
            item = ours[i]
            assert torch.equal(item["conditioning"], conditioning.unsqueeze(1))
            assert item["cond_idxs"].tolist() == position


def test_randomness_is_a_function_of_seed_epoch_and_index(samples, tokenizer) -> None:
    def slices(seed: int, epoch: int, order: list[int]) -> list[list[int]]:
        dataset = make(samples, tokenizer, seed=seed)
        dataset.set_epoch(epoch)
        by_index = {i: dataset[i]["cond_idxs"].tolist() for i in order}
        return [by_index[i] for i in range(6)]

    first = slices(1, 0, [0, 1, 2, 3, 4, 5])
    random.seed(99)
    torch.manual_seed(99)
    assert slices(1, 0, [5, 3, 1, 0, 2, 4, 4]) == first
    assert len({str(slices(seed, epoch, list(range(6)))) for seed in (1, 2) for epoch in (0, 1)}) == 4
    # The result is the same for every PYTHONHASHSEED, process and version of Python.
    assert first == [[5614, 12229], [2991, 13905], [8274, 19299], [2564, 21726], [3628, 26721], [31819, 63724]]


def test_global_random_states_are_unchanged(samples, tokenizer) -> None:
    random.seed(5)
    torch.manual_seed(5)
    before = (random.getstate(), torch.get_rng_state())
    make(samples, tokenizer)[2]
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_each_item_reads_its_recording_once(samples, tokenizer, monkeypatch) -> None:
    reads: list[str] = []

    def counted(path, sample_rate):
        reads.append(path)
        return load_audio(path, sample_rate)

    monkeypatch.setattr("xtts_extend.data.dataset.load_audio", counted)
    dataset = make(samples, tokenizer)
    for i in range(6):
        dataset[i]
    assert reads == [sample.audio_file for sample in samples]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_loader_workers(samples, tokenizer, workers: int) -> None:
    dataset = make(samples, tokenizer)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        loader = DataLoader(dataset, batch_size=4, collate_fn=dataset.collate_fn, num_workers=workers)
        batches = list(loader)
        assert [batch["samples"] for batch in batches] == [["0.wav", "1.wav", "2.wav", "3.wav"], ["4.wav", "5.wav"]]
        assert_same(batches[0], dataset.collate_fn([dataset[i] for i in range(4)]))
        assert_same(batches[1], dataset.collate_fn([dataset[i] for i in range(4, 6)]))


def test_indices_out_of_range(samples, tokenizer) -> None:
    dataset = make(samples, tokenizer)
    assert_same(dataset[-1], dataset[5])
    with pytest.raises(IndexError):
        dataset[6]


def test_a_sample_that_fails_is_named(samples, tokenizer, write_voice) -> None:
    dataset = make(samples, tokenizer)
    Path(samples[0].audio_file).unlink()
    Path(samples[1].audio_file).write_text("no recording")
    write_voice(Path(samples[2].audio_file), seconds=0.4)
    samples[3] = replace(samples[3], text="ሰላም")
    for i, message in enumerate(["no such file", "cannot be read", "shorter than 0.5 s", "unknown token: 'ሰላም'"]):
        with pytest.raises(DataError, match=message) as caught:
            dataset[i]
        assert samples[i].audio_file in str(caught.value)
    with pytest.raises(DataError, match=r"0\.wav: no such file"):
        next(iter(DataLoader(dataset, batch_size=2, collate_fn=dataset.collate_fn, num_workers=1)))
    assert dataset[5]["sample"] == "5.wav"


def test_the_stop_token_is_rejected_in_a_text(samples, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(tokenizer, "preprocess_text", lambda text, language: text)
    samples[0] = replace(samples[0], text="stop [STOP]")
    with pytest.raises(DataError, match="contains the stop token"):
        make(samples, tokenizer)[0]


@pytest.mark.parametrize(("shortest", "longest"), [(0, 10), (20, 10), (-5, 10)])
def test_invalid_conditioning_lengths(samples, tokenizer, shortest: int, longest: int) -> None:
    with pytest.raises(ConfigError, match=f"got {shortest} and {longest} samples"):
        UtteranceDataset(
            samples,
            tokenizer,
            sample_rate=SAMPLE_RATE,
            min_conditioning_length=shortest,
            max_conditioning_length=longest,
            seed=1,
            is_eval=False,
            use_masking=True,
        )
