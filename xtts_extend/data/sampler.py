"""The order of the batches: a function of (seed, epoch), so that a resume needs only the epoch and the batch."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from torch.utils.data import Sampler

from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError, DataError

#: Lengths are sorted as if each were up to so much shorter or longer: neighbours change from epoch to epoch.
_LENGTH_JITTER = 0.05


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of sample indices.

    By count: `batch_size` samples each, the last one of an epoch may have fewer. By length, with `batch_frames`:
    samples of about the same length together, as many as the budget holds with their padding; which ones come together,
    and when, is another draw in every epoch.

    By default an epoch is a permutation of the samples: every sample once, the languages mixed by what there is of
    them. With `language_weights`, the languages' shares of an epoch's hours follow the weights: a language that has too
    little is repeated, in whole passes and a draw without replacement for the rest, and no sample is left out. The
    shares are exact but for rounding to a whole utterance, and but for which utterances the draw hits.

    Samples marked `replay` are of old languages, which are to be kept: they do not make an epoch, they come between the
    others, evenly, so many that they are `replay_share` of all. Their languages take turns, each in permutations of its
    own that go on from epoch to epoch.
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
        """Plan the epochs.

        Args:
            samples: With `language`, and with `duration_s` where weights are given.
            batch_size: Samples per batch, of all processes together; None with `batch_frames`.
            seed: Of the permutations.
            language_weights: Positive shares of the audio hours, for exactly the languages of the samples that are no
                replay; they need not sum to 1.
            rank, ranks: This process, of how many: the iteration gives its share of each batch.
            replay_share: Share of the samples that are replay, from 0 up to, but not, 1. By count, the share holds in
                every stretch of an epoch; by length, in the epoch.
            batch_frames: The budget of a batch of all processes together: its samples × the longest one's frames.
            frames: Of each sample, with `batch_frames`.

        Raises:
            ConfigError: The batch size is not positive, a sample is larger than the budget, or the weights do not fit
                the languages.
            DataError: There are no samples, or there is replay to do and nothing to replay.
        """
        if not any(not sample.replay for sample in samples):
            raise DataError("no samples to draw batches from")
        if not 0 <= replay_share < 1:
            raise ConfigError(f"replay share {replay_share}; expected at least 0 and less than 1")
        if batch_frames is None and (batch_size is None or batch_size < 1):
            raise ConfigError(f"batch size {batch_size}; expected 1 or more")
        self.batch_size = batch_size
        self.batch_frames = batch_frames
        self._frames = frames or []
        if batch_frames is not None and (largest := max(self._frames, default=0)) > batch_frames:
            name = samples[self._frames.index(largest)].manifest_audio_file
            raise ConfigError(
                f"--batch-frames {batch_frames}: {name} alone has {largest} frames. Give more, or leave it out with "
                "--coqpit.model_args.max_wav_length."
            )
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self._start = (0, 0)
        self._batches: list[list[int]] = []
        indices: dict[str, list[int]] = defaultdict(list)
        replay: dict[str, list[int]] = defaultdict(list)
        for index, sample in enumerate(samples):
            (replay if sample.replay else indices)[sample.language].append(index)
        repeats = dict.fromkeys(indices, 1.0)
        if language_weights is not None:
            seconds = {language: sum(samples[i].duration_s for i in indices[language]) for language in indices}
            repeats = _repeats(seconds, language_weights)
        # Of each language: its samples, how often all of them come in an epoch, and how many come once more.
        self._parts: list[tuple[list[int], int, int]] = []
        for language in sorted(indices):
            whole = math.floor(repeats[language])
            extra = round((repeats[language] - whole) * len(indices[language]))
            self._parts.append((indices[language], whole, extra))
        own = sum(len(part) * whole + extra for part, whole, extra in self._parts)
        self._replay = [replay[language] for language in sorted(replay)]
        self._replayed = round(own * replay_share / (1 - replay_share))
        if self._replayed and not self._replay:
            raise DataError(f"a share of {replay_share:g} is to be replay, and there are no samples of old languages")
        self.samples_in_epoch = own + self._replayed

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Make the next iterations begin at a batch (counted from 0) of an epoch.

        `batch` may be the number of batches in an epoch: nothing of it is left then.

        Raises:
            ConfigError: There is no such place.
        """
        batches = self._epoch_batches(epoch) if epoch >= 0 else []
        if epoch < 0 or not 0 <= batch <= len(batches):
            raise ConfigError(
                f"no batch {batch} in epoch {epoch}, which has {len(batches)}; have the data, the batch size or the "
                "language weights changed?"
            )
        self._start = (epoch, batch)
        self._batches = batches

    def __len__(self) -> int:
        """Batches in the whole epoch that `set_position` chose, wherever the iteration begins."""
        return len(self.batches())

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self._start[1], len(self)):
            whole = self.batch(number)
            size, larger = divmod(len(whole), self.ranks)
            start = self.rank * size + min(self.rank, larger)
            # a process without a share runs one sample all the same, to keep step with the others
            yield whole[start : start + size + (self.rank < larger)] or whole[:1]

    def batch(self, number: int) -> list[int]:
        """All samples of a batch of the epoch that `set_position` chose, whichever process they go to."""
        return self.batches()[number]

    def batches(self) -> list[list[int]]:
        """All batches of the epoch that `set_position` chose."""
        if not self._batches:
            self._batches = self._epoch_batches(self._start[0])
        return self._batches

    def _epoch_batches(self, epoch: int) -> list[list[int]]:
        order = self._epoch_order(epoch)
        # within a batch no place is a fixed one: coqui treats a batch's last sample unlike the others
        generator = random.Random(f"batches {self.seed} {epoch}")
        if self.batch_frames is None:
            size = cast(int, self.batch_size)
            batches = [order[start : start + size] for start in range(0, len(order), size)]
            return [generator.sample(batch, len(batch)) for batch in batches] if self._replayed else batches
        near = [self._frames[index] * generator.uniform(1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER) for index in order]
        batches, longest = [[]], 0
        for place in sorted(range(len(order)), key=near.__getitem__):
            index = order[place]
            longest = max(longest, self._frames[index])
            if (len(batches[-1]) + 1) * longest > self.batch_frames:
                batches.append([])
                longest = self._frames[index]
            batches[-1].append(index)
        generator.shuffle(batches)
        return [generator.sample(batch, len(batch)) for batch in batches]

    def _epoch_order(self, epoch: int) -> list[int]:
        # A string seeds through SHA-512: the same in every process, whatever PYTHONHASHSEED is.
        generator = random.Random(f"order {self.seed} {epoch}")
        order = []
        for part, whole, extra in self._parts:
            order += part * whole + generator.sample(part, extra)
        generator.shuffle(order)
        if not self._replayed:
            return order
        total, replayed = self.samples_in_epoch, self._replayed
        replay, own = iter(self._epoch_replay(epoch)), iter(order)
        # evenly: after any number of places, the share of replay among them is right to within one sample
        return [
            next(replay if (place + 1) * replayed // total > place * replayed // total else own)
            for place in range(total)
        ]

    def _epoch_replay(self, epoch: int) -> list[int]:
        """Old samples of an epoch: of the endless sequence of all epochs, the part that is its own."""
        found = []
        permutations: dict[tuple[int, int], list[int]] = {}
        for place in range(epoch * self._replayed, (epoch + 1) * self._replayed):
            turn, language = divmod(place, len(self._replay))
            part = self._replay[language]
            cycle, number = divmod(turn, len(part))
            if (language, cycle) not in permutations:
                generator = random.Random(f"replay {self.seed} {language} {cycle}")
                permutations[language, cycle] = generator.sample(part, len(part))
            found.append(permutations[language, cycle][number])
        return found


def _repeats(seconds: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """How often each language comes in an epoch, at least once, so that its share of the audio is its weight's."""
    if set(weights) != set(seconds):
        raise ConfigError(
            f"language weights for {', '.join(sorted(weights)) or 'no language'}, but the samples are in "
            f"{', '.join(sorted(seconds))}; give one weight for each of these"
        )
    for language, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"language weight {weight} for {language}; expected a positive number")
        if not seconds[language] > 0:
            raise DataError(f"the samples in {language} last {seconds[language]} s in total; weights need durations")
    # The language that has the most, measured by its weight, comes once; the others are repeated up to it.
    most = max(seconds[language] / weights[language] for language in weights)
    return {language: most * weight / seconds[language] for language, weight in weights.items()}


def padding_share(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Share of the places of some batches that are padding.

    Args:
        batches: Of sample indices.
        lengths: Of each sample.
    """
    filled = sum(lengths[index] for batch in batches for index in batch)
    places = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - filled / places
