"""Determine the order of batches from (seed, epoch) alone, so that resuming needs only the epoch and the batch."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import cast, overload

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import values
from xtts_extend.errors import ConfigError, DataError

#: Sample indices. With a million samples, a list of Python integers would be ten times as large.
Indices = npt.NDArray[np.int32]
#: Samples are sorted by length with a random error of at most this share, so that each epoch has different batches.
_LENGTH_JITTER = 0.05


class Batches(Sequence[list[int]]):
    """The batches of an epoch, stored as one array of sample indices.

    Args:
        order: Sample indices of all batches, one batch after the other, int32 [samples].
        starts: Position in `order` at which each batch starts, int64 [batches].
    """

    def __init__(self, order: Indices, starts: npt.NDArray[np.int64]) -> None:
        self._order, self._starts = order, starts

    @classmethod
    def of(cls, batches: Sequence[Sequence[int]]) -> Batches:
        """Store lists of sample indices. No batch may be empty."""
        sizes = np.fromiter(map(len, batches), np.int64, len(batches))
        order = np.fromiter((index for batch in batches for index in batch), np.int32, int(sizes.sum()))
        return cls(order, np.cumsum(sizes) - sizes)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, number: int) -> list[int]: ...

    @overload
    def __getitem__(self, number: slice) -> list[list[int]]: ...

    def __getitem__(self, number: int | slice) -> list[int] | list[list[int]]:
        if isinstance(number, slice):
            return [self[position] for position in range(len(self))[number]]
        number = range(len(self))[number]
        end = self._starts[number + 1] if number + 1 < len(self) else len(self._order)
        return cast(list[int], self._order[self._starts[number] : end].tolist())

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Return the share of the batches' total size that is padding, given the length of each sample."""
        in_order = np.asarray(lengths, np.int64)[self._order]
        sizes = np.diff(self._starts, append=len(self._order))
        padded = (np.maximum.reduceat(in_order, self._starts) * sizes).sum()
        return 1 - float(in_order.sum() / padded)


