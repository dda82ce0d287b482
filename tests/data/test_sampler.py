from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from samples import make_sample
from torch.utils.data import DataLoader

from xtts_extend.data.sample import Sample
from xtts_extend.data.sampler import Batches, EpochBatchSampler
from xtts_extend.errors import ConfigError, DataError


def make_samples(**seconds: list[float]) -> list[Sample]:
    """Return samples of each language with these durations in seconds."""
    return [make_sample(language=language, duration_s=s) for language, durations in seconds.items() for s in durations]


def epoch_of(sampler: EpochBatchSampler, epoch: int, batch: int = 0) -> list[list[int]]:
    sampler.set_position(epoch, batch)
    return list(sampler)


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def test_an_epoch_is_a_permutation() -> None:
    sampler = EpochBatchSampler(make_samples(en=[1.0] * 7, am=[2.0] * 4), batch_size=4, seed=3)
    assert len(sampler) == 3
    orders = []
    for epoch in range(20):
        batches = epoch_of(sampler, epoch)
        assert [len(batch) for batch in batches] == [4, 4, 3]
        assert sorted(flat(batches)) == list(range(11))
        orders.append(tuple(flat(batches)))
    assert len(set(orders)) == 20


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    samples = make_samples(en=[1.0] * 8)
    random.seed(1)
    first = epoch_of(EpochBatchSampler(samples, 3, seed=5), 2)
    random.seed(2)
    torch.manual_seed(2)
    again = EpochBatchSampler(samples, 3, seed=5)
    epoch_of(again, 9)
    assert epoch_of(again, 2) == epoch_of(again, 2) == first
    assert epoch_of(EpochBatchSampler(samples, 3, seed=6), 2) != first
    # The order is the same for every PYTHONHASHSEED, process and version of Python.
    assert first == [[0, 3, 2], [1, 6, 5], [4, 7]]


def test_the_global_random_state_is_unchanged() -> None:
    state = random.getstate()
    epoch_of(EpochBatchSampler(make_samples(en=[1.0] * 8, am=[1.0]), 3, 1, {"en": 1, "am": 2.5}), 0)
    assert random.getstate() == state


@pytest.mark.parametrize("weights", [None, {"am": 2, "en": 1}])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_started_at_any_batch(weights, workers: int) -> None:
    sampler = EpochBatchSampler(make_samples(en=[1.0] * 9, am=[1.0] * 4), 3, seed=1, language_weights=weights)
    batches = epoch_of(sampler, 4)
    for batch in range(len(sampler) + 1):
        assert epoch_of(sampler, 4, batch) == batches[batch:]
        assert len(sampler) == len(batches)
    loader: DataLoader[int] = DataLoader(range(13), batch_sampler=sampler, num_workers=workers)  # type: ignore[arg-type]
    for batch in (0, 2, len(batches) - 1, len(batches)):
        sampler.set_position(4, batch)
        assert [indices.tolist() for indices in loader] == batches[batch:]
        assert len(loader) == len(batches)


def test_a_position_that_does_not_exist() -> None:
    sampler = EpochBatchSampler(make_samples(en=[1.0] * 9), 3, seed=1)
    for epoch, batch, batches in ((0, 4, 3), (0, -1, 3), (-1, 0, 0)):
        with pytest.raises(
            ConfigError, match=rf"Batch {batch} does not exist in epoch {epoch} \(number of batches: {batches}\)"
        ):
            sampler.set_position(epoch, batch)


def test_weights_are_shares_of_the_hours() -> None:
    # English has 100 s in 10 samples, Amharic 24 s in 12. For 3 : 1, Amharic is repeated 12.5 times.
    samples = make_samples(en=[10.0] * 10, am=[2.0] * 12)
    sampler = EpochBatchSampler(samples, 4, seed=1, language_weights={"am": 3, "en": 1})
    assert sampler.samples_in_epoch == 10 + 150
    drawn_extra = set()
    for epoch in range(5):
        counts = Counter(flat(epoch_of(sampler, epoch)))
        assert {counts[i] for i in range(10)} == {1}
        assert Counter(counts[i] for i in range(10, 22)) == {12: 6, 13: 6}
        seconds = {"en": 0.0, "am": 0.0}
        for index, count in counts.items():
            seconds[samples[index].language] += count * samples[index].duration_s
        assert seconds == {"en": 100.0, "am": 300.0}
        drawn_extra.add(tuple(i for i in range(10, 22) if counts[i] == 13))
    assert len(drawn_extra) > 1


def test_weights_equal_to_the_hours_repeat_nothing() -> None:
    samples = make_samples(en=[0.1] * 30, am=[0.7] * 10, sw=[1.3])
    hours = {"en": 3.0, "am": 7.0, "sw": 1.3}
    counts = Counter(flat(epoch_of(EpochBatchSampler(samples, 4, 1, hours), 0)))
    assert counts == Counter(range(41))