class EpochBatchSampler(Sampler[list[int]]):
    """A sampler that yields batches of sample indices.

    With `batch_size`, each batch has this many samples, but the last one of an epoch may have fewer. With
    `batch_frames`, a batch has samples of similar length, as many as fit into the budget, including padding. These
    batches and their order are redrawn in each epoch.

    By default, an epoch is a permutation of the samples. With `language_weights`, each language's share of the hours in
    an epoch follows its weight. A language that has too few hours is repeated, in full passes plus a random subset for
    the remainder. No sample is omitted. The shares are exact except for rounding to whole utterances and the varying
    lengths of the utterances in the subset.

    Samples marked `replay` are in old languages that the model should keep. They are spread evenly among the others and
    make up `replay_share` of all samples. Their languages take turns. Each language goes through its samples in random
    order and continues in the next epoch where it left off.

    >>> samples = [Sample(text=name, audio_file=name, language="am", manifest_audio_file=name) for name in "abcdefg"]
    >>> sampler = EpochBatchSampler(samples, batch_size=3, seed=1)
    >>> [len(batch) for batch in sampler]
    [3, 3, 1]
    >>> sampler.set_position(epoch=4, batch=2)
    >>> [len(batch) for batch in sampler]
    [1]
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        batch_size: int | None,
        seed: int,
        language_weights: Mapping[str, float] | None = None,
        rank: int = 0,
        ranks: int = 1,
        replay_share: float = 0.0,
        batch_frames: int | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        """Create a sampler and plan its epochs.

        Args:
            samples: Samples to draw from. If `language_weights` is set, they need `duration_s`.
            batch_size: Number of samples per batch, in all processes together. None if `batch_frames` is set.
            seed: Seed that determines the order.
            language_weights: Mapping from language to its share of the audio hours, for each language in the samples
                that are not replayed. Weights are positive and need not sum to 1.
            rank, ranks: Rank of this process and the number of processes. Iterating yields this process's part of each
                batch.
            replay_share: Share of replay samples, from 0 to less than 1. With `batch_size`, the share holds in every
                part of an epoch; with `batch_frames`, only in the epoch as a whole.
            batch_frames: Maximum size of a batch in all processes together: the number of samples times the number of
                frames in the longest one.
            frames: Number of frames in each sample; required if `batch_frames` is set.

        Raises:
            ConfigError: The batch size is not positive, a sample exceeds the budget, or the weights do not match the
                languages.
            DataError: There are no samples, or the replay share is positive but there are no replay samples.
        """
        if not 0 <= replay_share < 1:
            raise ConfigError(f"Expected a replay share of at least 0 and less than 1, got {replay_share}.")
        if batch_frames is None and (batch_size is None or batch_size < 1):
            raise ConfigError(f"Expected a batch size of 1 or more, got {batch_size}.")
        self.batch_size = batch_size
        self.batch_frames = batch_frames
        self._frames = np.asarray([] if frames is None else frames, np.int32)
        if batch_frames is not None and (largest := self._frames.max(initial=0)) > batch_frames:
            name = samples[int(self._frames.argmax())].manifest_audio_file
            raise ConfigError(
                f"{name} alone has {largest} frames, but --batch-frames is {batch_frames}. Raise --batch-frames, or "
                "exclude the sample with --coqpit.model_args.max_wav_length."
            )
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self._start = (0, 0)
        self._batches = Batches.of([])
        members: dict[tuple[bool, str], list[int]] = defaultdict(list)
        durations: dict[str, list[float]] = defaultdict(list)
        columns = (values(samples, name) for name in ("replay", "language", "duration_s"))
        for index, (is_replayed, language, duration_s) in enumerate(zip(*columns, strict=True)):
            members[is_replayed, language].append(index)
            if not is_replayed:
                durations[language].append(duration_s)
        if not durations:
            raise DataError("There are no samples to draw batches from.")
        repeats = dict.fromkeys(durations, 1.0)
        if language_weights is not None:
            seconds = {language: sum(spoken) for language, spoken in durations.items()}
            repeats = _repeats(seconds, language_weights)
        # For each language: its samples, the number of full passes in an epoch, and the number of extra samples drawn.
        self._passes: list[tuple[Indices, int, int]] = []
        for language in sorted(durations):
            indices = np.asarray(members[False, language], np.int32)
            full = math.floor(repeats[language])
            self._passes.append((indices, full, round((repeats[language] - full) * len(indices))))
        own = sum(len(members) * full + extra for members, full, extra in self._passes)
        replayed = sorted(language for is_replayed, language in members if is_replayed)
        self._replay = [np.asarray(members[True, language], np.int32) for language in replayed]
        self._replayed = round(own * replay_share / (1 - replay_share))
        if self._replayed and not self._replay:
            raise DataError(f"The replay share is {replay_share:g}, but there are no samples in old languages.")
        self.samples_in_epoch = own + self._replayed

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Make iteration start at the given batch of an epoch.

        Args:
            epoch: Epoch index, starting at 0.
            batch: Batch index, starting at 0. If it equals the number of batches, the position is the end of the epoch.

        Raises:
            ConfigError: The position does not exist.
        """
        batches = self._epoch_batches(epoch) if epoch >= 0 else Batches.of([])
        if epoch < 0 or not 0 <= batch <= len(batches):
            raise ConfigError(
                f"Batch {batch} does not exist in epoch {epoch} (number of batches: {len(batches)}). Check whether the "
                "data, the batch size or the language weights have changed."
            )
        self._start = (epoch, batch)
        self._batches = batches

    def __len__(self) -> int:
        """Return the number of batches in the current epoch (see `set_position`), no matter where iteration starts."""
        return len(self.batches())

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self._start[1], len(self)):
            batch = self.batch(number)
            size, larger = divmod(len(batch), self.ranks)
            start = self.rank * size + min(self.rank, larger)
            # A process without a sample processes the batch's first one, to stay in sync with the others.
            yield batch[start : start + size + (self.rank < larger)] or batch[:1]

    def batch(self, number: int) -> list[int]:
        """Return a batch of the current epoch (see `set_position`), with the samples for all processes."""
        return self.batches()[number]

    def batches(self) -> Batches:
        """Return all batches of the current epoch (see `set_position`), with the samples for all processes."""
        if not self._batches:
            self._batches = self._epoch_batches(self._start[0])
        return self._batches

    def _epoch_batches(self, epoch: int) -> Batches:
        # Python's generator draws the order, because its algorithms are the same in every version and on every machine.
        order = self._epoch_order(epoch)
        # Samples are shuffled within batches, too, because coqui treats the last sample of a batch differently.
        generator = random.Random(f"batches {self.seed} {epoch}")
        if self.batch_frames is None:
            size = cast(int, self.batch_size)
            starts = np.arange(0, len(order), size)
            if not self._replayed:
                return Batches(np.asarray(order, np.int32), starts)
            batches = [order[start : start + size] for start in starts.tolist()]
            return Batches.of([generator.sample(batch, len(batch)) for batch in batches])
        frames = self._frames[order]
        jitter = [generator.uniform(1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER) for _ in order]
        batches, longest = [[]], 0
        # The sort is stable, like Python's.
        for position in np.argsort(frames * np.asarray(jitter), kind="stable").tolist():
            count = int(frames[position])
            longest = max(longest, count)
            if (len(batches[-1]) + 1) * longest > self.batch_frames:
                batches.append([])
                longest = count
            batches[-1].append(order[position])
        generator.shuffle(batches)
        return Batches.of([generator.sample(batch, len(batch)) for batch in batches])

    def _epoch_order(self, epoch: int) -> list[int]:
        # Python hashes a string seed with SHA-512, so PYTHONHASHSEED has no effect.
        generator = random.Random(f"order {self.seed} {epoch}")
        order: list[int] = []
        for indices, full, extra in self._passes:
            members = indices.tolist()
            order += members * full + generator.sample(members, extra)
        generator.shuffle(order)
        if not self._replayed:
            return order
        total, replayed = self.samples_in_epoch, self._replayed
        replay, own = iter(self._epoch_replay(epoch)), iter(order)
        # At any point in the epoch, the number of replay samples is correct to within one.
        return [
            next(replay if (position + 1) * replayed // total > position * replayed // total else own)
            for position in range(total)
        ]

    def _epoch_replay(self, epoch: int) -> list[int]:
        """Return an epoch's replay samples, continuing where the previous epoch left off."""
        replay = []
        permutations: dict[tuple[int, int], list[int]] = {}
        for position in range(epoch * self._replayed, (epoch + 1) * self._replayed):
            turn, language = divmod(position, len(self._replay))
            members = self._replay[language]
            cycle, number = divmod(turn, len(members))
            if (language, cycle) not in permutations:
                generator = random.Random(f"replay {self.seed} {language} {cycle}")
                permutations[language, cycle] = generator.sample(members.tolist(), len(members))
            replay.append(permutations[language, cycle][number])
        return replay


def _repeats(seconds: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Return how many times an epoch must repeat each language for the shares of audio to match the weights.

    Each language occurs at least once.

    Args:
        seconds: Mapping from language to seconds of audio.
        weights: Mapping from language to weight.
    """
    if set(weights) != set(seconds):
        raise ConfigError(
            f"The language weights are for {', '.join(sorted(weights)) or 'no language'}, but the samples are in "
            f"{', '.join(sorted(seconds))}. Pass one weight for each language in the samples."
        )
    for language, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"Expected a positive language weight for {language}, got {weight}.")
        if not seconds[language] > 0:
            raise DataError(
                f"Language weights require known durations, but the samples in {language} have a total duration of "
                f"{seconds[language]} s."
            )
    # The language with the most audio relative to its weight occurs once, and the others are repeated to match it.
    most = max(seconds[language] / weights[language] for language in weights)
    return {language: most * weight / seconds[language] for language, weight in weights.items()}