def test_no_weights_omit_a_sample() -> None:
    samples = make_samples(en=[3.0] * 5, am=[2.0] * 7, sw=[0.9] * 3)
    generator = random.Random(0)
    for _ in range(50):
        weights = {language: generator.uniform(0.1, 5) for language in ("en", "am", "sw")}
        sampler = EpochBatchSampler(samples, 4, 1, weights)
        batches = epoch_of(sampler, 0)
        assert set(flat(batches)) == set(range(15))
        assert len(batches) == len(sampler) == math.ceil(sampler.samples_in_epoch / 4)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"am": 1}, "language weights are for am, but the samples are in am, en"),
        ({"am": 1, "en": 1, "sw": 1}, "weights are for am, en, sw, but"),
        ({}, "weights are for no language, but"),
        ({"am": 0, "en": 1}, "Expected a positive language weight for am, got 0"),
        ({"am": 1, "en": -2.5}, "weight for en, got -2.5"),
        ({"am": math.nan, "en": 1}, "weight for am, got nan"),
        ({"am": math.inf, "en": 1}, "weight for am, got inf"),
    ],
)
def test_invalid_weights(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EpochBatchSampler(make_samples(en=[1.0], am=[1.0]), 1, 1, weights)


def test_other_invalid_input() -> None:
    with pytest.raises(DataError, match="There are no samples"):
        EpochBatchSampler([], 4, 1)
    with pytest.raises(ConfigError, match="Expected a batch size of 1 or more, got 0"):
        EpochBatchSampler(make_samples(en=[1.0]), 0, 1)
    with pytest.raises(DataError, match=r"samples in am have a total duration of 0\.0 s"):
        EpochBatchSampler(make_samples(en=[1.0], am=[0.0]), 1, 1, {"am": 1, "en": 1})


def replayed(**seconds: list[float]) -> list[Sample]:
    return [replace(sample, replay=True) for sample in make_samples(**seconds)]


def with_replay(own: int, **old: int):
    """Return samples of the new language, and replay samples of old languages by their codes."""
    return make_samples(am=[1.0] * own) + replayed(**{code: [1.0] * count for code, count in old.items()})


@pytest.mark.parametrize("share", [0.05, 0.25, 1 / 3, 0.5, 0.8])
def test_replay_is_spread_evenly_and_other_samples_come_once(share) -> None:
    samples = with_replay(60, en=7, fr=30)
    sampler = EpochBatchSampler(samples, 6, seed=1, replay_share=share)
    order = [index for batch in sampler for index in batch]
    is_replay = [index >= 60 for index in order]
    assert sorted(index for index in order if index < 60) == list(range(60))
    assert sum(is_replay) == round(60 * share / (1 - share))
    for batch in list(sampler)[:-1]:
        assert abs(sum(index >= 60 for index in batch) - 6 * share) <= 1


def test_replay_languages_take_turns_and_continue_in_the_next_epoch() -> None:
    samples = with_replay(20, en=3, fr=8)
    sampler = EpochBatchSampler(samples, 4, seed=5, replay_share=0.5)
    replay: list[int] = []
    for epoch in range(6):
        sampler.set_position(epoch)
        old = [index for batch in sampler for index in batch if index >= 20]
        languages = Counter(samples[index].language for index in old)
        assert languages == {"en": 10, "fr": 10}
        replay += old
    counts = Counter(replay)
    # 60 samples per language: 20 passes of English, 7.5 of French.
    assert {counts[index] for index in range(20, 23)} == {20}
    assert {counts[index] for index in range(23, 31)} == {7, 8}


def test_replay_can_be_started_at_any_batch_and_is_split_among_processes() -> None:
    samples = with_replay(21, en=5)
    sampler = EpochBatchSampler(samples, 6, seed=2, replay_share=0.3)
    sampler.set_position(3)
    batches = list(sampler)
    for rank in range(2):
        part = EpochBatchSampler(samples, 6, seed=2, replay_share=0.3, rank=rank, ranks=2)
        part.set_position(3, 2)
        assert list(part) == [batch[: -(-len(batch) // 2)] if rank == 0 else batch[-(-len(batch) // 2) :]
                              for batch in batches[2:]]  # fmt: skip


def test_invalid_replay() -> None:
    with pytest.raises(DataError, match="no samples in old languages"):
        EpochBatchSampler(with_replay(10), 4, seed=1, replay_share=0.5)
    with pytest.raises(DataError, match="There are no samples to draw"):
        EpochBatchSampler(with_replay(0, en=4), 4, seed=1, replay_share=0.5)
    with pytest.raises(ConfigError, match="less than 1"):
        EpochBatchSampler(with_replay(10, en=4), 4, seed=1, replay_share=1.0)


def frames_of(samples) -> list[int]:
    """Return lengths like those of LJ Speech: 1 to 10 s, mostly 5 to 9 s."""
    generator = random.Random(3)
    return [40 + round(min(217, max(24, generator.gauss(143, 47)))) for _ in samples]


def test_batches_by_length_respect_the_budget_and_omit_nothing() -> None:
    samples = make_samples(en=[1.0] * 500)
    frames = frames_of(samples)
    sampler = EpochBatchSampler(samples, None, seed=1, batch_frames=3000, frames=frames)
    sampler.set_position(0)
    batches = sampler.batches()
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    assert max(len(batch) * max(frames[index] for index in batch) for batch in batches) <= 3000
    assert batches.padding_share(frames) < 0.08
    # Stock coqui-tts batches samples in the order in which they are drawn.
    size = round(500 / len(batches))
    stock = EpochBatchSampler(samples, size, seed=1).batches()
    assert stock.padding_share(frames) > 0.2
    sampler.set_position(1)
    assert list(sampler.batches()) != list(batches)
    assert {frozenset(batch) for batch in sampler.batches()} != {frozenset(batch) for batch in batches}


def test_batches_by_length_can_be_started_at_any_batch() -> None:
    samples = make_samples(en=[1.0] * 60, am=[1.0] * 30)
    frames = frames_of(samples)

    def make_sampler(rank: int = 0, ranks: int = 1) -> EpochBatchSampler:
        sampler = EpochBatchSampler(
            samples, None, seed=1, batch_frames=900, frames=frames, rank=rank, ranks=ranks,
            language_weights={"en": 1, "am": 1},
        )  # fmt: skip
        sampler.set_position(2)
        return sampler

    batches = list(make_sampler())
    assert len(batches) == len(make_sampler())
    part = make_sampler()
    part.set_position(2, 5)
    assert list(part) == batches[5:]
    parts = [list(make_sampler(rank, 2)) for rank in range(2)]
    joined = [first + second for first, second in zip(*parts, strict=True)]
    assert [batch for batch in joined if len(set(batch)) > 1] == [batch for batch in batches if len(batch) > 1]


def test_replay_has_its_share_of_an_epoch_with_batches_by_length() -> None:
    samples = make_samples(am=[1.0] * 60) + replayed(en=[1.0] * 20)
    frames = frames_of(samples)
    sampler = EpochBatchSampler(samples, None, seed=1, batch_frames=900, frames=frames, replay_share=0.25)
    sampler.set_position(0)
    order = [index for batch in sampler.batches() for index in batch]
    assert sorted(index for index in order if index < 60) == list(range(60))
    assert sorted(index for index in order if index >= 60) == list(range(60, 80))


def test_a_sample_larger_than_the_budget_is_named() -> None:
    samples = [
        replace(sample, manifest_audio_file=f"{number}.wav") for number, sample in enumerate(make_samples(en=[1.0] * 3))
    ]
    with pytest.raises(ConfigError, match=r"1\.wav alone has 91 frames, but --batch-frames is 90"):
        EpochBatchSampler(samples, None, seed=1, batch_frames=90, frames=[50, 91, 60])


def test_padding_extends_to_the_longest_sample_of_each_batch() -> None:
    # The batches have 2 × 3 + 1 × 4 positions for 3 + 1 + 4 frames.
    assert Batches.of([[0, 1], [2]]).padding_share([3, 1, 4]) == 1 - 8 / 10


def test_batches_are_a_sequence_of_lists() -> None:
    batches = Batches.of([[5, 3], [1], [4, 0, 2]])
    assert list(batches) == [[5, 3], [1], [4, 0, 2]]
    assert (batches[-1], batches[1:]) == ([4, 0, 2], [[1], [4, 0, 2]])
    assert type(batches[0][0]) is int
    with pytest.raises(IndexError):
        batches[3]


def test_resumed_runs_of_earlier_releases_find_the_same_batches() -> None:
    """The digest is that of the sampler whose epochs were lists of lists."""
    samples = make_samples(en=[1.0] * 300, am=[2.5] * 100) + replayed(de=[1.0] * 20, fr=[1.0] * 30)
    frames, digest = frames_of(samples), hashlib.sha256()
    for size, budget in ((7, None), (None, 1500)):
        for weights in (None, {"am": 3, "en": 1}):
            sampler = EpochBatchSampler(samples, size, 5, weights, 1, 2, 0.2, budget, frames)
            digest.update(repr([epoch_of(sampler, 3, 4), len(sampler)]).encode())
    assert digest.hexdigest()[:16] == "8a9ebf3971b271a7"
